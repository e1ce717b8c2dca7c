// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// What can be shown without any packet.
const (
	whyUnreachable = "no packet gets to the chain: the mesh writes it whether it is used or not"
	whyTaken       = "the rules before it in the chain have taken every packet that it could match"
	whyDisjoint    = "no packet gets to both rules, so that their order does not matter"
	whyIdle        = "the rules after it, or those that it jumps to, do nothing to what it lets go"
	whySame        = "a rule after it does the same to what it takes"
)

// prove shows why a mutant cannot be told from the rule set, or returns "".
func prove(rs rules.Ruleset, m Mutant) string {
	table := rs.Table(m.Table)
	ways := waysTo(table, m.Chain)
	if len(ways) == 0 {
		return whyUnreachable
	}
	chain, _ := table.Chain(m.Chain)
	before, after := chain.Rules[:m.Index], chain.Rules[m.Index+1:]
	always := func(hold func(facts []rules.Match) bool, match []rules.Match) bool {
		return !slices.ContainsFunc(ways, func(w way) bool { return !hold(w.with(match)) })
	}
	isTaken := func(facts []rules.Match) bool { return taken(table, before, facts, splits) }
	isIdle := func(target rules.Target) func([]rules.Match) bool {
		_, comesBack := target.(rules.Jump) // to the rules after it
		return func(facts []rules.Match) bool {
			return isTaken(facts) || harmless(table, target, facts) && (comesBack || idle(table, before, after, facts))
		}
	}
	if m.What == swapped {
		switch both := slices.Concat(m.Rule.Match, after[0].Match); {
		case always(isTaken, both):
			return whyDisjoint
		case always(isIdle(m.Rule.Target), both):
			return whyIdle
		}
		return ""
	}
	was, now := difference(m)
	isSame := func(r rules.Rule) func([]rules.Match) bool {
		return func(facts []rules.Match) bool {
			return isTaken(facts) || again(table, m.Chain, r, before, after, facts)
		}
	}
	switch {
	case always(isTaken, was) && (m.Changed == nil || always(isTaken, now)):
		return whyTaken
	case always(isIdle(m.Rule.Target), was) && (m.Changed == nil || always(isIdle(m.Changed.Target), now)):
		return whyIdle
	case always(isSame(m.Rule), was) && (m.Changed == nil || m.Changed.Target == m.Rule.Target && always(isSame(*m.Changed), now)):
		return whySame
	}
	return ""
}

// difference returns which packets the rule matches in its old form and not in its new one, and the other
// way round, as far as conditions can say it.
func difference(m Mutant) (was, now []rules.Match) {
	was = slices.Clone(m.Rule.Match)
	if m.Changed == nil {
		return was, nil
	}
	now = slices.Clone(m.Changed.Match)
	if m.Changed.Target != m.Rule.Target {
		return was, now
	}
	changed := -1
	for i := range was {
		if was[i] != now[i] {
			if changed >= 0 {
				return was, now // more than one: what is left out here only makes it harder to show
			}
			changed = i
		}
	}
	old, young := was[changed], now[changed]
	if not, ok := opposite(young); ok {
		was = append(was, not)
	}
	if not, ok := opposite(old); ok {
		now = append(now, not)
	}
	return was, now
}

// way is how a packet gets to a chain: from a built-in one, by the conditions of jumps.
type way struct {
	table string
	hook  string
	facts []rules.Match
}

// waysTo returns every way to a chain that a packet can go.
func waysTo(table rules.Table, name string) []way {
	if c, ok := table.Chain(name); ok && c.Builtin {
		return []way{{table: table.Name, hook: name}}
	}
	var all []way
	for _, c := range table.Chains {
		for i, r := range c.Rules {
			if r.Target != rules.Jump(name) {
				continue
			}
			for _, w := range waysTo(table, c.Name) {
				if facts := w.with(r.Match); !taken(table, c.Rules[:i], facts, splits) {
					all = append(all, way{w.table, w.hook, facts})
				}
			}
		}
	}
	return all
}

