// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/static"
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
		print, ok := map[string]func(*cobra.Command, view) error{"text": printText, "restore": printRestore, "json": printJSON}[*output]
		if !ok {
			return fmt.Errorf("output %q is none of text, restore, json", *output)
		}
		pod, err := readPod(c, *file)
		if err != nil {
			return err
		}
		v := makePlan(cfg, pod)
		if err := print(c, v); err != nil {
			return err
		}
		if v.refused() {
			return &exit{exitRefused, errSaid}
		}
		return nil
	}
	return c
}

// node asks the meshes that are switched on, and knows the rules of all.
func node(cfg config.Config) rules.Node {
	n := rules.Node{RuntimeHandlers: cfg.RuntimeHandlers, ProxyImages: cfg.ProxyImages, Annotations: cfg.Annotations, Budget: cfg.Budget, Origin: cfg.Origin,
		Policies: cfg.Policies, Loosening: effect.NewLoosening()}
	for _, mesh := range []rules.Mesh{istio.Mesh{Defaults: cfg.Istio}, consul.Mesh{Defaults: cfg.Consul}, kuma.Mesh{Defaults: cfg.Kuma},
		linkerd.Mesh{Defaults: cfg.Linkerd}} {
		if slices.Contains(cfg.Mesh.Enabled, mesh.Name()) {
			n.Meshes = append(n.Meshes, mesh)
		} else {
			n.Disabled = append(n.Disabled, mesh)
		}
	}
	for _, profile := range cfg.Static {
		n.Meshes = append(n.Meshes, static.Mesh{Profile: profile})
	}
	if len(cfg.Static) == 0 { // the rules of those that were there before are known by their chains
		n.Disabled = append(n.Disabled, static.Mesh{Profile: static.None})
	}
	return n
}

// view is what plan shows.
type view struct {
	Pod      rules.Pod
	Decision rules.Decision
	Plan     rules.Plan
	Refused  []string // those of the plan's notes that say which containers the daemon would refuse
}

func makePlan(cfg config.Config, pod rules.Pod) view {
	return view{Pod: pod, Decision: node(cfg).Decide(pod)}.planned(rules.Network{Addresses: pod.IPs}).noting(cfg)
}

// planned adds the plan for this network.
func (v view) planned(network rules.Network) view {
	if v.Decision.Action != rules.Enrol {
		return v
	}
	plan, err := v.Decision.Planner(network)
	if err != nil {
		v.Decision.Action, v.Decision.Reason, v.Decision.Detail = rules.Reject, rules.ReasonBadInput, err.Error()
	}
	v.Plan = plan
	return v
}

// refused reports whether the daemon would refuse the pod, or a container of it.
func (v view) refused() bool { return v.Decision.Action == rules.Reject || len(v.Refused) > 0 }

// noting adds what a manifest does not say for sure, and what the daemon would do with containers that run as the
// proxy without being it.
func (v view) noting(cfg config.Config) view {
	if class := v.Pod.RuntimeHandler; class != "" && v.Decision.Action != rules.Skip {
		v.Plan.Notes = append(v.Plan.Notes, fmt.Sprintf("runtimeClassName %s is taken for the name of its handler: kubectl get runtimeclass %s", class, class))
	}
	if v.Decision.Action != rules.Enrol {
		return v
	}
	policy := cfg.ProxyIdentity.In(v.Pod.Namespace, cfg.IdentityExempt)
	var fate string
	switch {
	case cfg.ProxyIdentity == config.IdentityOff:
		return v
	case policy == config.IdentityRefuse:
		fate = fmt.Sprintf("would be refused (proxy_identity = %q)", policy)
	case policy == config.IdentityReport:
		fate = fmt.Sprintf("would be created, and reported (proxy_identity = %q)", policy)
	default:
		fate = fmt.Sprintf("would be created, since proxy_identity_exempt has namespace %s", v.Pod.Namespace)
	}
	for _, c := range v.Pod.Containers {
		why := v.Decision.Impostor(c)
		if why == "" {
			continue
		}
		v.Plan.Notes = append(v.Plan.Notes, fate+": "+why)
		if policy == config.IdentityRefuse {
			v.Refused = append(v.Refused, fate+": "+why)
		}
	}
	return v
}

func printText(c *cobra.Command, v view) error {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s\nmesh: %s\ndecision: %s (%s: %s)\n", v.Pod, cmp.Or(v.Decision.Mesh, "-"), v.Decision.Action, v.Decision.Reason, v.Decision.Detail)
	for _, note := range v.Plan.Notes {
		fmt.Fprintf(&out, "note: %s\n", note)
	}
	printRules(&out, describe(v.Plan).Rules)
	if len(v.Plan.Routes)+len(v.Plan.Loopback) > 0 {
		out.WriteString("\nroutes and addresses\n")
	}
	for _, line := range routeLines(v.Plan) {
		fmt.Fprintf(&out, "  %s\n", line)
	}
	_, err := io.WriteString(c.OutOrStdout(), plainLines(out.String()))
	return err
}

// routeLines prints as the ip commands that would do the same.
func routeLines(p rules.Plan) []string {
	var lines []string
	for _, r := range p.Routes {
		ip, all := "ip", "0.0.0.0/0"
		if r.Family == rules.IPv6 {
			ip, all = "ip -6", "::/0"
		}
		lines = append(lines, fmt.Sprintf("%s rule add fwmark %d lookup %d", ip, r.Mark, r.Table),
			fmt.Sprintf("%s route add local %s dev lo table %d", ip, all, r.Table))
	}
	for _, prefix := range p.Loopback {
		lines = append(lines, fmt.Sprintf("ip addr add %s dev lo", prefix))
	}
	return lines
}

func printRestore(c *cobra.Command, v view) error {
	if v.Decision.Action != rules.Enrol {
		_, err := fmt.Fprintf(c.ErrOrStderr(), "meshnetd: %s: %s\n", v.Decision.Action, v.Decision.Detail)
		return err
	}
	for _, note := range v.Refused {
		if _, err := fmt.Fprintf(c.ErrOrStderr(), "meshnetd: %s\n", note); err != nil {
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

func printJSON(c *cobra.Command, v view) error {
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
		v.Decision.Detail, v.Decision.Intent, append([]string{}, v.Plan.Notes...), []jsonRule{}, append([]string{}, routeLines(v.Plan)...)}
	for _, set := range v.Plan.Rulesets() {
		for _, table := range set.Tables {
			for _, chain := range table.Chains {
				for _, r := range chain.Rules {
					document.Rules = append(document.Rules, jsonRule{set.Family.String(), table.Name, chain.Name, r.String(), r.Why})
				}
			}
		}
	}
	encoder := json.NewEncoder(c.OutOrStdout())
	encoder.SetIndent("", "  ")
	return encoder.Encode(document)
}
