// SPDX-License-Identifier: Apache-2.0

package main

import (
	"math/rand/v2"
	"net/netip"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

func TestMain(m *testing.M) {
	debug.SetGCPercent(400) // a fifth of the time would go there
	os.Exit(m.Run())
}

const testdata = "../../rules/istio/testdata"

// allSubjects are some of them in a short run. Of those with a lockdown, which are large, they are every fifth, or one; with
// MESHNETD_MUTANTS=all they are each.
func allSubjects(t *testing.T) []subject {
	t.Helper()
	all, err := subjects(testdata)
	if err != nil {
		t.Fatal(err)
	}
	if len(all) < 50 {
		t.Fatalf("only %d different rule sets", len(all))
	}
	if os.Getenv("MESHNETD_MUTANTS") == "all" {
		return all
	}
	var open, locked, fifth []subject
	for _, s := range all {
		if s.plan.LocksDown() {
			locked = append(locked, s)
		} else {
			open = append(open, s)
		}
	}
	for i := 0; i < len(locked); i += 5 {
		fifth = append(fifth, locked[i])
	}
	return slices.Concat(sample.Of(t, 8, open), sample.Of(t, 1, fifth))
}

// Every rule of every plan is met by a packet, and whatever is changed about one, some packet ends elsewhere,
// or it is shown that none can.
func TestScore(t *testing.T) {
	t.Parallel()
	var out strings.Builder
	perfect, err := run(&out, allSubjects(t), false)
	if err != nil {
		t.Fatal(err)
	}
	if !perfect || !strings.Contains(out.String(), "\nscore 100.0 %\n") {
		t.Errorf("the score is not perfect:\n%s", out.String())
	}
	for _, e := range equivalents {
		if !testing.Short() && !strings.Contains(out.String(), "equivalent: "+e.why+"\n") {
			t.Errorf("a reason that nothing needs any more: %s", e.why)
		}
	}
}

// A mutant that is said to be equivalent is not told by other packets either: those that mix what the
// witnesses have.
func TestEquivalentToMixedPackets(t *testing.T) {
	for i, s := range allSubjects(t) {
		t.Run(s.name, func(t *testing.T) {
			t.Parallel()
			equivalentToMixed(t, s, rand.New(rand.NewPCG(uint64(i), 0)))
		})
	}
}

func equivalentToMixed(t *testing.T, s subject, random *rand.Rand) {
	const mixed = 150
	worlds, _, err := s.worlds()
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range Mutants(s.rules()) {
		why := reason(s.rules(), m)
		if why == "" {
			continue
		}
		var before, after []*effect.Tracer
		for _, w := range worlds {
			before, after = append(before, effect.NewTracer(s.plan, w.interfaces)), append(after, effect.NewTracer(s.with(m.Rules), w.interfaces))
		}
		for range mixed {
			i := random.IntN(len(worlds))
			w := worlds[i]
			p := mix(random, w.packets)
			was, err := w.fate(before[i], p)
			if err != nil {
				t.Fatal(err)
			}
			if now, err := w.fate(after[i], p); err != nil || now != was {
				t.Fatalf("%s: is said to be equivalent (%s), but %s: %v, %v, %v", m, why, p, was, err, now)
			}
		}
	}
}

// mix returns a packet that has each of its properties from any of those that enter the pod the same way. A
// connection that does not exist has no mark.
func mix(random *rand.Rand, packets []rules.Packet) rules.Packet {
	p := packets[random.IntN(len(packets))]
	other := func() rules.Packet {
		for {
			if o := packets[random.IntN(len(packets))]; o.Direction == p.Direction {
				return o
			}
		}
	}
	owner, state := other(), other()
	p.Protocol, p.In, p.Out = other().Protocol, other().In, other().Out
	p.Source = netip.AddrPortFrom(other().Source.Addr(), other().Source.Port())
	p.Destination = netip.AddrPortFrom(other().Destination.Addr(), other().Destination.Port())
	p.Socket, p.UID, p.GID, p.Mark = owner.Socket, owner.UID, owner.GID, other().Mark
	p.State, p.ConnMark, p.Transparent = state.State, state.ConnMark, state.Transparent
	if p.State&(rules.StateRelated|rules.StateEstablished) == 0 {
		p.ConnMark = 0
	}
	return p
}

// A mutant of each kind is made of the rules that have what it changes.
func TestMutants(t *testing.T) {
	rule := func(target rules.Target, match ...rules.Match) rules.Rule {
		return rules.Rule{Match: match, Target: target}
	}
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"-p tcp -j RETURN", []string{"-p udp -j RETURN", "-p tcp -j DROP"}},
		{"-p tcp -m tcp --dport 80 -j ACCEPT", []string{"-p udp -m udp --dport 80 -j ACCEPT", "-p tcp -m tcp --dport 81 -j ACCEPT",
			"-p tcp -m tcp ! --dport 80 -j ACCEPT", "-p tcp -m tcp --dport 80 -j DROP"}},
		{"-s 10.0.0.0/8 -j DROP", []string{"-s 10.0.0.0/9 -j DROP", "-s 10.0.0.0/7 -j DROP", "-s 11.0.0.0/8 -j DROP", "-s 10.0.0.0/8 -j ACCEPT"}},
		{"-d ::1/128 -j DROP", []string{"-d ::/126 -j DROP", "-d ::3/128 -j DROP", "! -d ::1/128 -j DROP", "-d ::1/128 -j ACCEPT"}},
		{"-i lo -j DROP", []string{"-i eth0 -j DROP", "-i lo -j ACCEPT"}},
		{"-o lo -j DROP", []string{"-o eth0 -j DROP", "-o lo -j ACCEPT"}},
		{"-p udp -m udp --sport 53 -j CT --zone 1", []string{"-p tcp -m tcp --sport 53 -j CT --zone 1", "-p udp -m udp --sport 54 -j CT --zone 1",
			"-p udp -m udp --sport 53 -j CT --zone 3"}},
		{"-p tcp -m multiport ! --dports 53,15008 -j X", []string{"-p udp -m multiport ! --dports 53,15008 -j X",
			"-p tcp -m multiport ! --dports 54,15008 -j X", "-p tcp -m multiport ! --dports 53,15009 -j X",
			"-p tcp -m multiport --dports 53,15008 -j X", "-p tcp -m multiport ! --dports 53,15008 -j RETURN"}},
		{"-m owner --uid-owner 1 -j DROP", []string{"-m owner --uid-owner 2 -j DROP", "-m owner ! --uid-owner 1 -j DROP", "-m owner --uid-owner 1 -j ACCEPT"}},
		{"-m owner ! --gid-owner 1 -j DROP", []string{"-m owner ! --gid-owner 2 -j DROP", "-m owner --gid-owner 1 -j DROP", "-m owner ! --gid-owner 1 -j ACCEPT"}},
		{"-m conntrack --ctstate RELATED,ESTABLISHED -j DROP", []string{"-m conntrack --ctstate INVALID,NEW,UNTRACKED -j DROP",
			"-m conntrack --ctstate ESTABLISHED -j DROP", "-m conntrack --ctstate RELATED -j DROP", "-m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT"}},
		{"-m mark --mark 0x1 -j MARK --set-xmark 0x1/0xffffffff", []string{"-m mark --mark 0x2 -j MARK --set-xmark 0x1/0xffffffff",
			"-m mark ! --mark 0x1 -j MARK --set-xmark 0x1/0xffffffff", "-m mark --mark 0x1 -j MARK --set-xmark 0x2/0xffffffff"}},
		{"-m connmark --mark 0x1 -j REJECT --reject-with tcp-reset", []string{"-m connmark --mark 0x2 -j REJECT --reject-with tcp-reset", "-m connmark --mark 0x1 -j RETURN", "-m connmark --mark 0x1 -j DROP"}},
		{"-j REDIRECT --to-ports 1", []string{"-j REDIRECT --to-ports 2"}},
		{"-j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff", []string{
			"-j TPROXY --on-port 2 --on-ip 0.0.0.0 --tproxy-mark 0x1/0xffffffff", "-j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x2/0xffffffff"}},
	} {
		var got []string
		for _, v := range variants(rules.ParseRule(tt.text)) {
			got = append(got, v.rule.String())
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%s:\n got %s\nwant %s", tt.text, strings.Join(got, "\n     "), strings.Join(tt.want, "\n     "))
		}
	}
	rs := rules.Ruleset{Family: rules.IPv4, Tables: []rules.Table{{Name: "nat", Chains: []rules.Chain{{Name: "OUTPUT", Builtin: true,
		Rules: []rules.Rule{rule(rules.Return), rule(rules.Return), rule(rules.Drop)}}}}}}
	whats := map[string]int{}
	for _, m := range Mutants(rs) {
		whats[m.What]++
	}
	if whats[deleted] != 3 || whats[swapped] != 1 {
		t.Errorf("got %v: want each rule deleted, and swapped where the next one has another target", whats)
	}
}

