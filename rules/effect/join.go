// SPDX-License-Identifier: Apache-2.0

package effect

import "slices"

// joiner merges neighbouring rules that do the same and whose conditions differ in one field only, since their order does
// not matter: a thousand ranges become one condition.
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
		for _, a := range r.Actions {
			j.shorten(a.Chain)
		}
	}
	c.Rules = j.joined(c.Rules)
}

func (j *joiner) joined(all []Rule) []Rule {
	var out []Rule
	for _, r := range all {
		if k := len(out) - 1; k >= 0 {
			if x, ok := j.differByOne(&out[k], &r); ok { // the spans are put in order once, below
				set := &out[k].Conditions[x].Set
				set.spans = append(set.spans, r.Conditions[x].Set.spans...)
				continue
			}
		}
		r.Conditions = slices.Clone(r.Conditions)
		for i := range r.Conditions {
			r.Conditions[i].Set.spans = slices.Clone(r.Conditions[i].Set.spans)
		}
		out = append(out, r)
	}
	for i := range out {
		for k := range out[i].Conditions {
			out[i].Conditions[k].Set = Union(out[i].Conditions[k].Set.spans...)
		}
	}
	return out
}

// differByOne returns the index of the only condition in which two rules that can be one differ.
func (j *joiner) differByOne(a, b *Rule) (index int, ok bool) {
	if a.Unknown != "" || b.Unknown != "" || len(a.Conditions) != len(b.Conditions) || len(a.Conditions) == 0 ||
		!slices.Equal(a.Actions, b.Actions) || !j.joinable(a.Actions) {
		return 0, false
	}
	differ := 0
	for i := range a.Conditions {
		x, y := a.Conditions[i], b.Conditions[i]
		if x.Field != y.Field || x.Bare != y.Bare {
			return 0, false
		}
		if !slices.Equal(x.Set.spans, y.Set.spans) {
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
	switch actions[len(actions)-1].Verb {
	case Accept, Drop, Return, Goto, Redirect, DNAT, Reject:
		return true
	case Nothing, Jump, TProxy, SetMark, SaveMark, RestoreMark, Zone, NoTrack, Unknown:
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
			switch a.Verb {
			case SetMark, SaveMark, RestoreMark, Zone, NoTrack, Unknown, TProxy:
				return false
			case Jump, Goto:
				if !j.leavesAlone(a.Chain) {
					return false
				}
			case Nothing, Accept, Drop, Return, Redirect, DNAT, Reject:
			}
		}
	}
	j.pure[c] = true
	return true
}
