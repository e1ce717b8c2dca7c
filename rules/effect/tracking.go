// SPDX-License-Identifier: Apache-2.0

package effect

import "slices"

// Of these verbs, each has the kernel look up connections, as a condition on what these have does.
var tracking = map[Verb]bool{Redirect: true, DNAT: true, SNAT: true, Masquerade: true, SetConnMark: true, SaveMark: true, RestoreMark: true, Zone: true}

// untracking returns the side as it is where the kernel looks up no connections: it asks no chain of nat then. nil where it looks them
// up, or has no such chain. Whether a rule that is not understood has it do so is not known.
func (s *Side) untracking() *Side {
	other, any := *s, false
	seen := map[*Chain]bool{}
	for h, list := range s.hooks {
		other.hooks[h] = slices.Clone(list)
		for i, b := range list {
			if !b.Fleeting && b.tracks(seen) {
				return nil
			}
			if b.Kind == NAT {
				other.hooks[h][i].Chain, other.hooks[h][i].Drop, any = &Chain{}, false, true
			}
		}
	}
	if !any {
		return nil
	}
	return &other
}

func (c *Chain) tracks(seen map[*Chain]bool) bool {
	if c == nil || seen[c] {
		return false
	}
	seen[c] = true
	return slices.ContainsFunc(c.Rules, func(r Rule) bool { return r.tracks(seen) })
}

func (r *Rule) tracks(seen map[*Chain]bool) bool {
	return slices.ContainsFunc(r.Conditions, func(c Condition) bool { return c.Field == CTState || c.Field == ConnMark }) ||
		slices.ContainsFunc(r.Actions, func(a Action) bool {
			return tracking[a.Verb] || a.Chain.tracks(seen) || a.Rest != nil && a.Rest.tracks(seen)
		})
}
