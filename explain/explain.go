// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"cmp"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/gaps"
	"github.com/meshnetd/meshnetd/status"
)

// Of puts together what there is to say of a pod with these interfaces.
func Of(v View, interfaces []rules.Interface) status.Explanation {
	told := Describe(v.Plan)
	x := status.Explanation{Namespace: v.Pod.Namespace, Name: v.Pod.Name, Mesh: v.Decision.Mesh, Action: string(v.Decision.Action),
		Reason: string(v.Decision.Reason), Detail: v.Decision.Detail, Notes: v.Plan.Notes, Rules: told.Rules, Routes: told.Routes,
		Loopback: told.Loopback, Key: told.Key}
	if account := v.Decision.Account; account != nil {
		x.Steps = account.Steps
		for _, s := range account.Settings {
			x.Settings = append(x.Settings, status.Setting{Name: s.Name, Value: s.Value, Source: s.Source})
		}
	}
	if v.Decision.Action == rules.Enrol {
		for _, gap := range gaps.Of(v.Plan.Unlocked(), interfaces, v.Decision.Proxy) {
			x.NotCaptured = append(x.NotCaptured, status.Gap{What: gap.What, Trace: traceArguments(gap.Packet, interfaces),
				Lockdown: lockdownOf(v.Plan, gap, interfaces)})
		}
	}
	if names := v.Decision.PacketSockets(v.Pod); len(names) > 0 && v.Decision.Action == rules.Enrol {
		x.NotCaptured = append(x.NotCaptured, status.Gap{What: "what these containers send by packet sockets (AF_PACKET), where the runtime gives NET_RAW " +
			"by default, as containerd does: " + strings.Join(names, ", ") + "; capabilities: {drop: [NET_RAW]} takes it", Lockdown: lockdownOf(v.Plan, rules.Gap{}, nil)})
	}
	return x
}

// lockdownOf says what the plan's lockdowns do with what goes through a gap, by TCP and by UDP; "" where there is none. What no
// packet of these shows meets no rule.
func lockdownOf(plan rules.Plan, gap rules.Gap, interfaces []rules.Interface) string {
	if !plan.LocksDown() {
		return ""
	}
	fates := map[string]string{}
	for _, protocol := range []string{rules.TCP, rules.UDP} {
		if gap.Packet == nil {
			continue
		}
		p := *gap.Packet
		if p.Protocol = protocol; !gap.Covers(p) {
			continue
		}
		path, err := effect.Trace(plan, p, interfaces)
		class, closed, found := path.Locked()
		switch {
		case err != nil:
		case closed:
			fates[protocol] = "closed as " + string(class)
		case found:
			fates[protocol] = "counted as " + string(class)
		default:
			fates[protocol] = "open"
		}
	}
	tcp, udp := fates[rules.TCP], fates[rules.UDP]
	if tcp != udp && tcp != "" && udp != "" {
		return "tcp: " + tcp + ", udp: " + udp
	}
	return cmp.Or(tcp, udp, "open")
}

// traceArguments returns how `meshnetd trace` is to be called for a packet; nil where it has no words for it.
func traceArguments(p *rules.Packet, interfaces []rules.Interface) []string {
	if p == nil || p.State > rules.StateNew || p.Mark != 0 {
		return nil
	}
	usual := Question{protocol: p.Protocol, destination: p.Destination.String(), in: p.Direction == rules.Inbound}
	words, name := []string{"--out"}, p.Out
	if usual.in {
		// Where no address is known of the interface, `trace` takes the destination for the pod's own.
		if its, _ := rules.Own(interfaces, p.Family()); !addressed(interfaces, *p) && p.Destination.Addr() != its {
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

// Print writes an explanation for people.
func Print(w io.Writer, x status.Explanation) error {
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
		lockdown := ""
		if gap.Lockdown != "" {
			lockdown = "[" + gap.Lockdown + "] "
		}
		fmt.Fprintf(&out, "  - %s%s\n", lockdown, gap.What)
		if len(gap.Trace) > 0 {
			fmt.Fprintf(&out, "      %s\n", shellWords(gap.Trace))
		}
	}
	if len(x.Beside) > 0 {
		out.WriteString("\ntables of others in the pod's network namespace, and what they do beside its rules\n")
	}
	for _, table := range x.Beside {
		fmt.Fprintf(&out, "  - %s\n", table)
	}
	PrintRules(&out, x.Rules)
	told := status.Plan{Routes: x.Routes, Loopback: x.Loopback}
	if plan, err := routed(told); err == nil && len(x.Routes)+len(x.Loopback) > 0 {
		out.WriteString("\nroutes and addresses\n")
		for _, line := range RouteLines(plan) {
			fmt.Fprintf(&out, "  %s\n", line)
		}
	}
	_, err := io.WriteString(w, PlainLines(out.String()))
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

// PrintRules prints what a plan holds, table by table.
func PrintRules(out *strings.Builder, all []status.Rule) {
	family, table := 0, ""
	for _, r := range all {
		if r.Family != family || r.Table != table {
			family, table = r.Family, r.Table
			fmt.Fprintf(out, "\n%s, table %s\n", rules.Family(family), table)
		}
		fmt.Fprintf(out, "  -A %s %s\n      %s\n", r.Chain, r.Rule, r.Why)
	}
}

// RouteLines prints as the ip commands that would do the same.
func RouteLines(p rules.Plan) []string {
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
