// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func ofRules(list []rules.Rule) printedChain { return printed(rules.Chain{Name: "A", Rules: list}) }

// Rules become one where that changes nothing, and only there. CLEAN leaves packets as they are, MARKS does not.
func TestMerged(t *testing.T) {
	for name, tt := range map[string]struct{ rules, want []string }{
		"ports": {
			[]string{"-p tcp --dport 1 -j RETURN", "-p tcp --dport 2 -j RETURN", "-p tcp --dport 2 -j RETURN"},
			[]string{"-p tcp -m tcp --dport 1 -j RETURN (and 1 more)"}},
		"two protocols in turn": {
			[]string{"-p tcp --dport 1 -j RETURN", "-p udp --dport 1 -j RETURN", "-p tcp --dport 2 -j RETURN", "-p udp --dport 2 -j RETURN"},
			[]string{"-p tcp -m tcp --dport 1 -j RETURN (and 1 more)", "-p udp -m udp --dport 1 -j RETURN (and 1 more)"}},
		"two targets in turn": {
			[]string{"-p tcp --dport 1 -m conntrack --ctstate NEW -j MARKS", "-p tcp --dport 1 -j CLEAN", "-p tcp --dport 2 -m conntrack --ctstate NEW -j MARKS", "-p tcp --dport 2 -j CLEAN"},
			[]string{"-p tcp -m tcp --dport 1 -m conntrack --ctstate NEW -j MARKS (and 1 more)", "-p tcp -m tcp --dport 1 -j CLEAN (and 1 more)"}},
		"two targets for one port": {
			[]string{"-p tcp --dport 1 -j MARKS", "-p tcp --dport 1 -j CLEAN", "-p tcp --dport 2 -j MARKS", "-p tcp --dport 1 -j MARKS"},
			[]string{"-p tcp -m tcp --dport 1 -j MARKS (and 1 more)", "-p tcp -m tcp --dport 1 -j CLEAN", "-p tcp -m tcp --dport 1 -j MARKS"}},
		"source ports": {
			[]string{"-p udp --sport 1 -j CT --zone 1", "-p udp --sport 2 -j CT --zone 1", "-p udp --sport 3 -j CT --zone 2"},
			[]string{"-p udp -m udp --sport 1 -j CT --zone 1 (and 1 more)", "-p udp -m udp --sport 3 -j CT --zone 2"}},
		"ranges": {
			[]string{"-d 10.0.0.0/8 -j CLEAN", "-d 10.1.0.0/16 -j CLEAN", "-s 10.1.0.0/16 -j CLEAN"},
			[]string{"-d 10.0.0.0/8 -j CLEAN (and 1 more)", "-s 10.1.0.0/16 -j CLEAN"}},
		"ranges that overlap, to a chain that marks": {
			[]string{"-d 10.0.0.0/8 -j MARKS", "-d 10.1.0.0/16 -j MARKS", "-d 11.0.0.0/8 -j MARKS"},
			[]string{"-d 10.0.0.0/8 -j MARKS", "-d 10.1.0.0/16 -j MARKS (and 1 more)"}},
		"ranges of ports": {
			[]string{"-p tcp --dport 1 -j RETURN", "-p tcp -m multiport --dports 2:5,9 -j RETURN", "-p tcp --dport 3 -j RETURN", "-p udp -m multiport --dports 2:5 -j RETURN"},
			[]string{"-p tcp -m tcp --dport 1 -j RETURN (and 2 more)", "-p udp -m multiport --dports 2:5 -j RETURN"}},
		"ranges of ports that overlap, to a chain that marks": {
			[]string{"-p tcp -m multiport --dports 2:5 -j MARKS", "-p tcp --dport 3 -j MARKS", "-p tcp --dport 6 -j MARKS"},
			[]string{"-p tcp -m multiport --dports 2:5 -j MARKS", "-p tcp -m tcp --dport 3 -j MARKS (and 1 more)"}},
		"ranges of ports that do not, to a chain that marks": {
			[]string{"-p tcp -m multiport --dports 2:5 -j MARKS", "-p tcp --dport 6 -j MARKS", "-p tcp --dport 4 -j MARKS"},
			[]string{"-p tcp -m multiport --dports 2:5 -j MARKS (and 1 more)", "-p tcp -m tcp --dport 4 -j MARKS"}},
		"owners": {
			[]string{"-m owner --gid-owner 1 -j RETURN", "-m owner --gid-owner 2 -j RETURN", "-m owner --uid-owner 2 -j RETURN"},
			[]string{"-m owner --gid-owner 1 -j RETURN (and 1 more)", "-m owner --uid-owner 2 -j RETURN"}},
		"across what ends otherwise": {
			[]string{"-p tcp --dport 1 -j RETURN", "-p tcp -j ACCEPT", "-p tcp --dport 2 -j RETURN"},
			[]string{"-p tcp -m tcp --dport 1 -j RETURN", "-p tcp -j ACCEPT", "-p tcp -m tcp --dport 2 -j RETURN"}},
		"across another protocol": {
			[]string{"-p tcp --dport 1 -j RETURN", "-p udp -j ACCEPT", "-p tcp --dport 2 -j RETURN"},
			[]string{"-p tcp -m tcp --dport 1 -j RETURN (and 1 more)", "-p udp -j ACCEPT"}},
		"across another range": {
			[]string{"-d 10.0.0.0/8 -j RETURN", "-d 11.0.0.0/8 -j ACCEPT", "-d 12.0.0.0/8 -j RETURN", "-d 11.1.0.0/16 -j RETURN"},
			[]string{"-d 10.0.0.0/8 -j RETURN (and 1 more)", "-d 11.0.0.0/8 -j ACCEPT", "-d 11.1.0.0/16 -j RETURN"}},
		"two differences": {
			[]string{"-p tcp --dport 1 -d 10.0.0.0/8 -j RETURN", "-p tcp --dport 2 -d 11.0.0.0/8 -j RETURN", "-p tcp --dport 1 -d 12.0.0.0/8 -j RETURN", "-p tcp --dport 3 -d 10.0.0.0/8 -j RETURN"},
			[]string{"-d 10.0.0.0/8 -p tcp -m tcp --dport 1 -j RETURN (and 1 more)", "-d 11.0.0.0/8 -p tcp -m tcp --dport 2 -j RETURN", "-d 10.0.0.0/8 -p tcp -m tcp --dport 3 -j RETURN"}},
		"what a set cannot stand for": {
			[]string{"-p tcp ! --dport 1 -j RETURN", "-p tcp ! --dport 2 -j RETURN", "! -d 10.0.0.0/8 -j RETURN", "! -d 11.0.0.0/8 -j RETURN", "-m owner ! --uid-owner 1 -j RETURN", "-m owner ! --uid-owner 2 -j RETURN"},
			[]string{"-p tcp -m tcp ! --dport 1 -j RETURN", "-p tcp -m tcp ! --dport 2 -j RETURN", "! -d 10.0.0.0/8 -j RETURN", "! -d 11.0.0.0/8 -j RETURN", "-m owner ! --uid-owner 1 -j RETURN", "-m owner ! --uid-owner 2 -j RETURN"}},
		"across what may make it match": {
			[]string{"-d 10.0.0.0/8 -m mark --mark 0x1 -j MARKS", "-p tcp --dport 1 -j MARKS", "-d 11.0.0.0/8 -m mark --mark 0x1 -j MARKS"},
			[]string{"-d 10.0.0.0/8 -m mark --mark 0x1 -j MARKS", "-p tcp -m tcp --dport 1 -j MARKS", "-d 11.0.0.0/8 -m mark --mark 0x1 -j MARKS"}},
		"marks set twice": {
			[]string{"-p tcp --dport 1 -j MARK --set-xmark 0x1", "-p tcp -m mark --mark 0x1 -j ACCEPT", "-p tcp --dport 2 -j MARK --set-xmark 0x1"},
			[]string{"-p tcp -m tcp --dport 1 -j MARK --set-xmark 0x1/0xffffffff", "-p tcp -m mark --mark 0x1 -j ACCEPT", "-p tcp -m tcp --dport 2 -j MARK --set-xmark 0x1/0xffffffff"}},
	} {
		var chain []rules.Rule
		for _, text := range tt.rules {
			r := rules.ParseRule(text)
			if _, foreign := r.Target.(rules.Foreign); foreign {
				t.Fatalf("%s: %s", name, text)
			}
			chain = append(chain, r)
		}
		var got []string
		for _, l := range merged(ofRules(chain), printedChain{}, func(t rules.Target) bool { return t != rules.Jump("MARKS") }) {
			got = append(got, l.String())
		}
		if diff := cmp.Diff(tt.want, got); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
}

// What one family has alone does not change places with what both have, and what both have in another order comes twice.
func TestMergedFamilies(t *testing.T) {
	first, all, second := rules.ParseRule("-p tcp --dport 1 -j RETURN"), rules.ParseRule("-p tcp -j ACCEPT"), rules.ParseRule("-p tcp --dport 2 -j RETURN")
	for _, tt := range []struct {
		four, six []rules.Rule
		want      []rules.Family
	}{
		{[]rules.Rule{first, all, second}, []rules.Rule{all}, []rules.Family{rules.IPv4, both, rules.IPv4}},
		{[]rules.Rule{first, all}, []rules.Rule{first, all, second}, []rules.Family{both, both, rules.IPv6}},
		{[]rules.Rule{first, all}, []rules.Rule{all, first}, []rules.Family{rules.IPv6, both, rules.IPv4}},
	} {
		var got []rules.Family
		for _, l := range merged(ofRules(tt.four), ofRules(tt.six), func(rules.Target) bool { return true }) {
			got = append(got, l.family)
		}
		if !slices.Equal(got, tt.want) {
			t.Errorf("%v, %v: %v", tt.four, tt.six, got)
		}
	}
}

// A port of another protocol than the rule's own, which no packet has, is not in a list of ports of any.
func TestPortsOfAnotherProtocol(t *testing.T) {
	tcp := rules.Protocol(rules.TCP)
	lines := merged(ofRules([]rules.Rule{
		{Target: rules.Return, Match: []rules.Match{tcp, rules.DestinationPort(rules.UDP, 1)}},
		{Target: rules.Return, Match: []rules.Match{tcp, rules.ToAny(rules.PortRange{First: 2, Last: 3})}},
	}), printedChain{}, func(rules.Target) bool { return true })
	if len(lines) != 2 {
		t.Errorf("%d lines", len(lines))
	}
}

// However many rules there are that cannot become one, each is compared with a few of them: as if it came alone.
func TestFewLinesAreCompared(t *testing.T) {
	var chain []rules.Rule
	for i := range uint32(3 * mostLines) {
		chain = append(chain, rules.Rule{Target: rules.Return, Match: []rules.Match{rules.OwnerUID(i), rules.OwnerGID(i)}})
	}
	all := append(slices.Clone(chain), chain[0], chain[len(chain)-mostLines+1])
	if lines := merged(ofRules(all), printedChain{}, func(rules.Target) bool { return true }); len(lines) != len(chain)+1 {
		t.Errorf("%d lines of %d rules", len(lines), len(all))
	}
}

// Rules that overlap lead to a chain only once where it leaves nothing behind on a packet that comes back, nor
// does a chain below it.
func TestChainsThatMark(t *testing.T) {
	for _, tt := range []struct {
		target rules.Target
		table  string
		clean  bool
	}{
		{rules.Return, "mangle", true}, {rules.Accept, "mangle", true}, {rules.SetMark(1), "mangle", false}, {rules.SetConnMark(1), "mangle", false}, {rules.SaveMark{}, "mangle", false},
		{rules.RestoreMark{}, "mangle", false}, {rules.CTZone(1), "raw", false},
	} {
		for _, chain := range []string{"A", "B"} {
			var b rules.Builder
			for _, text := range []string{"10.0.0.0/8", "10.1.0.0/16"} {
				b.Append(tt.table, "OUTPUT", "", rules.Jump("A"), rules.Destination(netip.MustParsePrefix(text)))
			}
			b.Append(tt.table, "B", "", rules.Return)
			b.Append(tt.table, "A", "", rules.Jump("B"))
			b.Append(tt.table, chain, "", tt.target)
			n, err := compile(rules.Plan{V4: b.Ruleset(rules.IPv4)})
			if err != nil || len(n.sets) == 1 != tt.clean {
				t.Errorf("%s in %s: %d sets, %v", tt.target, chain, len(n.sets), err)
			}
		}
	}
}

// A list is written in as many rules as a short one, and the kernel takes one longer than a message can be.
func TestNativeRulesDoNotGrow(t *testing.T) {
	s := newSandbox(t)
	var counts []int
	for _, n := range []int{1, 2, 2000} {
		plan := withLists(t, n)
		s.native(t, plan)
		s.holds(t, plan)
		compiled, err := compile(plan)
		if err != nil {
			t.Fatal(err)
		}
		count := 0
		for _, c := range compiled.chains {
			if c.name != planName {
				count += len(c.rules)
			}
		}
		counts = append(counts, count)
	}
	if counts[0] != counts[1] || counts[1] != counts[2] {
		t.Errorf("there are %v rules for lists of 1, 2 and 2000", counts)
	}
}

// The intervals of a set hold the addresses of the prefixes and no other, apart from each other.
func TestIntervals(t *testing.T) {
	random := draw{rand.New(rand.NewPCG(1, 1))}
	for range 2000 {
		family := pick(random, rules.IPv4, rules.IPv6)
		var prefixes []netip.Prefix
		for range 1 + random.IntN(4) {
			prefixes = append(prefixes, random.prefix(family))
		}
		all := intervals(slices.Clone(prefixes))
		for i, e := range all {
			if e.end != (i%2 == 1) || i > 0 && slices.Compare(all[i-1].key, e.key) >= 0 {
				t.Fatalf("%v give %v", prefixes, all)
			}
		}
		for range 20 {
			addr, in := random.address(family), false
			for _, e := range all {
				if slices.Compare(e.key, addr.AsSlice()) <= 0 {
					in = !e.end
				}
			}
			if want := slices.ContainsFunc(prefixes, func(p netip.Prefix) bool { return p.Contains(addr) }); in != want {
				t.Fatalf("%s in %v: %t, want %t: %v", addr, prefixes, in, want, all)
			}
		}
	}
}

// What cannot be said exactly, or what iptables would not take either, is refused with its place.
func TestNativeRefuses(t *testing.T) {
	plan := func(table, chain string, target rules.Target, match ...rules.Match) rules.Plan {
		var b rules.Builder
		b.Append(table, "OUTPUT", "", rules.Jump("OWN"))
		b.Append(table, "OWN", "", rules.Return)
		b.Append(table, chain, "", target, match...)
		return rules.Plan{V4: b.Ruleset(rules.IPv4)}
	}
	tcp := rules.Protocol(rules.TCP)
	deep := rules.Plan{}
	for n := range 16 { // each but the last has a chain for what follows
		var b rules.Builder
		b.Append("nat", "OUTPUT", "", rules.Jump("A"))
		b.Append("nat", "A", "", rules.Return, tcp)
		for id := range uint32(n) {
			b.Append("nat", "A", "", rules.Jump("B"), rules.Not(rules.OwnerUID(id)))
		}
		b.Append("nat", "B", "", rules.Accept)
		deep = rules.Plan{V4: b.Ruleset(rules.IPv4)}
		if _, err := compile(deep); n < 15 && err != nil {
			t.Errorf("%d conditions: %v", n, err)
		}
	}
	six := rules.Destination(netip.MustParsePrefix("fd00::/8"))
	for name, tt := range map[string]struct {
		plan rules.Plan
		want string
	}{
		"foreign rule":       {plan("nat", "OWN", rules.Foreign("-j LOG")), "cannot be written"},
		"no chain":           {plan("nat", "OWN", rules.Jump("NONE")), "no chain NONE"},
		"loop":               {plan("nat", "OWN", rules.Jump("OWN")), "are a loop"},
		"deep":               {deep, "too many jumps"},
		"hook":               {plan("nat", "FORWARD", rules.Accept), "table nat has no chain FORWARD"},
		"table":              {plan("security", "OUTPUT", rules.Accept), "table security has no chain OUTPUT"},
		"verdict":            {plan("nat", "OWN", rules.Verdict("QUEUE")), "QUEUE"},
		"redirect":           {plan("nat", "OWN", rules.Redirect{Port: 1}), "without a protocol"},
		"ports":              {plan("nat", "OWN", rules.Accept, rules.ToNone(1)), "without a protocol"},
		"some ports":         {plan("nat", "OWN", rules.Accept, rules.ToAny(rules.PortRange{First: 1, Last: 2})), "without a protocol"},
		"dnat":               {plan("nat", "OWN", rules.DNAT{To: netip.IPv4Unspecified(), Port: 1}), "without a protocol"},
		"tproxy, family":     {plan("mangle", "OWN", rules.TProxy{Port: 1, Addr: netip.IPv6Unspecified()}, tcp), ":: is no address of this family"},
		"dnat, family":       {plan("nat", "OWN", rules.DNAT{To: netip.IPv6Loopback()}), "::1 is no address of this family"},
		"reset":              {plan("filter", "OWN", rules.RejectReset, rules.Protocol(rules.UDP)), "need not be TCP"},
		"family":             {plan("nat", "OWN", rules.Accept, six), "fd00::/8 is no address of this family"},
		"family, in a list":  {plan("nat", "OWN", rules.Accept, tcp, six, rules.DestinationPort(rules.TCP, 1)), "fd00::/8 is no address"},
		"mark in raw":        {plan("raw", "OWN", rules.Accept, rules.ConnMark(1)), "no connection in raw"},
		"mark set in raw":    {plan("raw", "OWN", rules.SetConnMark(1)), "no connection in raw"},
		"mark saved in raw":  {plan("raw", "OWN", rules.SaveMark{}), "no connection in raw"},
		"mark copied in raw": {plan("raw", "OWN", rules.RestoreMark{}), "no connection in raw"},
	} {
		if n, err := compile(tt.plan); err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), "iptables") {
			t.Errorf("%s: got %v %v, want %q", name, n, err, tt.want)
		}
	}
	if n, err := compile(plans.Nothing()); err != nil || len(n.chains) > 0 {
		t.Errorf("an empty plan gives %v %v", n, err)
	}
}

