// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// line is a rule, or several in one that differ in one condition only. It does what they do one after the
// other.
type line struct {
	rules.Rule                      // the first of them
	list       int                  // which condition differs; -1 where there is one rule only
	values     map[rules.Match]bool // what stands in its place in any of the rules
}

// merged makes lines of the rules of a chain. A rule joins an earlier one across those between that leave it
// the same whether they come before or after it.
func merged(chain []rules.Rule, once func(rules.Target) bool) []*line {
	lines := make([]*line, 0, len(chain))
	for _, r := range chain {
		r.Match = arranged(r.Match)
		if !joins(lines, r, once(r.Target)) {
			lines = append(lines, &line{Rule: r, list: -1})
		}
	}
	return lines
}

// joins adds a rule to one of the lines. Where once is true, a packet that meets the rule's target a second
// time is not changed by it any more: only then may rules overlap that become one, or change places.
func joins(lines []*line, r rules.Rule, once bool) bool {
	for _, l := range slices.Backward(lines) {
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

// differs returns the one condition in which a rule is not as the line, which must be one that a set can
// stand for. It is -1 where there is no such condition.
func (l *line) differs(r rules.Rule) (place int, ok bool) {
	if r.Target != l.Target || len(r.Match) != len(l.Match) {
		return -1, false
	}
	place = l.list
	for i, m := range r.Match {
		if equal(m, l.Match[i]) {
			continue
		}
		if place >= 0 && place != i || !sameList(m, l.Match[i]) {
			return -1, false
		}
		place = i
	}
	return place, true
}

func (l *line) add(r rules.Rule, place int) {
	if place < 0 {
		return // the same rule again
	}
	if l.list < 0 {
		l.list, l.values = place, map[rules.Match]bool{l.Match[place]: true}
	}
	l.values[r.Match[place]] = true
}

// apart tells whether no packet that has the value there has one of the line's.
func (l *line) apart(value rules.Match, place int) bool {
	if _, ranges := addressOf(value); !ranges {
		return !l.has(value, place)
	}
	for _, other := range l.listAt(place) {
		if !excluding(value, other) {
			return false
		}
	}
	return place == l.list || excluding(value, l.Match[place])
}

// has tells whether one of the rules has the value there.
func (l *line) has(value rules.Match, place int) bool {
	if place == l.list {
		return l.values[value]
	}
	return equal(l.Match[place], value)
}

// listAt returns the values that the rules have there, in no order; nil where they differ in another place.
func (l *line) listAt(place int) []rules.Match {
	if place != l.list {
		return nil
	}
	values := make([]rules.Match, 0, len(l.values))
	for value := range l.values {
		values = append(values, value)
	}
	return values
}

// excludes tells whether no packet meets both the line and the rule: they differ in something that no rule
// changes on the way.
func (l *line) excludes(r rules.Rule) bool {
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

// excluding tells whether no packet meets both conditions. It need not see every such case.
func excluding(a, b rules.Match) bool {
	if pa, pb := protocolOf(a), protocolOf(b); pa != "" && pb != "" && pa != pb {
		return true
	}
	if ra, ok := addressOf(a); ok && sameList(a, b) {
		rb, _ := addressOf(b)
		return !ra.Overlaps(rb)
	}
	return sameList(a, b) && a != b
}

// sameList tells whether both are conditions on the same thing, of a kind that a set can stand for: what a
// packet has is one of the values.
func sameList(a, b rules.Match) bool {
	switch a := a.(type) {
	case rules.DestinationPort:
		b, ok := b.(rules.DestinationPort)
		return ok && a.Protocol == b.Protocol && !a.Not && !b.Not
	case rules.SourcePort:
		b, ok := b.(rules.SourcePort)
		return ok && a.Protocol == b.Protocol
	case rules.Destination:
		b, ok := b.(rules.Destination)
		return ok && !a.Not && !b.Not && a.Prefix.Addr().Is4() == b.Prefix.Addr().Is4()
	case rules.Source:
		b, ok := b.(rules.Source)
		return ok && a.Prefix.Addr().Is4() == b.Prefix.Addr().Is4()
	case rules.OwnerUID:
		b, ok := b.(rules.OwnerUID)
		return ok && !a.Not && !b.Not
	case rules.OwnerGID:
		b, ok := b.(rules.OwnerGID)
		return ok && !a.Not && !b.Not
	}
	return false
}

// equal compares two conditions.
func equal(a, b rules.Match) bool {
	if a, ok := a.(rules.NotDestinationPorts); ok {
		b, ok := b.(rules.NotDestinationPorts)
		return ok && slices.Equal(a, b)
	}
	if a, ok := a.(rules.DestinationPorts); ok {
		b, ok := b.(rules.DestinationPorts)
		return ok && slices.Equal(a, b)
	}
	switch b.(type) {
	case rules.NotDestinationPorts, rules.DestinationPorts:
		return false
	}
	return a == b
}

// arranged returns conditions in the order in which a packet is asked for them, as they are read back from
// text: without host bits, and without those that every packet meets.
func arranged(list []rules.Match) []rules.Match {
	out := make([]rules.Match, 0, len(list))
	for _, m := range list {
		switch a := m.(type) {
		case rules.Comment:
			continue
		case rules.Source:
			m = rules.Source{Prefix: a.Prefix.Masked()}
			if a.Prefix.Bits() == 0 {
				continue
			}
		case rules.Destination:
			m = rules.Destination{Prefix: a.Prefix.Masked(), Not: a.Not}
			if a.Prefix.Bits() == 0 && !a.Not {
				continue
			}
		}
		out = append(out, m)
	}
	slices.SortStableFunc(out, func(a, b rules.Match) int { return cmp.Compare(askedAt(a), askedAt(b)) })
	return out
}

func askedAt(m rules.Match) int {
	switch m.(type) {
	case rules.InInterface:
		return 0
	case rules.OutInterface:
		return 1
	case rules.Protocol:
		return 2
	case rules.Source:
		return 3
	case rules.Destination:
		return 4
	}
	return 5
}

// protocolOf returns the protocol that a condition asks for.
func protocolOf(m rules.Match) string {
	switch m := m.(type) {
	case rules.Protocol:
		return string(m)
	case rules.SourcePort:
		return m.Protocol
	case rules.DestinationPort:
		return m.Protocol
	}
	return ""
}

// addressOf returns the prefix of a condition on an address.
func addressOf(m rules.Match) (netip.Prefix, bool) {
	switch m := m.(type) {
	case rules.Source:
		return m.Prefix, true
	case rules.Destination:
		return m.Prefix, true
	}
	return netip.Prefix{}, false
}
