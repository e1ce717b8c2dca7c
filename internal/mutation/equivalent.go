// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// equivalent is a kind of mutant that no packet can tell from the rules, for a reason that takes knowledge
// of more than one chain.
type equivalent struct {
	why   string
	holds func(rs rules.Ruleset, m Mutant) bool
}

// equivalents are all such kinds. Every other mutant must be told by a packet, or shown by prove.
var equivalents = []equivalent{
	{"TPROXY without inbound capture: there is no jump and no route that would look at the marks", func(rs rules.Ruleset, m Mutant) bool {
		_, captures := rs.Table("mangle").Chain("ISTIO_TPROXY")
		return m.Table == "mangle" && m.Chain == "OUTPUT" && !captures && marks(m.Rule) && (m.Changed == nil || marks(*m.Changed))
	}},
	{"a connection that carries the mark exists already: by lo, its packets get to its socket with either mark", func(rs rules.Ruleset, m Mutant) bool {
		return m.Chain == "OUTPUT" && m.What == swapped && m.Rule.Target == rules.SetMark(1338) && m.next(rs).Target == rules.RestoreMark{}
	}},
	{"what carries the proxy's mark already would be given the same one from its connection", func(rs rules.Ruleset, m Mutant) bool {
		return m.Changed == nil && m.Chain == "MESHNETD_STATIC_OUT" && m.Rule.Target == rules.Target(rules.Return) && m.next(rs).Target == rules.RestoreMark{}
	}},
	{"what comes back by lo has its route already: the mark of ISTIO_DIVERT changes nothing for it", func(rs rules.Ruleset, m Mutant) bool {
		return m.Chain == "ISTIO_INBOUND" && m.What == swapped && slices.Contains(m.Rule.Match, rules.InInterface("lo")) &&
			m.next(rs).Target == rules.Jump("ISTIO_DIVERT")
	}},
	{"a packet of no connection has none to mark: a lockdown counts it with any mark", func(_ rules.Ruleset, m Mutant) bool {
		return m.Changed != nil && setsConnMark(m.Rule) && setsConnMark(*m.Changed) && slices.Contains(m.Rule.Match, rules.InState(rules.StateInvalid)) &&
			slices.Equal(m.Rule.Match, m.Changed.Match)
	}},
	{"by an interface, nothing else comes to loopback than what nat has sent there: to its listeners, of which the rule has all", func(_ rules.Ruleset, m Mutant) bool {
		return m.Changed != nil && strings.HasSuffix(m.Chain, "_OUT") && m.Table == rules.LockdownTable && m.Rule.Target == m.Changed.Target &&
			toLoopback(m.Rule) && toLoopback(*m.Changed) && followsAll(m.Rule.Match, m.Changed.Match)
	}},
}

// reason tells why a mutant cannot be told from the rule set, or returns "".
func reason(rs rules.Ruleset, m Mutant) string {
	if why := prove(rs, m); why != "" {
		return why
	}
	for _, e := range equivalents {
		if e.holds(rs, m) {
			return e.why
		}
	}
	return ""
}

// next returns the rule after the mutant's.
func (m Mutant) next(rs rules.Ruleset) rules.Rule {
	c, _ := rs.Table(m.Table).Chain(m.Chain)
	return c.Rules[m.Index+1]
}

func setsConnMark(r rules.Rule) bool {
	_, sets := r.Target.(rules.SetConnMark)
	return sets
}

// toLoopback reports whether a rule is for what is sent to the loopback address, or to it and its neighbour.
func toLoopback(r rules.Rule) bool {
	return slices.ContainsFunc(r.On(rules.FieldDestination), func(m rules.Match) bool {
		to := m.Value.(rules.Addresses)
		return !m.Not && to.Addr().IsLoopback() && to.Bits() >= to.Addr().BitLen()-1
	})
}

func marks(r rules.Rule) bool {
	switch r.Target.(type) {
	case rules.SetMark, rules.RestoreMark:
		return true
	}
	return false
}
