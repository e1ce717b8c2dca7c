// SPDX-License-Identifier: Apache-2.0

package effect

import "slices"

// joiner makes chains shorter without a change of what they do: rules without an effect go, and rules of a row that do the
// same and whose conditions differ in one field become one, since their order does not matter. A thousand ranges are one
// condition then.
type joiner struct {
	done map[*Chain]bool
	pure map[*Chain]bool // results of leavesAlone, without which nested jumps would take exponential time
}

func (j *joiner) shorten(c *Chain) {
	if c == nil || j.done[c] {
		return
	}
	j.done[c] = true
	for _, r := range c.Rules {
		j.within(r.Actions)
	}
	c.Rules = slices.DeleteFunc(c.Rules, func(r Rule) bool { return !slices.ContainsFunc(r.Actions, acts) })
	c.Rules = j.joined(j.joined(c.Rules)) // ports of each protocol, and then the protocols
	for k := len(c.Rules) - 1; k >= 0 && returns(c.Rules[k].Actions); k-- {
		c.Rules = c.Rules[:k]
	}
}

func (j *joiner) within(actions []Action) {
	for _, a := range actions {
		if j.shorten(a.Chain); a.Rest != nil {
			j.within(a.Rest.Actions)
		}
	}
}

// acts reports whether an action does anything. Those of the chain that it leads to are known to.
func acts(a Action) bool {
	return a.Verb != Nothing && (a.Verb != Jump || a.Chain == nil || len(a.Chain.Rules) > 0)
}

// returns reports whether a rule only ends its chain, which at the chain's end makes no difference.
func returns(actions []Action) bool {
	i := slices.IndexFunc(actions, acts)
	return i < 0 || actions[i].Verb == Return || actions[i].Verb == Goto && actions[i].Chain != nil && len(actions[i].Chain.Rules) == 0
}

// lookBack is how many rules before one of a row are tried to be joined with it.
const lookBack = 4

func (j *joiner) joined(all []Rule) []Rule {
	type growing struct {
		condition int
		spans     []Span // in order only in the end, so that many take little time
	}
	var out []Rule
	var more []growing
next:
	for _, r := range all {
		for k := len(out) - 1; k >= max(0, len(out)-lookBack) && slices.Equal(out[k].Actions, r.Actions); k-- {
			if x, ok := j.differByOne(&out[k], &r); ok && (len(more[k].spans) == 0 || more[k].condition == x) {
				more[k] = growing{x, append(more[k].spans, r.Conditions[x].Set.all()...)}
				continue next
			}
		}
		out, more = append(out, r), append(more, growing{})
	}
	for k, m := range more {
		if len(m.spans) > 0 {
			out[k].Conditions = slices.Clone(out[k].Conditions)
			set := &out[k].Conditions[m.condition].Set
			*set = Union(append(m.spans, set.all()...)...)
		}
	}
	return out
}

// differByOne returns the index of the only condition in which two rules of the same actions differ, if they can be one.
func (j *joiner) differByOne(a, b *Rule) (index int, ok bool) {
	if a.Unknown != "" || b.Unknown != "" || len(a.Conditions) != len(b.Conditions) || len(a.Conditions) == 0 || !j.joinable(a.Actions) {
		return 0, false
	}
	differ := 0
	for i := range a.Conditions {
		x, y := a.Conditions[i], b.Conditions[i]
		if x.Field != y.Field || x.Bare != y.Bare {
			return 0, false
		}
		if !x.Set.equal(y.Set) {
			index = i
			differ++
		}
	}
	return index, differ <= 1
}

// joinable reports whether packets that met the actions do not reach the next rule, or reach it unchanged.
func (j *joiner) joinable(actions []Action) bool {
	if len(actions) == 0 {
		return true
	}
	if ends[actions[len(actions)-1].Verb] {
		return true
	}
	return !slices.ContainsFunc(actions, func(a Action) bool { return a.Verb != Nothing && (a.Verb != Jump || !j.leavesAlone(a.Chain)) })
}

// leavesAlone reports whether packets return from a chain unchanged, so that sending them there again has no effect.
func (j *joiner) leavesAlone(c *Chain) bool {
	if c == nil {
		return false
	}
	if known, ok := j.pure[c]; ok {
		return known
	}
	j.pure[c] = false // ends a loop, which the kernel would refuse
	for _, r := range c.Rules {
		if r.Unknown != "" {
			return false
		}
		for _, a := range r.Actions {
			if changes[a.Verb] || (a.Verb == Jump || a.Verb == Goto) && !j.leavesAlone(a.Chain) {
				return false
			}
		}
	}
	j.pure[c] = true
	return true
}
