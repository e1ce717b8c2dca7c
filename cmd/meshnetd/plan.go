// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func podFlag(c *cobra.Command) *string {
	file := c.Flags().StringP("file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input")
	_ = c.MarkFlagRequired("file") // fails only for a flag that does not exist
	return file
}

// readPod reads the manifest; a bad one is a failure of the command, not a refused pod.
func readPod(c *cobra.Command, file string) (rules.Pod, error) {
	in := c.InOrStdin()
	if file != "-" {
		f, err := os.Open(file)
		if err != nil {
			return rules.Pod{}, &exit{exitFailed, fmt.Errorf("manifest: %w", err)}
		}
		defer f.Close()
		in = f
	}
	pod, err := manifest.Read(in)
	if err != nil {
		if file != "-" {
			err = fmt.Errorf("%s: %w", file, err)
		}
		return rules.Pod{}, &exit{exitFailed, err}
	}
	return pod, nil
}

func planCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "plan -f POD",
		Short: "Show what is decided for a pod, and the rules it gets, without touching anything",
		Long: "Needs no privileges and runs on any system. `meshnetd explain -f POD` says more: where each setting comes from, and\n" +
			"what is not captured.\n\n" +
			"Exit 0 for a plan or a pod that is left alone; 1 the manifest cannot be read; 2 wrong command line or configuration;\n" +
			"3 the pod, or a container of it, would be refused.",
		Example: "  meshnetd plan -f pod.yaml\n  kubectl get pod cart -n shop -o yaml | meshnetd plan -f - -o restore",
		Args:    cobra.NoArgs,
	}
	file, configFile := podFlag(c), configFlag(c)
	output := c.Flags().StringP("output", "o", "text", "`FORMAT`: text, restore (what iptables-restore and ip6tables-restore get) or json")
	completeWords(c, "output", "text", "restore", "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*configFile)
		if err != nil {
			return err
		}
		print, ok := map[string]func(*cobra.Command, explain.View) error{"text": printText, "restore": printRestore, "json": printJSON}[*output]
		if !ok {
			return fmt.Errorf("output %q is none of text, restore, json", *output)
		}
		pod, err := readPod(c, *file)
		if err != nil {
			return err
		}
		v := explain.Plan(cfg, pod)
		if err := print(c, v); err != nil {
			return err
		}
		if v.Refused() {
			return &exit{exitRefused, errSaid}
		}
		return nil
	}
	return c
}

func printText(c *cobra.Command, v explain.View) error {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s\nmesh: %s\ndecision: %s (%s: %s)\n", v.Pod, cmp.Or(v.Decision.Mesh, "-"), v.Decision.Action, v.Decision.Reason, v.Decision.Detail)
	for _, note := range v.Plan.Notes {
		fmt.Fprintf(&out, "note: %s\n", note)
	}
	explain.PrintRules(&out, explain.Describe(v.Plan).Rules)
	if len(v.Plan.Routes)+len(v.Plan.Loopback) > 0 {
		out.WriteString("\nroutes and addresses\n")
	}
	for _, line := range explain.RouteLines(v.Plan) {
		fmt.Fprintf(&out, "  %s\n", line)
	}
	_, err := io.WriteString(c.OutOrStdout(), explain.PlainLines(out.String()))
	return err
}

func printRestore(c *cobra.Command, v explain.View) error {
	if v.Decision.Action != rules.Enrol {
		_, err := fmt.Fprintf(c.ErrOrStderr(), "meshnetd: %s: %s\n", v.Decision.Action, status.Plain(v.Decision.Detail))
		return err
	}
	for _, note := range v.Barred {
		if _, err := fmt.Fprintf(c.ErrOrStderr(), "meshnetd: %s\n", status.Plain(note)); err != nil {
			return err
		}
	}
	for _, set := range v.Plan.Rulesets() {
		if _, err := fmt.Fprintf(c.OutOrStdout(), "# %s\n%s", set.Family, set); err != nil {
			return err
		}
	}
	return nil
}

func printJSON(c *cobra.Command, v explain.View) error {
	type jsonRule struct {
		Family string `json:"family"`
		Table  string `json:"table"`
		Chain  string `json:"chain"`
		Rule   string `json:"rule"`
		Why    string `json:"why"`
	}
	document := struct {
		Namespace string     `json:"namespace"`
		Name      string     `json:"name"`
		Mesh      string     `json:"mesh"`
		Action    string     `json:"action"`
		Reason    string     `json:"reason"`
		Detail    string     `json:"detail"`
		Intent    any        `json:"intent,omitempty"`
		Notes     []string   `json:"notes"`
		Rules     []jsonRule `json:"rules"`
		Commands  []string   `json:"commands"`
	}{v.Pod.Namespace, v.Pod.Name, v.Decision.Mesh, string(v.Decision.Action), string(v.Decision.Reason),
		v.Decision.Detail, v.Decision.Intent, append([]string{}, v.Plan.Notes...), []jsonRule{}, append([]string{}, explain.RouteLines(v.Plan)...)}
	for _, set := range v.Plan.Rulesets() {
		for r := range set.All() {
			document.Rules = append(document.Rules, jsonRule{set.Family.String(), r.Table, r.Chain, r.String(), r.Why})
		}
	}
	return printDocument(c.OutOrStdout(), document)
}
