// SPDX-License-Identifier: Apache-2.0

package generate_test

import (
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// A seed names a pod and its packets.
func TestSameSeedSameDraw(t *testing.T) {
	for seed := range uint64(50) {
		draw := func() (string, string) {
			random := rand.New(rand.NewPCG(seed, 0))
			s := generate.Draw(random)
			return s.Plan.V4.String() + s.Plan.V6.String(), s.Packet(random).String() + s.Packet(random).String()
		}
		planA, packetsA := draw()
		planB, packetsB := draw()
		if planA != planB || packetsA != packetsB {
			t.Fatalf("seed %d: two draws\n%s%s\n%s%s", seed, planA, packetsA, planB, packetsB)
		}
	}
}

// Every rule that a plan can have, and every end of a packet, comes up among a few hundred pods.
func TestDrawsCoverTheSpace(t *testing.T) {
	chains, ends := map[string]bool{}, map[rules.EndKind]bool{}
	for seed := range uint64(300) {
		random := rand.New(rand.NewPCG(seed, 0))
		s := generate.Draw(random)
		for _, rs := range s.Plan.Rulesets() {
			for _, table := range rs.Tables {
				for _, c := range table.Chains {
					chains[c.Name] = true
				}
			}
		}
		for range 20 {
			path, err := effect.Trace(s.Plan, s.Packet(random), s.Interfaces)
			if err != nil {
				t.Fatal(err)
			}
			ends[path.End.Kind] = true
		}
		for _, chain := range s.Plan.Footprint.Chains {
			if seed == 299 && !chains[chain] {
				t.Errorf("no pod has chain %s", chain)
			}
		}
	}
	for _, end := range []rules.EndKind{rules.Delivered, rules.Redirected, rules.TProxied, rules.Dropped, rules.Refused, rules.Leaves} {
		if !ends[end] {
			t.Errorf("no packet is %s", end)
		}
	}
}

// The witnesses are packets that can be, none of them twice, and they meet what a rule asks and just miss it.
func TestWitnesses(t *testing.T) {
	for _, tt := range []struct{ table, chain, rule string }{
		{"nat", "OUTPUT", "-d 10.0.0.0/8 -p tcp -m tcp ! --dport 80 -m owner --uid-owner 5 -j RETURN"},
		{"nat", "OUTPUT", "-d 0.0.0.0/0 -p tcp -m tcp --dport 80 -j RETURN"},
		{"nat", "OUTPUT", "-d 0.0.0.0/8 -p tcp -m tcp --dport 80 -j RETURN"},
		{"nat", "OUTPUT", "-o lo -p tcp -m multiport ! --dports 53,80 -m owner ! --gid-owner 5 -j RETURN"},
		{"mangle", "PREROUTING", "-s 192.0.2.0/24 -i net1 -p udp -m udp --sport 53 -j RETURN"},
		{"mangle", "PREROUTING", "-i lo -p tcp -m mark --mark 0x5 -j RETURN"},
		{"mangle", "PREROUTING", "-m conntrack --ctstate INVALID,UNTRACKED -j RETURN"},
		{"mangle", "OUTPUT", "! -d 127.0.0.1/32 -o net1 -m connmark --mark 0x5 -j RETURN"},
	} {
		rs := rules.Ruleset{Family: rules.IPv4, Tables: []rules.Table{{Name: tt.table, Chains: []rules.Chain{
			{Name: tt.chain, Builtin: true, Rules: []rules.Rule{rules.ParseRule(tt.rule)}}}}}}
		plan := rules.Plan{V4: rs}
		pod := generate.Interfaces(plan, []netip.Addr{netip.MustParseAddr("10.244.1.7")})
		seen, met, missed := map[rules.Packet]bool{}, 0, 0
		for _, p := range generate.Witnesses(rs, pod) {
			path, err := effect.Trace(plan, p, pod)
			if err != nil {
				t.Fatal(err)
			}
			if seen[p] {
				t.Errorf("twice: %s", p)
			}
			seen[p] = true
			if generate.Meets(path, tt.table, tt.chain, 1) {
				met++
			} else {
				missed++
			}
		}
		if met == 0 || missed == 0 {
			t.Errorf("%s: %d packets meet it, %d do not", tt.rule, met, missed)
		}
	}
}
