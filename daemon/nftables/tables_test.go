// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// eachPlan calls test with every recorded case and with random settings, in a short run with some.
func eachPlan(t *testing.T, random int, test func(t *testing.T, plan rules.Plan)) {
	t.Helper()
	for _, c := range sample.Of(t, 10, plans.Recorded(t)) {
		t.Run(c.Name, func(t *testing.T) { test(t, plans.Of(t, istio.Standard(), c.Pod())) })
	}
	for range sample.Of(t, 10, make([]struct{}, random)) {
		seed := rand.Uint64()
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			test(t, generate.Draw(rand.New(rand.NewPCG(seed, 0))).Plan)
		})
	}
}

// commands returns what iptables-nft-restore reads for the plan, by the program that reads it.
func commands(plan rules.Plan) map[string]string {
	return map[string]string{"iptables-nft": plan.V4.String(), "ip6tables-nft": plan.V6.String()}
}

// What is written is byte for byte what iptables-nft writes for the same rules: the kernel holds the same.
func TestSameAsIPTables(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	eachPlan(t, 60, func(t *testing.T, plan rules.Plan) {
		ours, theirs := newSandbox(t), newSandbox(t)
		ours.write(t, plan)
		for program, input := range commands(plan) {
			theirs.RunInput(t, input, program+"-restore", "--noflush")
		}
		if ours.fingerprint(t) != theirs.fingerprint(t) {
			t.Errorf("netlink wrote\n%s\niptables-restore wrote\n%s", ours.Run(t, "nft", "list", "ruleset"), theirs.Run(t, "nft", "list", "ruleset"))
		}
		// Either takes the other's rules for its own.
		if theirs.write(t, plan) {
			t.Error("rules of iptables-restore are written again")
		}
	})
}

// What is read by netlink is what iptables-save prints, rule by rule.
func TestReadAsIPTablesDoes(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	eachPlan(t, 30, func(t *testing.T, plan rules.Plan) {
		s := newSandbox(t)
		s.write(t, plan)
		for family, program := range map[rules.Family]string{rules.IPv4: "iptables-nft-save", rules.IPv6: "ip6tables-nft-save"} {
			saved, err := rules.ParseSave(family, strings.NewReader(s.Run(t, program)))
			if err != nil {
				t.Fatal(err)
			}
			if have := s.decoded(t, family).Ruleset; chains(have) != chains(saved) {
				t.Errorf("by netlink\n%s\n%s says\n%s", chains(have), program, chains(saved))
			}
		}
	})
}

// chains prints every chain with its rules, in any order of chains.
func chains(rs rules.Ruleset) string {
	var all []string
	for _, t := range rs.Tables {
		for _, c := range t.Chains {
			text := fmt.Sprintf("%s %s %t", t.Name, c.Name, c.Builtin)
			for _, r := range c.Rules {
				text += "\n  " + r.String()
			}
			if len(c.Rules) > 0 || !c.Builtin { // iptables-save names built-in chains that are not there
				all = append(all, text)
			}
		}
	}
	slices.Sort(all)
	return strings.Join(all, "\n")
}

func (s sandbox) decoded(t testing.TB, family rules.Family) (d decoded) {
	t.Helper()
	err := s.ns.Do(func() error {
		return look(func(st state, _ []byte) (err error) {
			d, err = st.decode(family)
			return err
		})
	})
	if err != nil {
		t.Fatal(err)
	}
	return d
}

// iptables finds each rule with -C and deletes each with -D.
func TestIPTablesKnowsTheRules(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	s := newSandbox(t)
	plan := plans.DualStack(t)
	s.write(t, plan)
	for program, rs := range map[string]rules.Ruleset{"iptables-nft": plan.V4, "ip6tables-nft": plan.V6} {
		for _, table := range rs.Tables {
			s.Run(t, program, "-t", table.Name, "-S")
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					for _, verb := range []string{"-C", "-D"} {
						s.Run(t, program, append([]string{"-t", table.Name, verb, c.Name}, strings.Fields(r.String())...)...)
					}
				}
			}
		}
	}
	for family := range 2 {
		if n := s.decoded(t, []rules.Family{rules.IPv4, rules.IPv6}[family]).Own(plan.Footprint); !n.Empty() {
			t.Errorf("still there: %s", n)
		}
	}
}

