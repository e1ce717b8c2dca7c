// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
)

// A mesh small enough to read: one chain each way, a mark, an excluded interface.
var ours = rules.Footprint{Chains: []string{"OUR_IN", "OUR_OUT", "OUR_OLD"}, Marks: []uint32{0x42}}

const smallPlan = "*nat\n" +
	":PREROUTING ACCEPT\n:OUTPUT ACCEPT\n:OUR_IN -\n:OUR_OUT -\n" +
	"-A PREROUTING -i net1 -j RETURN\n" +
	"-A PREROUTING -p tcp -j OUR_IN\n" +
	"-A OUTPUT -o net1 -j RETURN\n" +
	"-A OUTPUT -j OUR_OUT\n" +
	"-A OUR_IN -p tcp -j REDIRECT --to-ports 1\n" +
	"-A OUR_OUT -p tcp -j REDIRECT --to-ports 2\n" +
	"COMMIT\n"

func small(t *testing.T) rules.Ruleset {
	t.Helper()
	return parseSave(t, rules.IPv4, smallPlan)
}

// filled returns a namespace with the given lines in it.
func filled(t *testing.T, text string) *kernel {
	t.Helper()
	k := newKernel(rules.IPv4)
	if err := k.restore(text); err != nil {
		t.Fatal(err)
	}
	return k
}

func TestChangeText(t *testing.T) {
	golden.Check(t, "fresh.golden", rules.Change(rules.Ruleset{}, small(t), ours))
	k := newKernel(rules.IPv4)
	k.apply(t, small(t), ours)
	if err := k.restore("*nat\n-I OUTPUT 1 -s 10.9.9.9/32 -j ACCEPT\n-A PREROUTING -p icmp -m comment --comment \"a b\" -j RETURN\nCOMMIT\n"); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "among-others.golden", rules.Change(k.state(t), small(t), ours))
	golden.Check(t, "removal.golden", rules.Change(k.state(t), rules.Ruleset{}, ours))
}

