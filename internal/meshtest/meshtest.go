// SPDX-License-Identifier: Apache-2.0

// Package meshtest is what the tests of every mesh's rules have in common.
package meshtest

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// Plan returns the plan of a pod that belongs to the mesh, which is within its widest ones.
func Plan(t testing.TB, mesh rules.Mesh, pod rules.Pod) rules.Plan {
	t.Helper()
	d := mesh.Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: pod.IPs})
	if err != nil {
		t.Fatal(err)
	}
	Widest(t, mesh, plan)
	return plan
}

// Addresses returns those of a pod; an empty one is none.
func Addresses(texts ...string) []netip.Addr {
	var ips []netip.Addr
	for _, text := range texts {
		ips = append(ips, netip.MustParseAddr(text))
	}
	return ips
}

// Lines prints the rules as iptables-save does, without counters and policies.
func Lines(rs rules.Ruleset) string {
	var out strings.Builder
	for _, table := range rs.Tables {
		fmt.Fprintf(&out, "*%s\n", table.Name)
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				fmt.Fprintf(&out, "-A %s %s\n", c.Name, r)
			}
		}
	}
	return out.String()
}

// Check holds for every pod, whatever it says: it is skipped or refused with a reason in words, or has a plan whose
// every rule reads back as the same text, that is recognised as its own, and that no value can add a line to.
func Check(t testing.TB, mesh rules.Mesh, pod rules.Pod) {
	t.Helper()
	d := mesh.Decide(pod)
	if d.Mesh != mesh.Name() || d.Reason == "" || d.Detail == "" || strings.HasSuffix(d.Detail, ": ") {
		t.Errorf("%s: %s without a reason: %q, %q", d.Mesh, d.Action, d.Reason, d.Detail)
	}
	if d.Action != rules.Enrol {
		return
	}
	if _, err := json.Marshal(d.Intent); err != nil {
		t.Errorf("intent: %v", err)
	}
	plan, err := d.Planner(rules.Network{Addresses: Addresses("10.244.1.7", "fd00:10:244::7")})
	if err != nil {
		t.Fatalf("no plan for a pod that is enrolled: %v", err)
	}
	own := rules.Plan{Routes: plan.Routes, Loopback: plan.Loopback}
	for _, rs := range plan.Rulesets() {
		saved := save(rs)
		again, err := rules.ParseSave(rs.Family, strings.NewReader(saved))
		if err != nil {
			t.Fatalf("%v\n%s", err, saved)
		}
		if got := Lines(again); got != Lines(rs) {
			t.Errorf("reads back as\n%sfor\n%s", got, Lines(rs))
		}
		if left := rules.Diff(again, rs, plan.Footprint); len(left) > 0 {
			t.Errorf("read back, it differs from itself: %v\n%s", left, saved)
		}
		if rs.Family == rules.IPv6 {
			own.V6 = again.Own(plan.Footprint)
		} else {
			own.V4 = again.Own(plan.Footprint)
		}
		if strings.Contains(saved, "-owner 4294967295") {
			t.Errorf("an id that iptables refuses:\n%s", saved)
		}
	}
	if own.Key() != plan.Key() {
		t.Errorf("not all of it is known as its own:\n%s\n%s", Lines(own.V4), Lines(own.V6))
	}
}

// save prints what iptables-save would, were nothing else in the kernel.
func save(rs rules.Ruleset) string {
	var out strings.Builder
	for _, table := range rs.Tables {
		fmt.Fprintf(&out, "*%s\n", table.Name)
		for _, c := range table.Chains {
			policy := "-"
			if c.Builtin {
				policy = "ACCEPT"
			}
			fmt.Fprintf(&out, ":%s %s [0:0]\n", c.Name, policy)
		}
		for _, c := range table.Chains {
			for _, r := range c.Rules {
				fmt.Fprintf(&out, "-A %s %s\n", c.Name, r)
			}
		}
		fmt.Fprint(&out, "COMMIT\n")
	}
	return out.String()
}
