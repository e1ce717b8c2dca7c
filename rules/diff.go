// SPDX-License-Identifier: Apache-2.0

package rules

import "strings"

// Difference is one way in which the kernel does not hold the plan.
type Difference struct {
	Family Family // 0 in a table that is not iptables'
	Table  string
	Chain  string // "" where the table itself is meant
	Kind   string // such as "missing", "unexpected", "not first" or "out of order"
	Rule   string // "" where the whole chain or table is meant
}

// String returns the difference as `meshnetd verify` prints it.
func (d Difference) String() string {
	var what string
	switch {
	case d.Family == 0 && d.Chain != "":
		what = ": " + strings.TrimSpace("chain "+d.Chain+" "+d.Rule)
	case d.Family == 0:
		what = ": " + d.Rule
	case d.Rule != "":
		what = ": -A " + d.Chain + " " + d.Rule
	case d.Chain != "":
		what = ": chain " + d.Chain
	}
	where := d.Table
	if d.Family != 0 {
		where = d.Family.String() + " " + where
	}
	return where + ": " + d.Kind + what
}

// Diff compares what iptables-save showed with what a plan wants. Our chains must hold exactly the plan's
// rules in their order, and our rules of built-in chains must be the first ones there; rules of others
// after them are no difference.
func Diff(have, want Ruleset, ours Footprint) []Difference {
	var diffs []Difference
	for _, name := range tableNames(have, want) {
		for _, d := range diffTable(have.Table(name), want.Table(name), ours) {
			d.Family, d.Table = want.Family, name
			diffs = append(diffs, d)
		}
	}
	return diffs
}

func diffTable(have, want Table, ours Footprint) []Difference {
	var diffs []Difference
	own := ownRules(have, ours)
	for _, c := range want.Chains {
		got, ok := have.Chain(c.Name)
		if !ok && !c.Builtin {
			diffs = append(diffs, Difference{Chain: c.Name, Kind: "missing"})
			continue
		}
		diffs = append(diffs, diffChain(got, c, own[c.Name])...)
	}
	needed := referenced(have, staleChains(have, want, ours), own)
	for _, c := range have.Chains {
		if _, wanted := want.Chain(c.Name); wanted {
			continue
		}
		if ours.chain(c) && (len(c.Rules) > 0 || !needed[c.Name]) {
			diffs = append(diffs, Difference{Chain: c.Name, Kind: "unexpected"})
		}
		diffs = append(diffs, diffChain(c, Chain{Name: c.Name, Builtin: c.Builtin}, own[c.Name])...)
	}
	return diffs
}

// diffChain compares one chain, own telling which of its rules are ours.
func diffChain(have, want Chain, own []ownership) []Difference {
	var diffs []Difference
	add := func(kind, rule string) {
		diffs = append(diffs, Difference{Chain: want.Name, Kind: kind, Rule: rule})
	}
	var got []string
	for i, r := range have.Rules {
		if i < len(want.Rules) && own[i] == theirs && want.Builtin && r.String() != want.Rules[i].String() {
			add("not first", r.String())
		}
		if own[i] == certain || (i < len(want.Rules) && r.String() == want.Rules[i].String()) {
			got = append(got, r.String())
		}
	}
	var wanted []string
	for _, r := range want.Rules {
		wanted = append(wanted, r.String())
	}
	itself := func(rule string) string { return rule }
	missing, unexpected := Without(wanted, got, itself), Without(got, wanted, itself)
	for _, rule := range missing {
		add("missing", rule)
	}
	for _, rule := range unexpected {
		add("unexpected", rule)
	}
	if len(missing)+len(unexpected) == 0 {
		for i := range wanted {
			if wanted[i] != got[i] {
				add("out of order", got[i])
			}
		}
	}
	return diffs
}

// Without returns what a list holds more often than another one, in its order. Items are the same whose keys are.
func Without[T any](list, other []T, key func(T) string) (rest []T) {
	count := map[string]int{}
	for _, item := range other {
		count[key(item)]++
	}
	for _, item := range list {
		if k := key(item); count[k] > 0 {
			count[k]--
		} else {
			rest = append(rest, item)
		}
	}
	return rest
}