// Plans over plans give exactly the last one, and taking it out leaves nothing; a second time changes nothing.
func TestPlanOverPlan(t *testing.T) {
	s := newSandbox(t)
	tables := New(IPTables)
	empty := s.fingerprint(t)
	eachPlan(t, 40, func(t *testing.T, plan rules.Plan) {
		s.write(t, plan)
		if s.write(t, plan) {
			t.Error("a second time changed something")
		}
		fresh := newSandbox(t)
		fresh.write(t, plan)
		if s.fingerprint(t) != fresh.fingerprint(t) {
			t.Error("not what a new namespace holds")
		}
		if diffs, err := tables.Verify(t.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
			t.Errorf("got %v, %v", diffs, err)
		}
		v4, v6, err := tables.Own(t.Context(), s.ns, plan.Footprint)
		own := rules.Plan{V4: v4, V6: v6, Routes: plan.Routes, Loopback: plan.Loopback}
		if err != nil || own.Key() != plan.Key() && !reroutes(plan) {
			t.Errorf("read back as another plan, %v:\n%s\n%s", err, v4, v6)
		}
	})
	s.write(t, plans.Nothing())
	if s.fingerprint(t) != empty {
		t.Error("something is left")
	}
}

// reroutes is the exception of rules.Ruleset.Own.
func reroutes(plan rules.Plan) bool {
	table := plan.V4.Table("nat")
	if plan.V4.Empty() {
		table = plan.V6.Table("nat")
	}
	c, _ := table.Chain("PREROUTING")
	return slices.ContainsFunc(c.Rules, func(r rules.Rule) bool { return strings.HasPrefix(r.String(), "-i ") })
}

// A change is one transaction for both families: whoever reads meanwhile sees one plan or the other, whole.
func TestOneTransaction(t *testing.T) {
	s := newSandbox(t)
	all := plans.Recorded(t)
	var states [2]rules.Plan
	known := map[string]bool{}
	for i := range states {
		states[i] = plans.Of(t, istio.Standard(), all[7*i].Pod())
		states[i].V6 = plans.DualStack(t).V6
		s.write(t, states[i])
		known[s.fingerprint(t)] = true
	}
	ctx, stop := context.WithCancel(t.Context())
	written := make(chan error, 1)
	go func() {
		var err error
		for i := 0; err == nil && ctx.Err() == nil; i++ {
			_, err = New(IPTables).Apply(context.Background(), s.ns, states[i%2])
		}
		written <- err
	}()
	seen := map[string]int{}
	reader := s.dial(t)
	for i := 0; i < 300 || len(seen) < 2 && i < 100_000; i++ {
		reader.forget()
		st, err := read(reader)
		if errors.Is(err, netlink.ErrMoved) {
			continue
		}
		if err != nil {
			t.Error(err)
			break
		}
		sum := st.fingerprint(nil)
		if seen[sum]++; !known[sum] {
			t.Error("a state that is neither plan")
			break
		}
	}
	stop()
	if err := <-written; err != nil || len(seen) < 2 {
		t.Errorf("%v; %d states seen", err, len(seen))
	}
}

// Somebody who writes between our reading and our writing is noticed by the kernel, and nothing of his is lost.
func TestOthersWriteMeanwhile(t *testing.T) {
	s := newSandbox(t)
	c := s.dial(t)
	st, err := read(c)
	if err != nil {
		t.Fatal(err)
	}
	s.Run(t, "nft", "add table inet others")
	b := newBatch(st.generation)
	b.newTable(2, "nat")
	if err := c.transact(b); !errors.Is(err, netlink.ErrMoved) {
		t.Errorf("got %v", err)
	}
	if text := s.Run(t, "nft", "list tables"); strings.Contains(text, "nat") {
		t.Errorf("written all the same: %s", text)
	}
	ctx, stop := context.WithCancel(t.Context())
	var wrote error
	var writer sync.WaitGroup
	writer.Go(func() { // one table: to read hundreds takes longer than to write one more
		for i := 0; wrote == nil && ctx.Err() == nil; i++ {
			wrote = s.Command("nft", []string{"add", "delete"}[i%2]+" table inet busy").Run()
		}
	})
	t.Cleanup(func() { stop(); writer.Wait() })
	for range 50 {
		s.write(t, plans.DualStack(t))
		s.write(t, plans.Nothing())
	}
	stop()
	writer.Wait()
	if wrote != nil {
		t.Error(wrote)
	}
}

