// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"math/rand/v2"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Damaged changes a few rules at random: some changes mean nothing.
func Damaged(random *rand.Rand, rs rules.Ruleset) rules.Ruleset {
	rs.Tables = slices.Clone(rs.Tables)
	for ti := range rs.Tables {
		rs.Tables[ti].Chains = slices.Clone(rs.Tables[ti].Chains)
		for ci := range rs.Tables[ti].Chains {
			rs.Tables[ti].Chains[ci].Rules = slices.Clone(rs.Tables[ti].Chains[ci].Rules)
		}
	}
	for range 1 + random.IntN(3) {
		t := &rs.Tables[random.IntN(len(rs.Tables))]
		c := &t.Chains[random.IntN(len(t.Chains))]
		if len(c.Rules) == 0 {
			continue
		}
		i, j := random.IntN(len(c.Rules)), random.IntN(len(c.Rules))
		switch random.IntN(6) {
		case 0:
			c.Rules = slices.Delete(c.Rules, i, i+1)
		case 1:
			c.Rules[i], c.Rules[j] = c.Rules[j], c.Rules[i]
		case 2:
			c.Rules = slices.Insert(c.Rules, j, c.Rules[i])
		case 3:
			c.Rules[i].Match = slices.Clone(c.Rules[i].Match)
			if k := len(c.Rules[i].Match); k > 0 {
				c.Rules[i].Match = slices.Delete(c.Rules[i].Match, k-1, k)
			}
		case 4:
			c.Rules = slices.Insert(c.Rules, i, rules.Rule{Target: rules.Return, Match: c.Rules[j].Match})
		case 5: // the same in other words
			c.Rules = slices.Insert(c.Rules, i, rules.Rule{Target: rules.Jump("EMPTY"), Match: c.Rules[j].Match})
			if _, ok := t.Chain("EMPTY"); !ok {
				t.Chains = append(t.Chains, rules.Chain{Name: "EMPTY"})
			}
		}
	}
	return rs
}
