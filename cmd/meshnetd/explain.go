// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain NAMESPACE/POD | SANDBOX-ID | -f POD",
		Short: "Say why a pod is treated as it is: each decision, setting and rule, and what is not captured",
		Long: "Asks the running daemon about a pod of the mesh on this node; with -f decides about a manifest by the configuration,\n" +
			"without a daemon and without privileges. Shown are how it was decided, where each setting comes from (an annotation,\n" +
			"a container's argument or environment, a line of the configuration, or the built-in default), what of the pod's traffic\n" +
			"does not go through its proxy, with a command that shows it, and each rule with its reason.\n\n" +
			"Exit 0 for a pod that is redirected or left alone; 1 no such pod, no daemon, or no right to ask it; 2 wrong command\n" +
			"line or configuration; 3 the pod, or a container of it, is refused.",
		Example: "  meshnetd explain shop/cart-7d4b9\n  meshnetd explain -f pod.yaml --config meshnetd.toml\n" +
			"  meshnetd explain shop/cart-7d4b9 --json | jq -r '.notCaptured[].what'\n" +
			"  meshnetd explain -f pod.yaml -o svg --packet 'tcp 203.0.113.10:443' >pod.svg",
		Args: cobra.MaximumNArgs(1),
	}
	file := c.Flags().StringP("file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input; without a daemon")
	asJSON := c.Flags().Bool("json", false, "print the explanation as JSON")
	output := c.Flags().StringP("output", "o", "text", "`FORMAT`: text, json, svg (a picture of the rules) or dot (the same, for Graphviz)")
	packet := c.Flags().String("packet", "", "light up the way of this `PACKET` in the picture: the arguments of meshnetd trace, such as \"tcp 203.0.113.10:443\"")
	ask := askingFlags(c)
	c.MarkFlagsMutuallyExclusive("json", "output")
	completeWords(c, "output", "text", "json", "svg", "dot")
	c.ValidArgsFunction = ask.pods
	c.RunE = func(c *cobra.Command, args []string) error {
		if *asJSON {
			*output = "json"
		}
		print, err := explaining(*output, *packet)
		if err != nil {
			return err
		}
		x, err := ask.explanation(c, *file, args)
		if err != nil {
			return err
		}
		if err := print(c.OutOrStdout(), x); err != nil {
			return err
		}
		if x.refused {
			return &exit{exitRefused, errSaid}
		}
		return nil
	}
	return c
}

var errWhichPod = errors.New("name a pod as NAMESPACE/POD, as in `meshnetd explain shop/cart`, or a manifest by -f, and not both")

// explained is an explanation, whether the pod or a container of it is refused, and the pod's interfaces for who asks
// for them.
type explained struct {
	status.Explanation
	refused    bool
	interfaces func() ([]rules.Interface, error)
}

func (a asking) explanation(c *cobra.Command, file string, args []string) (x explained, err error) {
	switch {
	case (file == "") != (len(args) == 1):
		return x, errWhichPod
	case file != "" && *a.socket != "":
		return x, errors.New("--socket is the daemon's, and -f goes without one")
	case file != "":
		cfg, err := loadConfig(*a.config)
		if err != nil {
			return x, err
		}
		pod, err := readPod(c, file)
		if err != nil {
			return x, err
		}
		v := view{Pod: pod, Decision: node(cfg).Explain(pod)}.planned(rules.Network{Addresses: pod.IPs}).noting(cfg)
		x.Explanation, x.refused = explain(v, assumed(pod.IPs)).Complete(), v.refused()
		x.interfaces = func() ([]rules.Interface, error) { return assumed(pod.IPs), nil }
		return x, nil
	}
	socket, sb, err := a.sandbox(c.Context(), args[0])
	if err != nil {
		return x, err
	}
	if x.Explanation, err = status.Explain(c.Context(), socket, sb.ID); err != nil {
		return x, &exit{exitFailed, err}
	}
	x.refused = x.Action == string(rules.Reject)
	x.interfaces = func() ([]rules.Interface, error) {
		told, err := status.ReadPlan(c.Context(), socket, sb.ID)
		if err != nil {
			return nil, err
		}
		return interfacesOf(told)
	}
	return x, nil
}

