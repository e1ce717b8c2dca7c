// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// An earlier meshnetd knew Istio only: the rules of its pods have the keys of their labels all the same.
func TestUnionKeepsTheKeysOfIstiosPods(t *testing.T) {
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	all, alone := everyMesh().Footprint(), istio.New(istio.Defaults{}).Footprint()
	for _, c := range cases {
		pod := c.Pod()
		plan, err := istios.Decide(pod).Planner(rules.Network{Addresses: pod.IPs})
		if err != nil {
			t.Fatal(err)
		}
		for _, rs := range plan.Rulesets() {
			if diff := cmp.Diff(rs.Own(alone).String(), rs.Own(all).String()); diff != "" {
				t.Errorf("%s:\n%s", c.Name, diff)
			}
		}
		if diff := cmp.Diff(alone, all.Narrow(plan), samePrefix); diff != "" {
			t.Errorf("%s: not Istio's alone:\n%s", c.Name, diff)
		}
	}
}

// What two meshes share is there once: a key has each address once, too.
func TestUnionHasEverythingOnce(t *testing.T) {
	u := everyMesh().Footprint()
	for what, list := range map[string][]string{"chains": u.Chains, "comments": u.Comments} {
		if slices.Sort(list); len(slices.Compact(slices.Clone(list))) != len(list) {
			t.Errorf("%s: %v", what, list)
		}
	}
	if len(u.Loopback) != 1 || len(u.Routes) != 2 || len(u.Marks) != 2 || len(u.Parts) != 4 || u.Reroute == "" {
		t.Errorf("got %+v", u)
	}
	for _, mesh := range everyMesh().Meshes {
		for _, name := range mesh.Footprint().Chains {
			if !slices.Contains(u.Chains, name) {
				t.Errorf("%s is not in it", name)
			}
		}
	}
	if diff := cmp.Diff(istio.New(istio.Defaults{}).Footprint(), rules.Union(istio.New(istio.Defaults{}).Footprint(), istio.New(istio.Defaults{}).Footprint()), samePrefix); diff != "" {
		t.Errorf("of one mesh twice:\n%s", diff)
	}
}

// saved is a rule set of IPv4 as iptables-save shows it, by lines of "CHAIN: RULE" of nat.
func saved(lines ...string) rules.Ruleset {
	var b rules.Builder
	for _, line := range lines {
		chain, text, _ := strings.Cut(line, ": ")
		r := rules.ParseRule(text)
		b.Append("nat", chain, "", r.Target, r.Match...)
	}
	return b.Ruleset(rules.IPv4)
}

// Istio's marks are nobody's in a pod of another mesh, and what is taken out of it is that mesh's alone.
func TestUnionLeavesOthersMarksAlone(t *testing.T) {
	u := everyMesh().Footprint()
	const foreign = "-m mark --mark 0x539 -j ACCEPT"
	have := saved("OUTPUT: "+foreign, "OUTPUT: -p tcp -j CONSUL_PROXY_OUTPUT", "CONSUL_PROXY_OUTPUT: -j RETURN")
	change := rules.Change(have, rules.Ruleset{}, u)
	if strings.Contains(change, "-D OUTPUT 1") || !strings.Contains(change, "-D OUTPUT 2") || !strings.Contains(change, "-X CONSUL_PROXY_OUTPUT") {
		t.Errorf("a rule by a mark of Istio's in a pod of Consul's:\n%s", change)
	}
	both := saved("OUTPUT: "+foreign, "OUTPUT: -p tcp -j ISTIO_OUTPUT", "ISTIO_OUTPUT: -j RETURN",
		"OUTPUT: -p tcp -j CONSUL_PROXY_OUTPUT", "CONSUL_PROXY_OUTPUT: -j RETURN")
	change = rules.Change(both, rules.Ruleset{}, u)
	for _, want := range []string{"-D OUTPUT 1", "-D OUTPUT 2", "-D OUTPUT 3", "-X ISTIO_OUTPUT", "-X CONSUL_PROXY_OUTPUT"} {
		if !strings.Contains(change, want) {
			t.Errorf("rules of two meshes: no %s in\n%s", want, change)
		}
	}
}

// The plan of each mesh is taken out whole.
func TestUnionTakesOutEveryMesh(t *testing.T) {
	u := everyMesh().Footprint()
	for _, mesh := range everyMesh().Meshes {
		pod := injectedBy([]string{mesh.Name()})
		plan, err := mesh.Decide(pod).Planner(rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00::7")}})
		if err != nil {
			t.Fatal(err)
		}
		own := rules.Plan{V4: plan.V4.Own(u), V6: plan.V6.Own(u), Routes: plan.Routes, Loopback: plan.Loopback}
		if own.Key() != plan.Key() {
			t.Errorf("%s: %d of %d rules are known", mesh.Name(), own.Rules(), plan.Rules())
		}
		if writers := everyMesh().OnlyWritersOf(plan).Meshes; len(writers) != 1 || writers[0].Name() != mesh.Name() {
			t.Errorf("%s: written by %v", mesh.Name(), writers)
		}
	}
	off := rules.Node{Meshes: []rules.Mesh{kumas}, Disabled: []rules.Mesh{consuls}}
	if !slices.Contains(off.Footprint().Chains, "CONSUL_PROXY_OUTPUT") {
		t.Error("a mesh that is switched off has left no rules behind, it is thought")
	}
	if !off.ClaimedByDisabled(injectedBy([]string{"consul"})) || off.ClaimedByDisabled(injectedBy([]string{"kuma"})) || off.ClaimedByDisabled(injectedBy(nil)) {
		t.Error("not the pods that a mesh may have left")
	}
	// The chains of IPv6 that is reset say nothing of the mesh.
	blocked := rules.Plan{V6: rules.Block(rules.Blocked{Captured: []rules.Selection{{}}}, rules.Blocked{})}
	if n := len(everyMesh().OnlyWritersOf(blocked).Meshes); n != 0 {
		t.Errorf("%d meshes have written what is every mesh's", n)
	}
}
