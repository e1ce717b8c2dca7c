// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func traceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace {NAMESPACE/POD | SANDBOX-ID | -f POD} [--in] PROTOCOL ADDRESS:PORT",
		Short: "Say which rules a packet meets in a pod, and where it ends, without sending it",
		Long: "Walks the first packet of a connection through the rules that the running daemon keeps in a pod, or with -f through\n" +
			"those that a manifest would get. PROTOCOL is tcp or udp. --out, the default, is a packet that a process of the pod\n" +
			"sends to ADDRESS:PORT; --in one that a peer sends to the pod at ADDRESS:PORT, or :PORT for the pod's own address. What a\n" +
			"virtual machine or a container within the pod sends comes in, too: by --iface, to an address that the pod forwards to.\n" +
			"What is not named is assumed, and said. The tracer does what the kernel does with these rules; what really is in the\n" +
			"kernel is compared by `meshnetd verify`, and what the kernel really does is shown by `meshnetd verify --traffic`.\n\n" +
			"Exit 0 wherever the packet ends; 1 no such pod, no daemon, no right to ask it, or a packet that cannot be; 2 wrong\n" +
			"command line or configuration; 3 the pod of -f is refused.",
		Example: "  meshnetd trace shop/cart-7d4b9 tcp 203.0.113.10:443\n  meshnetd trace shop/cart-7d4b9 tcp 203.0.113.10:443 --uid 1337\n" +
			"  meshnetd trace shop/cart-7d4b9 --in tcp :8080\n  meshnetd trace -f pod.yaml --in --iface docker0=172.17.0.1 --src 172.17.0.2 tcp 203.0.113.10:443\n  meshnetd trace -f pod.yaml udp '[2001:db8::53]:53'",
		Args: cobra.ArbitraryArgs, // counted by words, below
	}
	var q question
	file := c.Flags().StringP("file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input; without a daemon")
	q.flags(c.Flags())
	asJSON := c.Flags().Bool("json", false, "print the way as JSON")
	ask := askingFlags(c)
	c.MarkFlagsMutuallyExclusive("in", "out")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := 1 // words before the protocol
		if *file != "" {
			before = 0
		}
		switch {
		case len(args) < before:
			return ask.pods(c, args, word)
		case len(args) == before:
			return []cobra.Completion{rules.TCP, rules.UDP}, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		pod, err := q.words(args, *file)
		if err != nil {
			return err
		}
		scene, err := ask.scene(c, *file, pod)
		if err != nil {
			return err
		}
		way, err := q.answer(scene)
		if err != nil {
			return err
		}
		if *asJSON {
			return printDocument(c.OutOrStdout(), way)
		}
		return way.print(c.OutOrStdout())
	}
	return c
}

// scene is a pod in which a packet is traced.
type scene struct {
	pod        string // NAMESPACE/NAME
	plan       rules.Plan
	interfaces []rules.Interface
	outside    string // why the pod has no rules; "" where it has
}

func (a asking) scene(c *cobra.Command, file, pod string) (scene, error) {
	if file != "" {
		return a.sceneOf(c, file)
	}
	socket, sb, err := a.sandbox(c.Context(), pod)
	if err != nil {
		return scene{}, err
	}
	s := scene{pod: sb.Namespace + "/" + sb.Name}
	told, err := status.ReadPlan(c.Context(), socket, sb.ID)
	if err == nil {
		s.plan, err = planOf(told)
	}
	if err == nil {
		s.interfaces, err = interfacesOf(told)
	}
	if err != nil {
		return scene{}, &exit{exitFailed, err}
	}
	if s.plan.Rules() == 0 {
		s.outside = strings.TrimSuffix(sb.State+": "+sb.Detail, ": ")
	}
	return s, nil
}

func (a asking) sceneOf(c *cobra.Command, file string) (scene, error) {
	if *a.socket != "" {
		return scene{}, errors.New("--socket is the daemon's, and -f goes without one")
	}
	cfg, err := loadConfig(*a.config)
	if err != nil {
		return scene{}, err
	}
	pod, err := readPod(c, file)
	if err != nil {
		return scene{}, err
	}
	v := makePlan(cfg, pod)
	s := scene{pod: pod.Namespace + "/" + pod.Name, plan: v.Plan, interfaces: assumed(pod.IPs)}
	switch v.Decision.Action {
	case rules.Reject:
		return scene{}, &exit{exitRefused, fmt.Errorf("pod %s is refused, so that it sends nothing: %s", pod, v.Decision.Detail)}
	case rules.Skip:
		s.outside = fmt.Sprintf("%s: %s", v.Decision.Reason, v.Decision.Detail)
	case rules.Enrol:
	}
	return s, nil
}

// way is what became of a packet, for people and programs.
type way struct {
	Pod     string   `json:"pod"`
	Packet  string   `json:"packet"`
	Assumed []string `json:"assumed"` // what was not named
	Notes   []string `json:"notes"`
	Steps   []step   `json:"steps"`
	End     end      `json:"end"`
}