// explain puts together what there is to say of a pod with these interfaces.
func explain(v view, interfaces []rules.Interface) status.Explanation {
	told := describe(v.Plan)
	x := status.Explanation{Namespace: v.Pod.Namespace, Name: v.Pod.Name, Mesh: v.Decision.Mesh, Action: string(v.Decision.Action),
		Reason: string(v.Decision.Reason), Detail: v.Decision.Detail, Notes: v.Plan.Notes, Rules: told.Rules, Routes: told.Routes,
		Loopback: told.Loopback, Key: told.Key}
	if account := v.Decision.Account; account != nil {
		x.Steps = account.Steps
		for _, s := range account.Settings {
			x.Settings = append(x.Settings, status.Setting{Name: s.Name, Value: s.Value, Source: s.Source})
		}
	}
	if intent, ok := v.Decision.Intent.(rules.GapReporter); ok && v.Decision.Action == rules.Enrol {
		for _, gap := range intent.Gaps(v.Plan, interfaces) {
			x.NotCaptured = append(x.NotCaptured, status.Gap{What: gap.What, Trace: traceArguments(gap.Packet, interfaces)})
		}
	}
	if names := v.Decision.PacketSockets(v.Pod); len(names) > 0 && v.Decision.Action == rules.Enrol {
		x.NotCaptured = append(x.NotCaptured, status.Gap{What: "what these containers send by packet sockets (AF_PACKET), where the runtime gives NET_RAW " +
			"by default, as containerd does: " + strings.Join(names, ", ") + "; capabilities: {drop: [NET_RAW]} takes it"})
	}
	return x
}

// traceArguments returns how `meshnetd trace` is to be called for a packet; nil where it has no words for it.
func traceArguments(p *rules.Packet, interfaces []rules.Interface) []string {
	if p == nil || p.State > rules.StateNew || p.Mark != 0 {
		return nil
	}
	usual := question{protocol: p.Protocol, destination: p.Destination.String(), in: p.Direction == rules.Inbound}
	words, name := []string{"--out"}, p.Out
	if usual.in {
		// Where no address is known of the interface, `trace` takes the destination for the pod's own.
		if its, _ := own(interfaces, p.Family() == rules.IPv6); !addressed(interfaces, *p) && p.Destination.Addr() != its {
			return nil
		}
		words, name = []string{"--in"}, p.In
	}
	words = append(words, usual.protocol, usual.destination)
	from, _, err := usual.packet(interfaces)
	if err != nil {
		return nil
	}
	if name != from.Out {
		words = append(words, "--iface", name)
	}
	if !usual.in && p.UID != defaultID {
		words = append(words, "--uid", fmt.Sprint(p.UID))
	}
	if !usual.in && p.GID != defaultID {
		words = append(words, "--gid", fmt.Sprint(p.GID))
	}
	if p.Source.Addr() != from.Source.Addr() {
		words = append(words, "--src", p.Source.Addr().String())
	}
	return words
}

func printDocument[T any](w io.Writer, document T) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false) // reasons have quotes in them, and no browser reads this
	return out.Encode(document)
}

func printExplanation(w io.Writer, x status.Explanation) error {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s/%s\nmesh: %s\ndecision: %s (%s: %s)\n", x.Namespace, x.Name, cmp.Or(x.Mesh, "-"), x.Action, x.Reason, x.Detail)
	for _, note := range x.Notes {
		fmt.Fprintf(&out, "note: %s\n", note)
	}
	if len(x.Steps) > 0 {
		out.WriteString("\nhow it was decided\n")
	}
	for i, step := range x.Steps {
		fmt.Fprintf(&out, "  %2d. %s\n", i+1, step)
	}
	if len(x.Settings) > 0 {
		out.WriteString("\nsettings, and where they come from\n")
		table := tabwriter.NewWriter(&out, 0, 0, 2, ' ', 0)
		for _, s := range x.Settings {
			fmt.Fprintf(table, "  %s\t%s\t%s\n", s.Name, s.Value, s.Source)
		}
		_ = table.Flush() // into memory
	}
	if len(x.NotCaptured) > 0 {
		out.WriteString("\nwhat does not go through the proxy; `meshnetd trace` with the arguments below each shows it\n")
	}
	for _, gap := range x.NotCaptured {
		fmt.Fprintf(&out, "  - %s\n", gap.What)
		if len(gap.Trace) > 0 {
			fmt.Fprintf(&out, "      %s\n", shellWords(gap.Trace))
		}
	}
	printRules(&out, x.Rules)
	told := status.Plan{Routes: x.Routes, Loopback: x.Loopback}
	if plan, err := routed(told); err == nil && len(x.Routes)+len(x.Loopback) > 0 {
		out.WriteString("\nroutes and addresses\n")
		for _, line := range routeLines(plan) {
			fmt.Fprintf(&out, "  %s\n", line)
		}
	}
	_, err := io.WriteString(w, plainLines(out.String()))
	return err
}

// shellWords joins words so that a shell takes them apart again.
func shellWords(words []string) string {
	quoted := make([]string, len(words))
	for i, word := range words {
		quoted[i] = word
		if strings.ContainsAny(word, "[]%") {
			quoted[i] = "'" + word + "'"
		}
	}
	return strings.Join(quoted, " ")
}

// printRules prints what a plan holds, table by table.
func printRules(out *strings.Builder, all []status.Rule) {
	family, table := 0, ""
	for _, r := range all {
		if r.Family != family || r.Table != table {
			family, table = r.Family, r.Table
			fmt.Fprintf(out, "\n%s, table %s\n", rules.Family(family), table)
		}
		fmt.Fprintf(out, "  -A %s %s\n      %s\n", r.Chain, r.Rule, r.Why)
	}
}
