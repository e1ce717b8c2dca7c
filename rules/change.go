// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"slices"
	"strings"
)

// Edit turns one table into what a plan wants, step by step in the order of its fields. Every rule of others stays where
// it is.
type Edit struct {
	Table  string
	Empty  []string    // our chains: each is created, or emptied
	Delete []Place     // rules of built-in chains, those of each chain from its end on
	Insert []Insertion // in the order of their chains
	Drop   []string    // our chains that nothing needs any more
}

// Place is where a rule stands: Index counts from 0.
type Place struct {
	Chain string
	Index int
}

// Insertion is a rule that comes to stand at a place.
type Insertion struct {
	Place
	Rule         Rule
	Builtin      bool // the chain is one
	BeforeOthers bool // rules of others follow in this chain; else it is the last rule there
}

// Edits returns what turns have into want. Our rules of a built-in chain come before everybody else's, so
// that no earlier rule hides them. A table that holds what it should is left out.
func Edits(have, want Ruleset, ours Footprint) []Edit {
	var edits []Edit
	for _, name := range tableNames(have, want) {
		h, w := have.Table(name), want.Table(name)
		if len(h.Chains) == 0 && w.rules() > 0 || len(diffTable(h, w, ours)) > 0 {
			edits = append(edits, edit(h, w, ours))
		}
	}
	return edits
}

// Change returns the Edits as input for `iptables-restore --noflush`, "" where there are none. Each table is
// one transaction.
func Change(have, want Ruleset, ours Footprint) string {
	var out strings.Builder
	for _, e := range Edits(have, want, ours) {
		e.print(&out)
	}
	return out.String()
}

func (e Edit) print(out *strings.Builder) {
	fmt.Fprintf(out, "*%s\n", e.Table)
	for _, name := range e.Empty {
		fmt.Fprintf(out, ":%s - [0:0]\n", name) // creates the chain, or empties it
	}
	for _, p := range e.Delete {
		fmt.Fprintf(out, "-D %s %d\n", p.Chain, p.Index+1)
	}
	for _, in := range e.Insert {
		if in.BeforeOthers {
			fmt.Fprintf(out, "-I %s %d %s\n", in.Chain, in.Index+1, in.Rule)
		} else {
			fmt.Fprintf(out, "-A %s %s\n", in.Chain, in.Rule)
		}
	}
	for _, name := range e.Drop {
		fmt.Fprintf(out, "-X %s\n", name)
	}
	out.WriteString("COMMIT\n")
}

func (t Table) rules() (n int) {
	for _, c := range t.Chains {
		n += len(c.Rules)
	}
	return n
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

func edit(have, want Table, ours Footprint) Edit {
	own := ownRules(have, ours)
	stale := staleChains(have, want, ours)
	e := Edit{Table: want.Name, Insert: make([]Insertion, 0, want.rules())}
	for _, c := range want.Chains {
		if !c.Builtin {
			e.Empty = append(e.Empty, c.Name)
		}
	}
	e.Empty = append(e.Empty, stale...)
	for _, c := range have.Chains {
		for i := len(c.Rules) - 1; c.Builtin && i >= 0; i-- { // from the end, so that indexes stay right
			if own[c.Name][i] != theirs {
				e.Delete = append(e.Delete, Place{c.Name, i})
			}
		}
	}
	for _, c := range want.Chains {
		before, _ := have.Chain(c.Name)
		foreign := c.Builtin && slices.Contains(own[before.Name], theirs)
		for i, r := range c.Rules {
			e.Insert = append(e.Insert, Insertion{Place{c.Name, i}, r, c.Builtin, foreign})
		}
	}
	needed := referenced(have, stale, own)
	for _, name := range stale {
		if !needed[name] {
			e.Drop = append(e.Drop, name)
		}
	}
	return e
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

// referenced returns the names that rules of somebody else lead to: chains of ours among these can be emptied, not deleted. It
// reads each rule once, as there may be thousands of either; where there is none of these chains, it need not be known.
func referenced(t Table, chains []string, own map[string][]ownership) map[string]bool {
	if len(chains) == 0 {
		return nil
	}
	names := map[string]bool{}
	for _, c := range t.Chains {
		for i, r := range c.Rules {
			if own[c.Name][i] != theirs {
				continue
			}
			switch to := r.Target.(type) {
			case Jump:
				names[string(to)] = true
			case Foreign:
				for word := range strings.FieldsSeq(string(to)) {
					names[word] = true
				}
			}
		}
	}
	return names
}

// String returns the rule set as iptables-restore reads it.
func (rs Ruleset) String() string { return Change(Ruleset{}, rs, Footprint{}) }
