// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

type namedPlan struct {
	name string
	plan rules.Plan
}

// plans returns the plans of the recorded cases, and of settings that those do not have.
func plans(t *testing.T) []namedPlan {
	t.Helper()
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	var all []namedPlan
	for _, c := range cases {
		all = append(all, namedPlan{c.Name, planFor(t, istio.Standard(), c.Pod())})
	}
	both := []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}
	settings := istio.Standard()
	for _, c := range []struct {
		name        string
		ipv6        rules.WithoutIPv6
		annotations map[string]string
	}{
		{"blocked", rules.IPv6Block, nil},
		{"captured", rules.IPv6Capture, nil},
		{"blocked, interface excluded", rules.IPv6Block, map[string]string{"traffic.sidecar.istio.io/excludeInterfaces": "net1"}},
		{"interface excluded, nothing inbound", rules.IPv6Capture, map[string]string{
			"traffic.sidecar.istio.io/excludeInterfaces": "net1", "traffic.sidecar.istio.io/includeInboundPorts": ""}},
		{"interface rerouted, nothing inbound", rules.IPv6Capture, map[string]string{
			"istio.io/reroute-virtual-interfaces": "k6t0", "traffic.sidecar.istio.io/includeInboundPorts": ""}},
		{"interface rerouted, nothing outbound", rules.IPv6Capture, map[string]string{
			"istio.io/reroute-virtual-interfaces": "k6t0", "traffic.sidecar.istio.io/includeOutboundIPRanges": ""}},
		{"interface rerouted, nothing at all", rules.IPv6Capture, map[string]string{"istio.io/reroute-virtual-interfaces": "k6t0",
			"traffic.sidecar.istio.io/includeOutboundIPRanges": "", "traffic.sidecar.istio.io/includeInboundPorts": ""}},
		{"interface rerouted by tproxy, one family", rules.IPv6Capture, map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY",
			"istio.io/reroute-virtual-interfaces": "k6t0", "traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8"}},
		{"interfaces twice, nothing inbound", rules.IPv6Capture, map[string]string{"traffic.sidecar.istio.io/excludeInterfaces": "net1,net1",
			"istio.io/reroute-virtual-interfaces": "k6t0,k6t0", "traffic.sidecar.istio.io/includeInboundPorts": "",
			"traffic.sidecar.istio.io/includeOutboundIPRanges": "10.0.0.0/8,fd00::/8,10.0.0.0/8"}},
		{"all of tproxy", rules.IPv6Capture, map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY",
			"istio.io/reroute-virtual-interfaces": "k6t0", "traffic.sidecar.istio.io/excludeInterfaces": "net1,net2"}},
	} {
		settings.WithoutIPv6 = c.ipv6
		annotations := map[string]string{"sidecar.istio.io/status": "{}"}
		for key, value := range c.annotations {
			annotations[key] = value
		}
		all = append(all, namedPlan{c.name, planFor(t, settings, rules.Pod{Annotations: annotations, IPs: both})})
	}
	return append(all, namedPlan{name: "nothing", plan: rules.Plan{Footprint: istio.New(istio.Defaults{}).Footprint()}})
}

type namedRuleset struct {
	name  string
	rules rules.Ruleset
}

// eachFamily calls fn with the different rule sets of a family; most plans have none for IPv6.
func eachFamily(t *testing.T, fn func(*testing.T, []namedRuleset)) {
	t.Helper()
	all := plans(t)
	for i, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		var sets []namedRuleset
		for _, p := range all {
			rs := p.plan.Rulesets()[i]
			if !slices.ContainsFunc(sets, func(s namedRuleset) bool { return s.rules.String() == rs.String() }) {
				sets = append(sets, namedRuleset{p.name, rs})
			}
		}
		t.Run(family.String(), func(t *testing.T) { fn(t, sets) })
	}
}

