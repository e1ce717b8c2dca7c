// SPDX-License-Identifier: Apache-2.0

package rules

import "slices"

// Captures reports whether a packet that leaves or enters can come to a rule of the plan that takes it to another listener.
// Chains that nothing leads to, and rules behind one that takes every packet, prove nothing.
func (p Plan) Captures() bool {
	return slices.ContainsFunc(p.Rulesets(), func(set Ruleset) bool {
		return slices.ContainsFunc(set.Tables, func(t Table) bool { return t.Captures("OUTPUT") || t.Captures("PREROUTING") })
	})
}

// Captures reports whether a packet in a chain can come to a rule, there or where it jumps to, that takes it to another listener.
func (t Table) Captures(chain string) bool { return t.captures(chain, map[string]bool{}) }

// captures goes through a chain and those that it leads to, each once.
func (t Table) captures(chain string, seen map[string]bool) bool {
	if seen[chain] {
		return false
	}
	seen[chain] = true
	c, _ := t.Chain(chain)
	for _, r := range c.Rules {
		switch target := r.Target.(type) {
		case Redirect, DNAT, TProxy:
			return true
		case Jump:
			if t.captures(string(target), seen) {
				return true
			}
		case Verdict:
			if len(r.Match) == 0 {
				return false
			}
		}
	}
	return false
}