func TestChangeScenarios(t *testing.T) {
	const fresh = ""
	others := []string{"-s 10.9.9.1/32 -j ACCEPT", `-p icmp -m comment --comment "OUR  words" -j RETURN`}
	for _, tt := range []struct {
		name, before string
		differences  []string
		prerouting   []string // of nat, after the plan is in
		left         []string // after its removal
	}{
		{name: "fresh", before: fresh,
			differences: []string{
				"iptables nat: missing: -A PREROUTING -i net1 -j RETURN",
				"iptables nat: missing: -A PREROUTING -p tcp -j OUR_IN",
				"iptables nat: missing: -A OUTPUT -o net1 -j RETURN",
				"iptables nat: missing: -A OUTPUT -j OUR_OUT",
				"iptables nat: missing: chain OUR_IN",
				"iptables nat: missing: chain OUR_OUT",
			},
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "others alone", before: "*nat\n-A PREROUTING " + others[0] + "\n-A PREROUTING " + others[1] + "\nCOMMIT\n",
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", others[0], others[1]},
			left:       []string{"nat PREROUTING " + others[0], "nat PREROUTING " + others[1]}},
		{name: "another's rule before ours",
			before:      changed(small(t), "*nat\n-I PREROUTING 1 "+others[0]+"\nCOMMIT\n"),
			differences: []string{"iptables nat: not first: -A PREROUTING " + others[0]},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", others[0]},
			left:        []string{"nat PREROUTING " + others[0]}},
		{name: "another's rule between ours",
			before:      changed(small(t), "*nat\n-I PREROUTING 2 "+others[1]+"\nCOMMIT\n"),
			differences: []string{"iptables nat: not first: -A PREROUTING " + others[1]},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", others[1]},
			left:        []string{"nat PREROUTING " + others[1]}},
		{name: "another's rule after ours", before: changed(small(t), "*nat\n-A PREROUTING "+others[0]+"\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", others[0]},
			left:        []string{"nat PREROUTING " + others[0]}},
		{name: "a rule added to our chain", before: changed(small(t), "*nat\n-I OUR_IN 1 "+others[0]+"\nCOMMIT\n"),
			differences: []string{"iptables nat: unexpected: -A OUR_IN " + others[0]},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "a rule of ours lost", before: changed(small(t), "*nat\n-D OUR_IN 1\nCOMMIT\n"),
			differences: []string{"iptables nat: missing: -A OUR_IN -p tcp -j REDIRECT --to-ports 1"},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "a rule of ours twice", before: changed(small(t), "*nat\n-A PREROUTING -p tcp -j OUR_IN\nCOMMIT\n"),
			differences: []string{"iptables nat: unexpected: -A PREROUTING -p tcp -j OUR_IN"},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "order turned", before: changed(small(t), "*nat\n-D PREROUTING 1\n-A PREROUTING -i net1 -j RETURN\nCOMMIT\n"),
			differences: []string{"iptables nat: out of order: -A PREROUTING -p tcp -j OUR_IN",
				"iptables nat: out of order: -A PREROUTING -i net1 -j RETURN"},
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "a stale chain", before: changed(small(t), "*nat\n:OUR_OLD - [0:0]\n-A OUR_OLD -j RETURN\n-A OUTPUT -j OUR_OLD\nCOMMIT\n"),
			differences: []string{"iptables nat: unexpected: -A OUTPUT -j OUR_OLD",
				"iptables nat: unexpected: chain OUR_OLD", "iptables nat: unexpected: -A OUR_OLD -j RETURN"},
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"}},
		{name: "a stale chain in another table", before: "*mangle\n:OUR_OLD - [0:0]\n-A OUR_OLD -j RETURN\n-A INPUT -j OUR_OLD\n" +
			"-A INPUT -m mark --mark 0x42 -j ACCEPT\n-A INPUT -m mark --mark 0x43 -j ACCEPT\nCOMMIT\n",
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:       []string{"mangle INPUT -m mark --mark 0x43 -j ACCEPT"}},
		{name: "our marks without our chains are another's", before: "*mangle\n-A INPUT -m mark --mark 0x42 -j ACCEPT\nCOMMIT\n",
			prerouting: []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:       []string{"mangle INPUT -m mark --mark 0x42 -j ACCEPT"}},
		{name: "another's interface after ours", before: changed(small(t), "*nat\n-A PREROUTING -i eth7 -j RETURN\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", "-i eth7 -j RETURN"},
			left:        []string{"nat PREROUTING -i eth7 -j RETURN"}},
		{name: "another's rule for our interface, later",
			before:      changed(small(t), "*nat\n-A PREROUTING "+others[0]+"\n-A PREROUTING -i net1 -j RETURN\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN", others[0], "-i net1 -j RETURN"},
			left:        []string{"nat PREROUTING " + others[0], "nat PREROUTING -i net1 -j RETURN"}},
		{name: "another's chains", before: changed(small(t), "*nat\n:THEIRS - [0:0]\n-A THEIRS -p tcp -j ACCEPT\n-A OUTPUT -j THEIRS\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:        []string{"nat :THEIRS", "nat OUTPUT -j THEIRS", "nat THEIRS -p tcp -j ACCEPT"}},
		// What others jump to cannot be deleted: it is left, empty.
		{name: "another's chain jumps to ours", before: changed(small(t), "*nat\n:THEIRS - [0:0]\n-A THEIRS -j OUR_OUT\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:        []string{"nat :OUR_OUT", "nat :THEIRS", "nat THEIRS -j OUR_OUT"}},
		{name: "another's rule jumps to ours",
			before:      changed(small(t), "*nat\n-A OUTPUT -p tcp -m comment --comment \"x\" -j OUR_OUT\nCOMMIT\n"),
			differences: []string{},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:        []string{"nat :OUR_OUT", `nat OUTPUT -p tcp -m comment --comment "x" -j OUR_OUT`}},
		{name: "another's rule jumps to a stale chain",
			before:      changed(small(t), "*nat\n:OUR_OLD - [0:0]\n-A OUR_OLD -j RETURN\n-A OUTPUT -p tcp -m comment --comment \"x\" -j OUR_OLD\nCOMMIT\n"),
			differences: []string{"iptables nat: unexpected: chain OUR_OLD", "iptables nat: unexpected: -A OUR_OLD -j RETURN"},
			prerouting:  []string{"-i net1 -j RETURN", "-p tcp -j OUR_IN"},
			left:        []string{"nat :OUR_OLD", `nat OUTPUT -p tcp -m comment --comment "x" -j OUR_OLD`}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			k, want := filled(t, tt.before), small(t)
			if tt.differences != nil {
				var got []string
				for _, d := range rules.Diff(k.state(t), want, ours) {
					got = append(got, d.String())
				}
				if diff := cmp.Diff(tt.differences, got, compare); diff != "" {
					t.Errorf("differences (-want +got):\n%s", diff)
				}
			}
			k.apply(t, want, ours)
			k.holds(t, want, ours)
			if diff := cmp.Diff(tt.prerouting, k.chain("nat", "PREROUTING")); diff != "" {
				t.Errorf("PREROUTING (-want +got):\n%s", diff)
			}
			k.apply(t, rules.Ruleset{}, ours)
			k.holds(t, rules.Ruleset{}, ours)
			if diff := cmp.Diff(tt.left, k.lines(), compare); diff != "" {
				t.Errorf("after the removal (-want +got):\n%s", diff)
			}
		})
	}
}

// changed returns the text that puts a plan in and then something else.
func changed(plan rules.Ruleset, more string) string { return plan.String() + more }

// A table that needs no change is not written: a commit replaces what somebody else may be writing.
func TestChangeOnlyTheTablesThatDiffer(t *testing.T) {
	want := parseSave(t, rules.IPv4, smallPlan+"*mangle\n:INPUT ACCEPT\n:OUR_IN -\n-A INPUT -j OUR_IN\n-A OUR_IN -j ACCEPT\nCOMMIT\n")
	k := filled(t, small(t).String())
	change := k.apply(t, want, ours)
	if !strings.Contains(change, "*mangle\n") || strings.Contains(change, "*nat\n") {
		t.Errorf("want mangle alone in:\n%s", change)
	}
	k.holds(t, want, ours)
	if got := k.apply(t, small(t), ours); strings.Contains(got, "*nat\n") {
		t.Errorf("want mangle alone in:\n%s", got)
	}
	if slices.ContainsFunc(k.lines(), func(l string) bool { return strings.HasPrefix(l, "mangle ") }) {
		t.Errorf("mangle is not clean: %q", k.lines())
	}
}

func TestDifferenceString(t *testing.T) {
	for want, d := range map[string]rules.Difference{
		"ip6tables raw: missing: chain X":                {Family: rules.IPv6, Table: "raw", Chain: "X", Kind: "missing"},
		"iptables nat: unexpected: -A OUTPUT -j RETURN":  {Family: rules.IPv4, Table: "nat", Chain: "OUTPUT", Kind: "unexpected", Rule: "-j RETURN"},
		"iptables nat: table is off (dormant)":           {Family: rules.IPv4, Table: "nat", Kind: "table is off (dormant)"},
		"inet meshnetd: missing: the whole table":        {Table: "inet meshnetd", Kind: "missing", Rule: "the whole table"},
		"inet meshnetd: missing: chain a skuid 1 return": {Table: "inet meshnetd", Chain: "a", Kind: "missing", Rule: "skuid 1 return"},
		"inet meshnetd: unexpected: chain a":             {Table: "inet meshnetd", Chain: "a", Kind: "unexpected"},
	} {
		if d.String() != want {
			t.Errorf("got %q, want %q", d, want)
		}
	}
}

// Somebody may write thousands of chains that are called as ours, and of rules beside them: each is read once, not once for each other.
func TestChangeOfThousandsOfChains(t *testing.T) {
	const many = 16 << 10
	theirs := rules.Chain{Name: "THEIRS"}
	table := rules.Table{Name: "filter"}
	for i := range many {
		table.Chains = append(table.Chains, rules.Chain{Name: fmt.Sprintf("MESHNETD_LOCK_%d_OUT", i)})
		theirs.Rules = append(theirs.Rules, rules.Rule{Target: rules.Foreign("-m mac --mac-source 02:00:00:00:00:01 -j MESHNETD_LOCK_7_OUT")})
	}
	table.Chains = append(table.Chains, theirs)
	have, want := rules.Ruleset{Family: rules.IPv4, Tables: []rules.Table{table}}, rules.Ruleset{Family: rules.IPv4}
	if diffs := rules.Diff(have, want, ours); len(diffs) != many-1 {
		t.Errorf("%d differences", len(diffs))
	}
	if edits := rules.Edits(have, want, ours); len(edits) != 1 || len(edits[0].Empty) != many || len(edits[0].Drop) != many-1 {
		t.Errorf("got %d edits", len(edits))
	}
}