func planFor(t *testing.T, defaults istio.Defaults, pod rules.Pod) rules.Plan {
	t.Helper()
	d := istio.New(defaults).Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s: %s", d.Action, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: pod.IPs})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// One plan over another gives exactly the other: nothing of the first is left, whatever the first was.
func TestEveryPlanOverEveryOther(t *testing.T) {
	ours := istio.New(istio.Defaults{}).Footprint()
	eachFamily(t, func(t *testing.T, all []namedRuleset) {
		alone := make([][]string, len(all))
		for i, b := range all {
			k := newKernel(b.rules.Family)
			k.apply(t, b.rules, ours)
			alone[i] = sorted(k.lines())
		}
		for _, a := range sample.Of(t, 20, all) {
			t.Run(a.name, func(t *testing.T) {
				first := newKernel(a.rules.Family)
				first.apply(t, a.rules, ours)
				first.holds(t, a.rules, ours)
				for i, b := range all {
					k := first.clone()
					k.apply(t, b.rules, ours)
					k.holds(t, b.rules, ours)
					if diff := cmp.Diff(alone[i], sorted(k.lines())); diff != "" {
						t.Errorf("then %s (-want +got):\n%s", b.name, diff)
					}
					if t.Failed() {
						return // one pair explains it
					}
				}
			})
		}
	})
}

func sorted(lines []string) []string { return slices.Sorted(slices.Values(lines)) }

// foreignRules has one of each kind: what the program could have written, what only others write, and
// what looks most like ours.
var foreignRules = []string{
	"-s 198.51.100.7/32 -p tcp -j ACCEPT",
	`-p tcp -m comment --comment "x  ISTIO_OUTPUT" -j LOG`,
	"-p tcp -m tcp --tcp-flags FIN,SYN,RST,ACK SYN -j THEIRS",
	"-m mark --mark 0x1/0x1 -j RETURN",
	"-p udp -j RETURN",
}

// sprinkle puts rules of others before, between and after what the built-in chains hold, and a chain of
// others in each table.
func sprinkle(t *testing.T, k *kernel) {
	t.Helper()
	for _, name := range []string{"filter", "mangle", "nat", "raw"} {
		text := "*" + name + "\n:THEIRS - [0:0]\n-A THEIRS -p tcp -j ACCEPT\n"
		for c, chain := range builtin[name] {
			have := len(k.chain(name, chain))
			for i := have; i >= 0; i-- { // from the end, so that numbers stay right
				text += fmt.Sprintf("-I %s %d -d 192.0.2.%d/32 %s\n", chain, i+1, i+1, foreignRules[(i+c)%len(foreignRules)])
			}
		}
		if err := k.restore(text + "COMMIT\n"); err != nil {
			t.Fatal(err)
		}
	}
}

func foreign(lines []string) []string {
	var theirs []string
	for _, line := range lines {
		if strings.Contains(line, "192.0.2.") || strings.Contains(strings.Join(strings.Fields(line)[:2], " "), "THEIRS") {
			theirs = append(theirs, line)
		}
	}
	return theirs
}

// Others' rules stay, in their order, behind ours.
func TestEveryPlanAmongOthers(t *testing.T) {
	ours := istio.New(istio.Defaults{}).Footprint()
	eachFamily(t, func(t *testing.T, all []namedRuleset) {
		// Where nothing is captured in nat, nothing names a rerouted interface: its exception is known by
		// its place, at the head. Behind a rule of somebody else it stays, and does nothing there.
		all = slices.DeleteFunc(all, func(s namedRuleset) bool {
			return s.name == "interface rerouted, nothing at all" || s.name == "interface rerouted by tproxy, one family"
		})
		for _, a := range sample.Of(t, 10, all) {
			t.Run(a.name, func(t *testing.T) {
				first := newKernel(a.rules.Family)
				first.apply(t, a.rules, ours)
				sprinkle(t, first)
				theirs := foreign(first.lines())
				first.apply(t, a.rules, ours)
				first.holds(t, a.rules, ours)
				for _, b := range all {
					k := first.clone()
					k.apply(t, b.rules, ours)
					k.holds(t, b.rules, ours)
					oursFirst(t, k, b.rules)
					if diff := cmp.Diff(theirs, foreign(k.lines())); diff != "" {
						t.Errorf("then %s: others' rules (-want +got):\n%s", b.name, diff)
					}
					k.apply(t, rules.Ruleset{}, ours)
					if diff := cmp.Diff(theirs, k.lines()); diff != "" {
						t.Errorf("then %s, then removed (-want +got):\n%s", b.name, diff)
					}
					if t.Failed() {
						return // one pair explains it
					}
				}
			})
		}
	})
}

func oursFirst(t *testing.T, k *kernel, want rules.Ruleset) {
	t.Helper()
	for _, table := range want.Tables {
		for _, c := range table.Chains {
			got := k.chain(table.Name, c.Name)
			for i, r := range c.Rules {
				if i >= len(got) || got[i] != r.String() {
					t.Fatalf("%s %s: rule %d is not %s:\n%s", table.Name, c.Name, i+1, r, strings.Join(got, "\n"))
				}
			}
		}
	}
}

// An excluded or rerouted interface without any jump from the same chain: nothing else in that chain
// tells that the rule is ours.
func TestInterfacesWithoutAnchor(t *testing.T) {
	for name, annotations := range map[string]map[string]string{
		"excluded": {"traffic.sidecar.istio.io/excludeInterfaces": "net1"},
		"rerouted": {"istio.io/reroute-virtual-interfaces": "k6t0", "traffic.sidecar.istio.io/includeOutboundIPRanges": ""},
		"both": {"traffic.sidecar.istio.io/excludeInterfaces": "net1", "istio.io/reroute-virtual-interfaces": "k6t0",
			"traffic.sidecar.istio.io/includeOutboundIPRanges": ""},
	} {
		t.Run(name, func(t *testing.T) {
			annotations["sidecar.istio.io/status"] = "{}"
			annotations["traffic.sidecar.istio.io/includeInboundPorts"] = ""
			plan := planFor(t, istio.Standard(), rules.Pod{Annotations: annotations, IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}})
			k := newKernel(rules.IPv4)
			k.apply(t, plan.V4, plan.Footprint)
			k.holds(t, plan.V4, plan.Footprint)
			k.apply(t, rules.Ruleset{}, plan.Footprint)
			if left := k.lines(); len(left) > 0 {
				t.Errorf("after the removal:\n%s", strings.Join(left, "\n"))
			}
		})
	}
}