// A reason of the table is for the rules that it names, not for others in their place.
func TestReasonsAreNarrow(t *testing.T) {
	for _, tt := range []struct {
		chain string
		rules []string
		told  bool
	}{
		{"PREROUTING", []string{"-p tcp -j ISTIO_INBOUND", "-p tcp -j DROP"}, true},
		{"OUTPUT", []string{"-j MARK --set-xmark 0x53a/0xffffffff", "-p tcp -j CONNMARK --restore-mark --nfmask 0xffffffff --ctmask 0xffffffff"}, false},
		{"OUTPUT", []string{"-j MARK --set-xmark 0x53a/0xffffffff", "-p tcp -j DROP"}, true},
	} {
		chain := rules.Chain{Name: tt.chain, Builtin: true, Rules: []rules.Rule{rules.ParseRule(tt.rules[0]), rules.ParseRule(tt.rules[1])}}
		rs := rules.Ruleset{Tables: []rules.Table{{Name: "mangle", Chains: []rules.Chain{chain,
			{Name: "ISTIO_INBOUND", Rules: []rules.Rule{rules.ParseRule("-p tcp -j ISTIO_TPROXY")}},
			{Name: "ISTIO_TPROXY", Rules: []rules.Rule{rules.ParseRule("-p tcp -j TPROXY --on-port 1 --on-ip 0.0.0.0 --tproxy-mark 0x539/0xffffffff")}}}}}}
		m := Mutant{Table: "mangle", Chain: tt.chain, Rule: chain.Rules[0], What: swapped}
		if why := reason(rs, m); (why == "") != tt.told {
			t.Errorf("%s: %q", tt.rules, why)
		}
	}
}

