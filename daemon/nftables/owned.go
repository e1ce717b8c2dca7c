// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// A process can make a table that nobody else may change (flags owner). When it closes its socket the kernel takes the table away,
// and counts no change: whatever was verified until then would seem to hold.

// passes reports whether a table may go at any moment, and no generation shows it.
func (s state) passes() bool {
	return slices.ContainsFunc(s.tables, func(t object) bool { return t.fleeting })
}

// withOwner is what such a table is.
const withOwner = "the table belongs to a process (flags owner), with which it vanishes: end that process, or the pod"

// Owned returns a difference for each table of the plan's, in the namespace of the calling thread, that goes with its owner.
func Owned(plan rules.Plan) (diffs []rules.Difference, err error) {
	err = look(func(s state, _ []byte) error {
		diffs = s.ownedOf(plan.Rulesets())
		return nil
	})
	return diffs, err
}

func (s state) ownedOf(sets []rules.Ruleset) (diffs []rules.Difference) {
	for _, set := range sets {
		for _, t := range s.tables {
			if t.fleeting && t.family == nfFamily(set.Family) && len(set.Table(name(t.table)).Chains) > 0 {
				diffs = append(diffs, rules.Difference{Family: set.Family, Table: name(t.table), Kind: withOwner})
			}
		}
	}
	return diffs
}

// unsteady is a base chain that is asked, or not: its table may have gone.
func unsteady(b effect.Base) effect.Base {
	const why = "flags owner"
	whole := b.Chain
	b.Fleeting = true
	b.Chain = &effect.Chain{Name: whole.Name, Rules: []effect.Rule{{Unknown: why, Actions: []effect.Action{{Verb: effect.Jump, Chain: whole}}}}}
	if b.Drop {
		b.Drop, b.Rules = false, append(b.Rules, effect.Rule{Unknown: why, Actions: []effect.Action{{Verb: effect.Drop}}})
	}
	return b
}
