// SPDX-License-Identifier: Apache-2.0

package main

import (
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
func excludes(a, b rules.Match) bool { return implies(a, rules.Not(b)) }

// portOf returns the protocol that a condition on a port names.
func portOf(m rules.Match) string {
	port, _ := m.Value.(rules.Port)
	return port.Protocol
}

// implies reports whether a packet that fulfils the fact fulfils the conclusion. Negated ports are those of packets of the
// protocol, which a rule with a port asks for as well.
func implies(fact, conclusion rules.Match) bool {
	spoken, asked := portOf(fact), portOf(conclusion)
	switch {
	case conclusion.Field == rules.FieldComment: // which every packet meets
		return !conclusion.Not
	case conclusion.Field == rules.FieldProtocol && spoken != "":
		return (rules.Transport(spoken) == conclusion.Value) != conclusion.Not
	case !sameField(fact, conclusion) || asked != "" && spoken != "" && asked != spoken:
		return false
	case asked != "" && spoken == "" && !conclusion.Not: // a list may be of another protocol
		return false
	case fact.Not && conclusion.Not:
		return within(conclusion.Value, fact.Value)
	case conclusion.Not:
		return apart(fact.Value, conclusion.Value)
	}
	return !fact.Not && within(fact.Value, conclusion.Value)
}

func sameField(a, b rules.Match) bool {
	list := func(m rules.Match) bool {
		return m.Field == rules.FieldDestinationPort || m.Field == rules.FieldDestinationPorts
	}
	return a.Field == b.Field || list(a) && list(b)
}

// within reports whether all of one value is part of another.
func within(a, b rules.Value) bool {
	switch b := b.(type) {
	case rules.Addresses:
		a := a.(rules.Addresses)
		return a.Bits() >= b.Bits() && b.Contains(a.Addr())
	case rules.IDs:
		a := a.(rules.IDs)
		return b.First <= a.First && a.Last <= b.Last
	case rules.CTState:
		return a.(rules.CTState)&^b == 0
	case rules.Port, rules.PortList:
		return !slices.ContainsFunc(ports(a), func(r rules.PortRange) bool {
			return !slices.ContainsFunc(ports(b), func(all rules.PortRange) bool { return all.First <= r.First && r.Last <= all.Last })
		})
	}
	return a == b
}

// apart reports whether two values have nothing in common.
func apart(a, b rules.Value) bool {
	switch b := b.(type) {
	case rules.Addresses:
		return !a.(rules.Addresses).Overlaps(b.Prefix)
	case rules.IDs:
		a := a.(rules.IDs)
		return a.Last < b.First || b.Last < a.First
	case rules.CTState:
		return a.(rules.CTState)&b == 0
	case rules.Port, rules.PortList:
		return !slices.ContainsFunc(ports(a), func(r rules.PortRange) bool {
			return slices.ContainsFunc(ports(b), func(other rules.PortRange) bool { return r.First <= other.Last && other.First <= r.Last })
		})
	}
	return a != b
}

func ports(v rules.Value) []rules.PortRange { return rules.Match{Value: v}.Ports() }

// opposite returns the condition that holds where this one does not, if rules have one.
func opposite(m rules.Match) (rules.Match, bool) {
	negated := []rules.Field{rules.FieldDestination, rules.FieldUID, rules.FieldGID, rules.FieldMark, rules.FieldDestinationPort, rules.FieldDestinationPorts}
	return rules.Not(m), slices.Contains(negated, m.Field)
}
