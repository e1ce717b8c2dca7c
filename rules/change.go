// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Change returns the input for `iptables-restore --noflush` that turns have into want, and leaves every
// rule of others where it is. It is "" where nothing is to be changed. Our rules of a built-in chain come
// before everybody else's, so that no earlier rule hides them. Each table is one transaction.
func Change(have, want Ruleset, ours Footprint) string {
	var out strings.Builder
	for _, name := range tableNames(have, want) {
		if len(diffTable(have.Table(name), want.Table(name), ours)) > 0 {
			changeTable(&out, have.Table(name), want.Table(name), ours)
		}
	}
	return out.String()
}

func tableNames(sets ...Ruleset) []string {
	var names []string
	for _, rs := range sets {
		for _, t := range rs.Tables {
			names = append(names, t.Name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

func changeTable(out *strings.Builder, have, want Table, ours Footprint) {
	own := ownRules(have, ours)
	stale := staleChains(have, want, ours)

	fmt.Fprintf(out, "*%s\n", want.Name)
	for _, c := range want.Chains {
		if !c.Builtin {
			fmt.Fprintf(out, ":%s - [0:0]\n", c.Name) // creates the chain, or empties it
		}
	}
	for _, name := range stale {
		fmt.Fprintf(out, ":%s - [0:0]\n", name)
	}
	for _, c := range have.Chains {
		if !c.Builtin {
			continue
		}
		for i := len(c.Rules) - 1; i >= 0; i-- { // from the end, so that numbers stay right
			if own[c.Name][i] != theirs {
				fmt.Fprintf(out, "-D %s %d\n", c.Name, i+1)
			}
		}
	}
	for _, c := range want.Chains {
		before, _ := have.Chain(c.Name)
		foreign := c.Builtin && slices.Contains(own[before.Name], theirs)
		for i, r := range c.Rules {
			if foreign {
				fmt.Fprintf(out, "-I %s %d %s\n", c.Name, i+1, r)
			} else {
				fmt.Fprintf(out, "-A %s %s\n", c.Name, r)
			}
		}
	}
	for _, name := range stale {
		if !referenced(have, name, own) {
			fmt.Fprintf(out, "-X %s\n", name)
		}
	}
	out.WriteString("COMMIT\n")
}

// staleChains returns our chains that want no longer has.
func staleChains(have, want Table, ours Footprint) []string {
	var stale []string
	for _, c := range have.Chains {
		if _, wanted := want.Chain(c.Name); !wanted && ours.chain(c) {
			stale = append(stale, c.Name)
		}
	}
	return stale
}

// referenced tells whether a rule of somebody else jumps to our chain: it can be emptied, not deleted.
func referenced(t Table, chain string, own map[string][]ownership) bool {
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			if own[c.Name][i] == theirs && r.jumpsTo(chain) {
				return true
			}
		}
	}
	return false
}

func (r Rule) jumpsTo(chain string) bool {
	switch t := r.Target.(type) {
	case Jump:
		return string(t) == chain
	case Foreign:
		words := strings.Fields(string(t))
		return slices.Contains(words, chain)
	}
	return false
}

// String returns the rule set as iptables-restore reads it.
func (rs Ruleset) String() string { return Change(Ruleset{}, rs, Footprint{}) }
