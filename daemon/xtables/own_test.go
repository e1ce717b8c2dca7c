// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Own returns the plan that a namespace holds, whatever rules of others stand around it.
func TestOwn(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		plan := plans.DualStack(t)
		s.write(t, plan)
		s.shell(t, "IPT -t nat -A OUTPUT -p tcp -j ACCEPT; IP6T -t nat -N OTHERS; IP6T -t nat -A OTHERS -p tcp -j ACCEPT; IPT -t raw -A OUTPUT -p tcp -j ACCEPT")
		read := func(tables *Tables) rules.Plan {
			v4, v6, err := tables.Own(t.Context(), s.ns, plan.Footprint)
			if err != nil {
				t.Fatal(err)
			}
			if v4.Family != rules.IPv4 || v6.Family != rules.IPv6 {
				t.Errorf("families %s and %s", v4.Family, v6.Family)
			}
			return rules.Plan{V4: v4, V6: v6, Routes: plan.Routes, Loopback: plan.Loopback}
		}
		if got := read(tables); got.Key() != plan.Key() {
			t.Errorf("got\n%s\nwant\n%s", text(got), text(plan))
		}
		without := *tables
		without.variant.v6, without.noIPv6 = "/no/such/program", errors.New("not here")
		only4 := plan
		only4.V6 = rules.Ruleset{}
		if got := read(&without); got.Key() != only4.Key() {
			t.Errorf("without ip6tables: got\n%s\nwant\n%s", text(got), text(only4))
		}
	})
}

// Own fails where the kernel cannot be read: nothing is not what is there.
func TestOwnSaysWhatFails(t *testing.T) {
	dir := scripts(t, map[string]string{"iptables-save": "echo no table >&2; exit 3", "ip6tables-save": ""})
	tables := &Tables{isolated: isolate(t), variant: variant{v4: filepath.Join(dir, "iptables"), v6: filepath.Join(dir, "ip6tables")}}
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	if _, _, err := tables.Own(t.Context(), ns, rules.Footprint{}); err == nil || !strings.Contains(err.Error(), "no table") {
		t.Errorf("got %v", err)
	}
}

// Where the kernel has no nf_tables, what the rules of iptables-legacy do is judged without it.
func TestEffectWithoutNFTables(t *testing.T) {
	eachVariant(t, func(t *testing.T, tables *Tables) {
		if !tables.variant.legacy {
			return
		}
		alone := *tables
		alone.netlink = false
		s := newSandbox(t, &alone)
		plan := plans.DualStack(t)
		s.write(t, plan)
		s.Run(t, "nft", "add", "table", "inet", "unseen")
		s.Run(t, "nft", "add chain inet unseen c { type filter hook output priority 0; policy drop; }")
		have := rules.Plan{Routes: plan.Routes, Loopback: plan.Loopback}
		answer := func() effect.Answer {
			r, err := alone.Effect(t.Context(), s.ns, plan, have, []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7")}}})
			if err != nil {
				t.Fatal(err)
			}
			return r.Answer
		}
		if got := answer(); got != effect.Equal {
			t.Errorf("right after: %s", got)
		}
		s.shell(t, "IPT -t nat -F ISTIO_OUTPUT")
		if got := answer(); got != effect.Less {
			t.Errorf("without its rules: %s", got)
		}
	})
}

// A table that a process owns is a difference by iptables-nft too, whatever it holds: it goes with that process.
func TestOwnedTableIsADifference(t *testing.T) {
	nstest.Require(t, "nft")
	eachVariant(t, func(t *testing.T, tables *Tables) {
		s := newSandbox(t, tables)
		s.Own(t, "table ip nat", "add table ip nat { flags owner; }\n")
		diffs, err := tables.Verify(t.Context(), s.ns, plans.DualStack(t))
		if said := fmt.Sprint(diffs); err != nil || strings.Contains(said, "iptables nat: the table belongs to a process") == tables.variant.legacy {
			t.Errorf("%s, %v", said, err)
		}
	})
}