// The kernel's refusal names the rule, and nothing of the plan is there.
func TestRefusedRule(t *testing.T) {
	s := newSandbox(t)
	var b rules.Builder
	b.Append("nat", "OUTPUT", "", rules.Jump("A"))
	b.Append("nat", "A", "", rules.Return)
	b.Append("nat", "A", "", rules.TProxy{Port: 1, Addr: plans.Recorded(t)[0].PodIPs[0].Addr(), Mark: 1}, rules.Protocol(rules.TCP))
	plan := rules.Plan{V4: b.Ruleset(rules.IPv4), Footprint: rules.Footprint{Chains: []string{"A"}}}
	_, err := New(IPTables).Apply(t.Context(), s.ns, plan)
	if err == nil || !strings.Contains(err.Error(), `rule "-p tcp -j TPROXY --on-port 1`) || !strings.Contains(err.Error(), "of chain A of table nat") {
		t.Errorf("got %v", err)
	}
	if text := s.Run(t, "nft", "list ruleset"); text != "" {
		t.Errorf("left behind:\n%s", text)
	}
}

// A transaction with more refusals than the socket can hold is no success.
func TestTooManyRefusals(t *testing.T) {
	for _, n := range []int{1, 2000} {
		c := newSandbox(t).dial(t)
		if err := c.setReceiveBuffer(1); err != nil {
			t.Fatal(err)
		}
		b := newBatch(nil)
		for range n {
			b.deleteTable(2, "none")
		}
		if err := c.transact(b); err == nil {
			t.Errorf("%d refusals are none", n)
		}
	}
}

// Rules of others keep their place and their handles.
func TestOthersKeepTheirPlace(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	s := newSandbox(t)
	for _, rule := range []string{"-t nat -A OUTPUT -p tcp --dport 1 -j ACCEPT", "-t nat -A OUTPUT -p udp -j RETURN", "-t mangle -A PREROUTING -m ttl --ttl-eq 3 -j DROP"} {
		s.Run(t, "iptables-nft", strings.Fields(rule)...)
	}
	others := func() string { return s.Run(t, "sh", "-c", "nft -a list ruleset | grep -v ISTIO | grep handle") }
	before := others()
	pod := plans.Recorded(t)[0].Pod()
	pod.Annotations["sidecar.istio.io/interceptionMode"] = "TPROXY"
	s.write(t, plans.Of(t, istio.Standard(), pod))
	for _, rule := range s.decoded(t, rules.IPv4).Table("nat").Chains {
		if rule.Name == "OUTPUT" && (len(rule.Rules) != 3 || rule.Rules[0].String() != "-j ISTIO_OUTPUT") {
			t.Errorf("ours does not come first: %v", rule.Rules)
		}
	}
	s.write(t, plans.Nothing())
	after := others()
	for line := range strings.Lines(before) {
		if strings.Contains(line, "chain") || strings.Contains(line, "table") {
			continue
		}
		if !strings.Contains(after, line) {
			t.Errorf("gone or moved: %s", line)
		}
	}
}

// A base chain that is not where iptables has it, and a table that is off, are differences.
func TestChainsThatPacketsDoNotMeet(t *testing.T) {
	nstest.Require(t, "iptables-nft")
	plan := plans.DualStack(t)
	for name, tt := range map[string]struct{ before, after, want string }{
		"dormant":     {"", "add table ip nat { flags dormant ; }", "iptables nat: table is off (dormant)"},
		"no hook":     {"add table ip nat; add chain ip nat OUTPUT", "", "iptables nat: not hooked as iptables does: chain OUTPUT"},
		"other hook":  {"add table ip6 nat; add chain ip6 nat OUTPUT { type nat hook input priority 100 ; }", "", "ip6tables nat: not hooked as iptables does: chain OUTPUT"},
		"other order": {"add table ip nat; add chain ip nat OUTPUT { type nat hook output priority 7 ; }", "", "iptables nat: not hooked as iptables does: chain OUTPUT"},
		"hooked":      {"", "add table ip raw; add chain ip raw ISTIO { type filter hook output priority 7 ; }", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSandbox(t)
			if tt.before != "" {
				s.Run(t, "nft", tt.before)
			}
			if _, err := New(IPTables).Apply(t.Context(), s.ns, plan); err != nil && tt.before == "" {
				t.Fatal(err)
			}
			if tt.after != "" {
				s.Run(t, "nft", tt.after)
			}
			diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan)
			var text bytes.Buffer
			for _, d := range diffs {
				fmt.Fprintln(&text, d)
			}
			if err != nil || !strings.Contains(text.String(), tt.want) || tt.want == "" && text.Len() > 0 {
				t.Errorf("got %v\n%swant %q", err, text.String(), tt.want)
			}
		})
	}
}