// What no packet comes to is not written, but read back.
func TestNativeLeavesOutWhatIsIdle(t *testing.T) {
	plan := plans.Of(t, istio.Standard(), plans.Recorded(t)[0].Pod())
	table := &plan.V4.Tables[0]
	table.Chains = append(table.Chains, rules.Chain{Name: "POSTROUTING", Builtin: true}, rules.Chain{Name: "IDLE", Rules: []rules.Rule{{Target: rules.Drop}}})
	n, err := compile(plan)
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range n.chains {
		if strings.Contains(c.name, "POSTROUTING") || strings.Contains(c.name, "IDLE") {
			t.Errorf("chain %s is written", c.name)
		}
	}
	s := newSandbox(t)
	s.native(t, plan)
	s.holds(t, plan)
}

// What the kernel is said to take at most is what it takes.
func TestDeepestIsTheKernels(t *testing.T) {
	s := newSandbox(t)
	for depth := 14; depth <= 16; depth++ {
		var b rules.Builder
		b.Append("nat", "OUTPUT", "", rules.Jump("C0"))
		for i := range depth - 2 {
			b.Append("nat", fmt.Sprint("C", i), "", rules.Jump(fmt.Sprint("C", i+1)))
		}
		b.Append("nat", fmt.Sprint("C", depth-2), "", rules.Accept)
		s.native(t, rules.Plan{V4: b.Ruleset(rules.IPv4)})
	}
	b := newBatch(nil)
	b.newChain(nativeFamily, nativeTable, "more", hook{})
	more := nativeRule{comment: "one too many"}
	immediate(&more.expressions, unix.NFT_JUMP, "more")
	if err := b.newRule(nativeFamily, nativeTable, "nat-C14", 0, nil, more.appendTo); err != nil {
		t.Fatal(err)
	}
	if err := s.dial(t).transact(b); !errors.Is(err, unix.EMLINK) {
		t.Errorf("one deeper: got %v", err)
	}
}
