// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

// Every recorded case, compared with the plan alone: the same rules in each chain, the same chains, and
// the routes and addresses beside them. The kernel's own word is the integration tests'.
func TestConformance(t *testing.T) {
	for _, c := range corpus(t) {
		t.Run(c.Name, func(t *testing.T) {
			if c.Expect.Exit != 0 {
				t.Fatalf("a recorded failure, which this test does not know how to compare")
			}
			pod := c.Pod()
			plan := planOf(t, mesh, pod, pod.IPs)
			for _, f := range []struct {
				got  rules.Ruleset
				want []string
			}{{plan.V4, c.Expect.IPTables}, {plan.V6, c.Expect.IP6Tables}} {
				want, err := rules.ParseSave(f.got.Family, strings.NewReader(strings.Join(f.want, "\n")))
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(chains(want), chains(f.got)); diff != "" {
					t.Errorf("%s (-recorded +planned):\n%s", f.got.Family, diff)
				}
			}
			for _, f := range []struct {
				family      rules.Family
				rule, route []string
			}{{rules.IPv4, c.Expect.Rule4, c.Expect.Route4}, {rules.IPv6, c.Expect.Rule6, c.Expect.Route6}} {
				if len(f.rule) != len(f.route) || len(f.rule) > 1 {
					t.Fatalf("recorded: %d rules, %d routes", len(f.rule), len(f.route))
				}
				var want []rules.PolicyRoute
				for range f.rule { // each is "from all fwmark 0x539 lookup 133"
					want = append(want, rules.PolicyRoute{Family: f.family, Mark: 0x539, Table: 133})
				}
				var got []rules.PolicyRoute
				for _, r := range plan.Routes {
					if r.Family == f.family {
						got = append(got, r)
					}
				}
				if diff := cmp.Diff(want, got, compare); diff != "" {
					t.Errorf("routes of %s (-recorded +planned):\n%s", f.family, diff)
				}
			}
			var lo []netip.Prefix
			if slices.Contains(c.Expect.Lo, "::6/128") {
				lo = append(lo, netip.MustParsePrefix("::6/128"))
			}
			if diff := cmp.Diff(lo, plan.Loopback, compare); diff != "" {
				t.Errorf("addresses on lo (-recorded +planned):\n%s", diff)
			}
		})
	}
}

// chains maps "table chain" to its rules, as text: built-in chains without rules left out.
func chains(rs rules.Ruleset) map[string][]string {
	all := map[string][]string{}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			if c.Builtin && len(c.Rules) == 0 {
				continue
			}
			all[table.Name+" "+c.Name] = chain(rs, table.Name, c.Name)
		}
	}
	return all
}

// What a plan uses, its footprint must claim, or it could not be taken out again.
func TestFootprintCoversEveryPlan(t *testing.T) {
	for _, c := range corpus(t) {
		pod := c.Pod()
		plan := planOf(t, mesh, pod, pod.IPs)
		f := plan.Footprint
		if diff := cmp.Diff(mesh.Footprint(), f, compare); diff != "" {
			t.Errorf("%s: the plan's footprint is another (-mesh +plan):\n%s", c.Name, diff)
		}
		for _, r := range plan.Routes {
			if !slices.Contains(f.Routes, r) {
				t.Errorf("%s: route %+v is not claimed", c.Name, r)
			}
		}
		for _, prefix := range plan.Loopback {
			if !slices.Contains(f.Loopback, prefix) {
				t.Errorf("%s: address %s is not claimed", c.Name, prefix)
			}
		}
		for _, rs := range plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, ch := range table.Chains {
					if !ch.Builtin && !slices.Contains(f.Chains, ch.Name) {
						t.Errorf("%s: chain %s is not claimed", c.Name, ch.Name)
					}
					for _, r := range ch.Rules {
						if r.Why == "" {
							t.Errorf("%s: -A %s %s says no reason", c.Name, ch.Name, r)
						}
					}
				}
			}
		}
	}
}
