// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

func followsAll(facts, conclusions []rules.Match) bool {
	return !slices.ContainsFunc(conclusions, func(m rules.Match) bool { return !follows(facts, m) })
}

func follows(facts []rules.Match, conclusion rules.Match) bool {
	return slices.ContainsFunc(facts, func(fact rules.Match) bool { return implies(fact, conclusion) })
}

func contradictory(facts []rules.Match) bool {
	for i, a := range facts {
		for _, b := range facts[i+1:] {
			if excludes(a, b) || excludes(b, a) {
				return true
			}
		}
	}
	return false
}

// excludes reports whether no packet fulfils both conditions.
func excludes(a, b rules.Match) bool {
	if not, ok := opposite(b); ok && implies(a, not) {
		return true
	}
	switch a := a.(type) {
	case rules.Protocol:
		other, ok := b.(rules.Protocol)
		return ok && a != other || portOf(b) != "" && portOf(b) != string(a)
	case notProtocol:
		return implies(b, a.Protocol)
	case rules.InInterface:
		other, ok := b.(rules.InInterface)
		return ok && a != other
	case rules.OutInterface:
		other, ok := b.(rules.OutInterface)
		return ok && a != other
	case rules.CTState:
		other, ok := b.(rules.CTState)
		return ok && a&other == 0
	case rules.SourcePort:
		other, ok := b.(rules.SourcePort)
		return ok && a.Port != other.Port
	case rules.Source:
		other, ok := b.(rules.Source)
		return ok && !a.Prefix.Overlaps(other.Prefix)
	case rules.ConnMark:
		other, ok := b.(rules.ConnMark)
		return ok && a != other
	}
	return false
}

// portOf returns the protocol that a condition on a port names.
func portOf(m rules.Match) string {
	switch m := m.(type) {
	case rules.SourcePort:
		return m.Protocol
	case rules.DestinationPort:
		return m.Protocol
	}
	return ""
}

// implies reports whether a packet that fulfils the fact fulfils the conclusion.
func implies(fact, conclusion rules.Match) bool {
	switch c := conclusion.(type) {
	case rules.DestinationPorts:
		f, ok := fact.(rules.DestinationPort)
		return fact == conclusion || ok && !f.Not && c.Ports.Contains(f.Port) != c.Not
	case rules.Protocol:
		return fact == conclusion || portOf(fact) == string(c)
	case notProtocol:
		return fact == conclusion || excludes(fact, c.Protocol)
	case rules.DestinationPort:
		if f, ok := fact.(rules.DestinationPorts); ok {
			return c.Not && f.Ports.Contains(c.Port) == f.Not
		}
		f, ok := fact.(rules.DestinationPort)
		return ok && f.Protocol == c.Protocol && (f == c || !f.Not && c.Not && f.Port != c.Port)
	case rules.Comment: // which every packet meets
		return true
	case rules.Destination:
		f, ok := fact.(rules.Destination)
		return ok && prefixImplies(f, c)
	case rules.OwnerUID:
		f, ok := fact.(rules.OwnerUID)
		return ok && (f == c || !f.Not && c.Not && f.ID != c.ID)
	case rules.OwnerGID:
		f, ok := fact.(rules.OwnerGID)
		return ok && (f == c || !f.Not && c.Not && f.ID != c.ID)
	case rules.PacketMark:
		f, ok := fact.(rules.PacketMark)
		return ok && (f == c || !f.Not && c.Not && f.Mark != c.Mark)
	case rules.CTState:
		f, ok := fact.(rules.CTState)
		return ok && f&^c == 0
	}
	return fact == conclusion
}

func prefixImplies(f, c rules.Destination) bool {
	inside := func(a, b netip.Prefix) bool { return a.Bits() >= b.Bits() && b.Contains(a.Addr()) }
	switch {
	case !f.Not && !c.Not:
		return inside(f.Prefix, c.Prefix)
	case !f.Not && c.Not:
		return !f.Prefix.Overlaps(c.Prefix)
	case f.Not && c.Not:
		return inside(c.Prefix, f.Prefix)
	}
	return false
}

// notProtocol holds for every other protocol. No rule has it.
type notProtocol struct{ rules.Protocol }

// opposite returns the condition that holds where this one does not, if there is one.
func opposite(m rules.Match) (rules.Match, bool) {
	switch m := m.(type) {
	case rules.Destination:
		m.Not = !m.Not
		return m, true
	case rules.OwnerUID:
		m.Not = !m.Not
		return m, true
	case rules.OwnerGID:
		m.Not = !m.Not
		return m, true
	case rules.PacketMark:
		m.Not = !m.Not
		return m, true
	case rules.DestinationPort: // of packets of the protocol, which a rule with a port asks for as well
		m.Not = !m.Not
		return m, true
	case rules.DestinationPorts: // the same
		m.Not = !m.Not
		return m, true
	}
	return nil, false
}