// with adds what a rule asks, and what follows from it: the kernel sends to loopback addresses by lo only, but for what nat
// has redirected before the filter sees it, and what arrives by another interface has no mark yet.
func (w way) with(match []rules.Match) []rules.Match {
	facts := slices.Concat(w.facts, match)
	for _, m := range match {
		to, _ := m.Value.(rules.Addresses)
		switch {
		case m.Not:
		case m.Field == rules.FieldDestination && w.hook == "OUTPUT" && w.table != "filter" && to.Addr().IsLoopback() && (to.Bits() >= 8 || to.Addr().Is6()):
			facts = append(facts, rules.OutInterface("lo"))
		case m.Field == rules.FieldMark && w.hook == "PREROUTING":
			facts = append(facts, rules.InInterface("lo"))
		}
	}
	return facts
}

// harmless reports whether a target does nothing to a packet but to let it go.
func harmless(table rules.Table, target rules.Target, facts []rules.Match) bool {
	switch target := target.(type) {
	case rules.Verdict:
		return target == rules.Return
	case rules.Jump:
		c, _ := table.Chain(string(target))
		return idle(table, nil, c.Rules, facts)
	}
	return false
}

// idle reports whether rules do nothing to any packet of which the facts hold, so that it might as well have
// been let go before them. What only TCP or all but TCP has to fear is looked at one after the other.
func idle(table rules.Table, before, after []rules.Rule, facts []rules.Match) bool {
	tcp := rules.Protocol(rules.TCP)
	if !follows(facts, tcp) && !follows(facts, rules.Not(tcp)) && !follows(facts, rules.Protocol(rules.UDP)) {
		return idle(table, before, after, append(slices.Clone(facts), tcp)) &&
			idle(table, before, after, append(slices.Clone(facts), rules.Not(tcp)))
	}
	for i, r := range after {
		both := slices.Concat(facts, r.Match)
		if taken(table, slices.Concat(before, after[:i]), both, splits) {
			continue
		}
		if !harmless(table, r.Target, both) {
			return false
		}
		if r.Target == rules.Return && followsAll(facts, r.Match) {
			return true
		}
	}
	return true
}

// again reports whether a later rule has the same target as one for every packet of which the facts hold, and the same counter,
// with nothing between that stops it.
func again(table rules.Table, chain string, one rules.Rule, before, after []rules.Rule, facts []rules.Match) bool {
	for i, r := range after {
		both := slices.Concat(facts, r.Match)
		same := r.Target == one.Target && r.Counter(chain) == one.Counter(chain)
		switch _, jumps := r.Target.(rules.Jump); {
		case same && followsAll(facts, r.Match):
			return true
		case taken(table, slices.Concat(before, after[:i]), both, splits):
		case same: // for some, and for the others a rule after it may
		case !jumps || !harmless(table, r.Target, both):
			return false
		}
	}
	return false
}

// splits is how many conditions of earlier rules are looked at both ways.
const splits = 3

// taken reports whether rules have ended the walk through their chain for every packet of which the facts hold.
func taken(table rules.Table, before []rules.Rule, facts []rules.Match, depth int) bool {
	if contradictory(facts) {
		return true
	}
	for _, r := range before {
		if followsAll(facts, r.Match) && ends(table, r.Target, facts) {
			return true
		}
	}
	if depth == 0 {
		return false
	}
	var looked []rules.Match
	for _, r := range before {
		for _, m := range r.Match {
			not, ok := opposite(m)
			if !ok || slices.Contains(looked, m) || slices.Contains(looked, not) {
				continue
			}
			looked = append(looked, m)
			if follows(facts, m) || follows(facts, not) {
				continue
			}
			if protocol := portOf(m); protocol != "" && !follows(facts, rules.Protocol(protocol)) {
				continue // the packet may be of another protocol: neither holds then
			}
			if taken(table, before, append(slices.Clone(facts), m), depth-1) && taken(table, before, append(slices.Clone(facts), not), depth-1) {
				return true
			}
		}
	}
	return false
}

// ends reports whether a target never lets a packet go on in its chain. A chain that is jumped to does so where
// its first rule takes the packet for good.
func ends(table rules.Table, target rules.Target, facts []rules.Match) bool {
	switch target := target.(type) {
	case rules.Verdict, rules.Redirect, rules.TProxy, rules.RejectWith, rules.CTZone: // of zones the first is kept
		return true
	case rules.Jump:
		c, _ := table.Chain(string(target))
		if len(c.Rules) == 0 || !followsAll(facts, c.Rules[0].Match) {
			return false
		}
		_, jumps := c.Rules[0].Target.(rules.Jump)
		return !jumps && c.Rules[0].Target != rules.Return && ends(table, c.Rules[0].Target, facts)
	}
	return false
}