// step is a rule that the packet met, or what the kernel did of its own.
type step struct {
	Table  string `json:"table,omitempty"`
	Chain  string `json:"chain,omitempty"`
	Number int    `json:"number,omitempty"` // of the rule in its chain, from 1
	Rule   string `json:"rule,omitempty"`
	Why    string `json:"why,omitempty"`
	Note   string `json:"note,omitempty"`
}

// end is where the packet ended.
type end struct {
	Kind      string `json:"kind"`
	Text      string `json:"text"`
	Port      uint16 `json:"port,omitempty"` // of the listener that has it
	To        string `json:"to"`
	Original  string `json:"original"` // the destination that the listener is told
	Interface string `json:"interface,omitempty"`
	Zone      uint16 `json:"zone,omitempty"`
	ConnMark  uint32 `json:"connmark,omitempty"`
}

func (q question) answer(s scene) (way, error) {
	path, assumptions, err := q.path(s.plan, s.interfaces)
	if err != nil {
		return way{}, err
	}
	w := way{Pod: s.pod, Packet: path.Packet.String(), Assumed: append([]string{}, assumptions...), Notes: append([]string{}, s.about(path.Packet)...), Steps: []step{}}
	for _, met := range path.Steps {
		one := step{Table: met.Table, Chain: met.Chain, Number: met.Index, Note: met.Note}
		if met.Table != "" {
			one.Rule, one.Why = met.Rule.String(), met.Rule.Why
		}
		w.Steps = append(w.Steps, one)
	}
	w.End = end{Kind: string(path.End.Kind), Text: ending(path), Port: path.End.Port, To: path.End.To.String(), Original: path.End.Original.String(),
		Interface: path.End.Interface, Zone: path.End.Zone, ConnMark: path.End.ConnMark}
	return w, nil
}

// path traces the packet, and says what had to be assumed.
func (q question) path(plan rules.Plan, interfaces []rules.Interface) (path rules.Path, assumptions []string, err error) {
	packet, assumptions, err := q.packet(interfaces)
	if err != nil {
		return path, nil, err
	}
	_, interfaces, _ = q.by(interfaces) // which was read before
	if packet.Direction == rules.Inbound {
		interfaces = reached(interfaces, packet)
	}
	if path, err = plan.Trace(packet, interfaces); err != nil {
		return path, nil, &exit{exitFailed, err}
	}
	return path, assumptions, nil
}

// about says what of the pod has to be known for this packet.
func (s scene) about(p rules.Packet) []string {
	if s.outside != "" {
		return []string{"the pod has no rules (" + s.outside + ")"}
	}
	set, name := s.plan.V4, "IPv4"
	if p.Family() == rules.IPv6 {
		set, name = s.plan.V6, "IPv6"
	}
	if set.Empty() {
		return append([]string{"the pod has no rules for " + name + ": what it sends and gets by it goes around the proxy"}, s.plan.Notes...)
	}
	return nil
}

// ending says in words where a packet ended. Who the listener is says the rule that leads there.
func ending(path rules.Path) string {
	e := path.End
	switch e.Kind {
	case rules.Redirected, rules.TProxied:
		leads := "to a listener of the pod"
		for _, met := range path.Steps {
			switch met.Rule.Target.(type) {
			case rules.Redirect, rules.TProxy:
				leads = met.Rule.Why
			}
		}
		return fmt.Sprintf("%s, port %d; the destination was %s", leads, e.Port, e.Original)
	case rules.Delivered:
		return fmt.Sprintf("to whoever listens on %s in the pod: no rule gives it to the proxy", e.To)
	case rules.Leaves:
		where := "by " + e.Interface
		if e.Interface == "" {
			where = "forwarded"
		}
		return fmt.Sprintf("leaves for %s, %s: no rule gives it to the proxy", e.To, where)
	case rules.Dropped:
		return "dropped, without an answer"
	case rules.Refused:
		if path.Packet.Protocol == rules.TCP {
			return "refused, by a TCP reset"
		}
		return "refused: ICMP says that nobody listens there"
	}
	return e.String()
}

func (w way) print(to io.Writer) error {
	var out strings.Builder
	fmt.Fprintf(&out, "pod %s\n%s\n", w.Pod, w.Packet)
	if len(w.Assumed) > 0 {
		fmt.Fprintf(&out, "assumed: %s\n", strings.Join(w.Assumed, ", "))
	}
	for _, text := range w.Notes {
		fmt.Fprintf(&out, "note: %s\n", text)
	}
	out.WriteString("\n")
	for _, s := range w.Steps {
		if s.Table == "" {
			fmt.Fprintf(&out, "  (%s)\n", s.Note)
			continue
		}
		why := s.Why
		if s.Note != "" {
			why += ": " + s.Note
		}
		fmt.Fprintf(&out, "  %s %s %d: %s\n      %s\n", s.Table, s.Chain, s.Number, s.Rule, why)
	}
	if len(w.Steps) == 0 {
		out.WriteString("  no rule matches\n")
	}
	fmt.Fprintf(&out, "\nends: %s\n", w.End.Text)
	_, err := io.WriteString(to, plainLines(out.String()))
	return err
}
