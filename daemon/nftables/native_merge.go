// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"cmp"
	"maps"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// line is a rule, or several merged into one that differ in one condition only. It has the effect of all of them in
// order.
type line struct {
	familyRule                      // the first of them
	list       int                  // the condition that differs; -1 for a single rule
	values     map[rules.Match]bool // what stands in its place in any of the rules
	wide       bool                 // one of the values covers several that a packet may have
}

// merged turns the rules of a chain, of each family, into lines. A rule joins an earlier line only if its order with the lines
// in between does not matter.
func merged(four, six printedChain, once func(rules.Target) bool) []*line {
	lines := make([]*line, 0, len(four.Rules))
	for _, r := range familyRules(four, six) {
		if !joins(lines, r, once(r.Target)) {
			lines = append(lines, &line{familyRule: r, list: -1})
		}
	}
	return lines
}

// The most lines that a rule is compared with, and the most values of a line where each has to be looked at. A plan with
// more is translated too, into more rules.
const mostLines, mostValues = 16, 256

// joins adds a rule to one of the lines, and reports whether it could. Only where once is true, that is, where meeting the
// target again has no effect, may merged rules overlap or change places.
func joins(lines []*line, r familyRule, once bool) bool {
	for _, l := range slices.Backward(lines[max(0, len(lines)-mostLines):]) {
		if place, ok := l.differs(r); ok && (once || place >= 0 && l.apart(r.Match[place], place)) {
			l.add(r, place)
			return true
		}
		if commute := once && l.Target == r.Target || l.excludes(r); !commute {
			return false
		}
	}
	return false
}

// differs returns the one condition in which a rule differs from the line, which must be one that a set can replace; -1
// where there is none.
func (l *line) differs(r familyRule) (place int, ok bool) {
	if r.family != l.family || r.Target != l.Target || len(r.Match) != len(l.Match) {
		return -1, false
	}
	place = l.list
	for i, m := range r.Match {
		if m == l.Match[i] {
			continue
		}
		if place >= 0 && place != i || !sameList(m, l.Match[i]) || !sameProtocol(l.Match, m, l.Match[i]) {
			return -1, false
		}
		place = i
	}
	return place, true
}

func (l *line) add(r familyRule, place int) {
	if place < 0 {
		return // the same rule again
	}
	if l.list < 0 {
		l.list, l.values = place, map[rules.Match]bool{}
		l.take(l.Match[place])
	}
	l.take(r.Match[place])
}

func (l *line) take(value rules.Match) {
	l.values[value] = true
	l.wide = l.wide || several(value)
}

// several reports whether a condition covers more than one value that a packet may have.
func several(m rules.Match) bool {
	switch m.Value.(type) {
	case rules.Addresses, rules.PortList:
		return true
	}
	return false
}

// apart reports whether no packet that has the value there has one of the line's. It need not see every such case.
func (l *line) apart(value rules.Match, place int) bool {
	switch {
	case place != l.list:
		return excluding(value, l.Match[place])
	case !l.wide && !several(value):
		return !l.values[value]
	case len(l.values) > mostValues:
		return false
	}
	for other := range l.values {
		if !excluding(value, other) {
			return false
		}
	}
	return true
}

// listAt returns the values that the rules have there, in no order; nil where they differ in another place.
func (l *line) listAt(place int) []rules.Match {
	if place != l.list {
		return nil
	}
	return slices.Collect(maps.Keys(l.values))
}

// excludes reports whether no packet meets both the line and the rule: they differ in something that no rule
// changes on the way.
func (l *line) excludes(r familyRule) bool {
	if l.family != both && r.family != both && l.family != r.family {
		return true
	}
	for i, mine := range l.Match {
		for _, other := range r.Match {
			if i == l.list {
				if sameList(mine, other) && l.apart(other, i) {
					return true
				}
			} else if excluding(mine, other) {
				return true
			}
		}
	}
	return false
}

// excluding reports whether no packet meets both conditions. It need not see every such case.
func excluding(a, b rules.Match) bool {
	if pa, pb := protocolOf(a), protocolOf(b); pa != "" && pb != "" && pa != pb {
		return true
	}
	switch {
	case !sameList(a, b):
		return false
	case !several(a) && !several(b):
		return a != b
	}
	if ra, ok := a.Value.(rules.Addresses); ok {
		return !ra.Overlaps(b.Value.(rules.Addresses).Prefix)
	}
	return !slices.ContainsFunc(a.Ports(), func(ra rules.PortRange) bool {
		return slices.ContainsFunc(b.Ports(), func(rb rules.PortRange) bool { return ra.First <= rb.Last && rb.First <= ra.Last })
	})
}

// sameList reports whether both are conditions on the same thing, of a kind that a set can stand for: what a
// packet has is one of the values.
func sameList(a, b rules.Match) bool {
	if a.Not || b.Not || fields[a.Field].set.name == "" || fields[a.Field].location != fields[b.Field].location {
		return false
	}
	switch v := a.Value.(type) {
	case rules.Addresses:
		return v.Addr().Is4() == b.Value.(rules.Addresses).Addr().Is4()
	case rules.IDs:
		other := b.Value.(rules.IDs)
		return v.First == v.Last && other.First == other.Last
	}
	return several(a) || several(b) || protocolOf(a) == protocolOf(b)
}

// sameProtocol reports whether a list of ports, which may be any protocol's, and a port of one stand under that protocol.
func sameProtocol(all []rules.Match, a, b rules.Match) bool {
	if several(a) == several(b) {
		return true
	}
	return slices.Contains(all, rules.Protocol(protocolOf(a)+protocolOf(b)))
}

// arranged returns conditions in the order in which a packet is asked for them, as they are read back from
// text: without host bits, and without those that every packet meets.
func arranged(list []rules.Match) []rules.Match {
	out := make([]rules.Match, 0, len(list))
	for _, m := range list {
		if a, ok := m.Value.(rules.Addresses); ok {
			m.Value = rules.Addresses{Prefix: a.Masked()}
			if a.Bits() == 0 && !m.Not {
				continue
			}
		}
		if m.Field != rules.FieldComment {
			out = append(out, m)
		}
	}
	slices.SortStableFunc(out, func(a, b rules.Match) int { return cmp.Compare(fields[a.Field].order, fields[b.Field].order) })
	return out
}

// protocolOf returns the protocol that a condition asks for.
func protocolOf(m rules.Match) string {
	switch v := m.Value.(type) {
	case rules.Transport:
		return string(v)
	case rules.Port:
		return v.Protocol
	}
	return ""
}