// What is shown about a rule is so, and what is not so is not shown.
func TestProve(t *testing.T) {
	for _, tt := range []struct {
		name  string
		chain []string // of OUTPUT, or of PREROUTING where the first word says so
		index int
		what  string // deleted, swapped, or the rule that stands there now
		want  string
	}{
		{"the owner either way", []string{"-o lo -m owner ! --uid-owner 1 -j RETURN", "-m owner --uid-owner 1 -j RETURN", "-o lo -j DROP"}, 2, deleted, whyTaken},
		{"the owner one way", []string{"-o lo -m owner ! --uid-owner 1 -j RETURN", "-o lo -j DROP"}, 1, deleted, ""},
		{"a port either way says nothing of UDP", []string{"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -m tcp ! --dport 1 -j RETURN", "-j DROP"}, 2, deleted, ""},
		{"a port either way of TCP", []string{"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -m tcp ! --dport 1 -j RETURN", "-p tcp -j DROP"}, 2, deleted, whyTaken},
		{"a jump that comes back takes nothing", []string{"-j BACK", "-j DROP"}, 1, deleted, ""},
		{"a jump that does not", []string{"-p tcp -j AWAY", "-p tcp -j DROP"}, 1, deleted, whyTaken},
		{"loopback goes by lo", []string{"-o lo -j RETURN", "-d 127.0.0.1/32 -j DROP"}, 1, deleted, whyTaken},
		{"others do not", []string{"-o lo -j RETURN", "-d 10.0.0.1/32 -j DROP"}, 1, deleted, ""},
		{"a mark comes by lo", []string{"PREROUTING", "-i lo -j RETURN", "-m mark --mark 0x1 -j DROP"}, 1, deleted, whyTaken},
		{"no mark comes by any", []string{"PREROUTING", "-i lo -j RETURN", "-m mark ! --mark 0x1 -j DROP"}, 1, deleted, ""},
		{"a mark is sent by any", []string{"-i lo -j RETURN", "-m mark --mark 0x1 -j DROP"}, 1, deleted, ""},
		{"some of the states", []string{"-m conntrack --ctstate INVALID,NEW -j RETURN", "-m conntrack --ctstate NEW -j DROP"}, 1, deleted, whyTaken},
		{"more than those states", []string{"-m conntrack --ctstate NEW -j RETURN", "-m conntrack --ctstate INVALID,NEW -j DROP"}, 1, deleted, ""},
		{"different ports", []string{"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -m tcp --dport 2 -j DROP"}, 0, swapped, whyDisjoint},
		{"ports of different protocols", []string{"-p tcp -m tcp --dport 1 -j RETURN", "-p udp -m udp --dport 1 -j DROP"}, 0, swapped, whyDisjoint},
		{"ports that are not one", []string{"-p tcp -m tcp ! --dport 1 -j RETURN", "-p tcp -m tcp ! --dport 2 -j DROP"}, 0, swapped, ""},
		{"ranges apart", []string{"-d 10.0.0.0/8 -j RETURN", "-d 11.0.0.0/8 -j DROP"}, 0, swapped, whyDisjoint},
		{"a range in another", []string{"-d 10.0.0.0/8 -j RETURN", "-d 10.1.0.0/16 -j DROP"}, 0, swapped, ""},
		{"the last return", []string{"-d 10.0.0.0/8 -j RETURN"}, 0, deleted, whyIdle},
		{"UDP before what is for TCP", []string{"-p udp -j RETURN", "-p tcp -j DROP"}, 0, deleted, whyIdle},
		{"TCP before what is for TCP", []string{"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -j DROP"}, 0, deleted, ""},
		{"a wider range than what follows", []string{"-d 10.0.0.0/8 -j RETURN", "-d 10.0.0.0/7 -j DROP"}, 0, "-d 10.0.0.0/7 -j RETURN", ""},
		{"a wider range, and nothing follows", []string{"-d 10.0.0.0/8 -j RETURN", "-d 10.1.0.0/16 -j DROP"}, 0, "-d 10.0.0.0/7 -j RETURN", whyIdle},
		{"the same again", []string{"-d 10.1.0.0/16 -j DROP", "-d 10.0.0.0/8 -j DROP"}, 0, deleted, whySame},
		{"the same again, but for some", []string{"-d 10.0.0.0/8 -j DROP", "-d 10.1.0.0/16 -j DROP"}, 0, deleted, ""},
		{"the same again, with an exception", []string{"-d 10.1.0.0/16 -j DROP", "-p tcp -j RETURN", "-d 10.0.0.0/8 -j DROP"}, 0, deleted, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			chain := rules.Chain{Name: "OUTPUT", Builtin: true}
			if tt.chain[0] == "PREROUTING" {
				chain.Name, tt.chain = tt.chain[0], tt.chain[1:]
			}
			for _, text := range tt.chain {
				chain.Rules = append(chain.Rules, rules.ParseRule(text))
			}
			rs := rules.Ruleset{Tables: []rules.Table{{Name: "nat", Chains: []rules.Chain{chain,
				{Name: "BACK", Rules: []rules.Rule{rules.ParseRule("-j RETURN")}},
				{Name: "AWAY", Rules: []rules.Rule{rules.ParseRule("-p tcp -j REDIRECT --to-ports 1")}}}}}}
			m := Mutant{Table: "nat", Chain: chain.Name, Index: tt.index, Rule: chain.Rules[tt.index], What: tt.what}
			if tt.what != deleted && tt.what != swapped {
				changed := rules.ParseRule(tt.what)
				m.Changed = &changed
			}
			if got := prove(rs, m); got != tt.want {
				t.Errorf("got %q, want %q", got, tt.want)
			}
		})
	}
}
