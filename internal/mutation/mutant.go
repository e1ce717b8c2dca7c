// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Mutant is a rule set in which one thing is changed.
type Mutant struct {
	Table, Chain string
	Index        int // of the rule, from 0
	Rule         rules.Rule
	What         string      // the change, such as "deleted"
	Changed      *rules.Rule // what stands in the rule's place now; nil where it is deleted or swapped
	Rules        rules.Ruleset
}

// What is done to a rule as a whole.
const (
	deleted = "deleted"
	swapped = "swapped with the next"
)

// String names the place and the change.
func (m Mutant) String() string {
	return fmt.Sprintf("%s %s %d: %s: %s", m.Table, m.Chain, m.Index+1, m.Rule, m.What)
}

// Mutants returns the rule set with each rule deleted, swapped with the next where their targets differ, and
// with each of its values changed.
func Mutants(rs rules.Ruleset) []Mutant {
	var all []Mutant
	for t, table := range rs.Tables {
		for c, chain := range table.Chains {
			for i, r := range chain.Rules {
				add := func(what string, changed *rules.Rule, now []rules.Rule) {
					all = append(all, Mutant{table.Name, chain.Name, i, r, what, changed, with(rs, t, c, now)})
				}
				add(deleted, nil, slices.Delete(slices.Clone(chain.Rules), i, i+1))
				if i+1 < len(chain.Rules) && chain.Rules[i+1].Target != r.Target {
					now := slices.Clone(chain.Rules)
					now[i], now[i+1] = now[i+1], now[i]
					add(swapped, nil, now)
				}
				for _, v := range variants(r) {
					now := slices.Clone(chain.Rules)
					now[i] = v.rule
					add(v.what, &v.rule, now)
				}
			}
		}
	}
	return all
}

// with returns a rule set with other rules in one chain.
func with(rs rules.Ruleset, table, chain int, changed []rules.Rule) rules.Ruleset {
	rs.Tables = slices.Clone(rs.Tables)
	rs.Tables[table].Chains = slices.Clone(rs.Tables[table].Chains)
	rs.Tables[table].Chains[chain].Rules = changed
	return rs
}

type variant struct {
	what string
	rule rules.Rule
}

// variants returns the rule with each of its values changed.
func variants(r rules.Rule) []variant {
	var all []variant
	for i, m := range r.Match {
		for _, other := range otherMatches(m) {
			changed := r
			changed.Match = slices.Clone(r.Match)
			changed.Match[i] = other
			if p, ok := other.(rules.Protocol); ok { // the ports of a rule are those of its protocol
				speak(changed.Match, string(p))
			}
			all = append(all, variant{fmt.Sprintf("%v -> %v", m, other), changed})
		}
	}
	for _, other := range otherTargets(r.Target) {
		changed := r
		changed.Target = other
		all = append(all, variant{fmt.Sprintf("%v -> %v", r.Target, other), changed})
	}
	return all
}

func speak(matches []rules.Match, protocol string) {
	for i, m := range matches {
		switch m := m.(type) {
		case rules.SourcePort:
			m.Protocol = protocol
			matches[i] = m
		case rules.DestinationPort:
			m.Protocol = protocol
			matches[i] = m
		}
	}
}

func otherMatches(m rules.Match) []rules.Match {
	switch m := m.(type) {
	case rules.Protocol:
		if m == rules.TCP {
			return []rules.Match{rules.Protocol(rules.UDP)}
		}
		return []rules.Match{rules.Protocol(rules.TCP)}
	case rules.Source:
		var all []rules.Match
		for _, p := range otherPrefixes(m.Prefix) {
			all = append(all, rules.Source{Prefix: p})
		}
		return all
	case rules.Destination:
		all := []rules.Match{rules.Destination{Prefix: m.Prefix, Not: !m.Not}}
		for _, p := range otherPrefixes(m.Prefix) {
			all = append(all, rules.Destination{Prefix: p, Not: m.Not})
		}
		return all
	case rules.InInterface:
		return []rules.Match{rules.InInterface("eth0")}
	case rules.OutInterface:
		return []rules.Match{rules.OutInterface("eth0")}
	case rules.SourcePort:
		return []rules.Match{rules.SourcePort{Protocol: m.Protocol, Port: m.Port + 1}}
	case rules.DestinationPort:
		return []rules.Match{rules.DestinationPort{Protocol: m.Protocol, Port: m.Port + 1, Not: m.Not},
			rules.DestinationPort{Protocol: m.Protocol, Port: m.Port, Not: !m.Not}}
	case rules.OwnerUID:
		return []rules.Match{rules.OwnerUID{ID: m.ID + 1, Not: m.Not}, rules.OwnerUID{ID: m.ID, Not: !m.Not}}
	case rules.OwnerGID:
		return []rules.Match{rules.OwnerGID{ID: m.ID + 1, Not: m.Not}, rules.OwnerGID{ID: m.ID, Not: !m.Not}}
	case rules.CTState:
		all := []rules.Match{(rules.StateInvalid | rules.StateNew | rules.StateRelated | rules.StateEstablished | rules.StateUntracked) &^ m}
		for bit := rules.StateInvalid; bit <= rules.StateUntracked; bit <<= 1 {
			if m&bit != 0 && m != bit {
				all = append(all, m&^bit)
			}
		}
		return all
	case rules.PacketMark:
		return []rules.Match{rules.PacketMark{Mark: m.Mark + 1, Not: m.Not}, rules.PacketMark{Mark: m.Mark, Not: !m.Not}}
	case rules.ConnMark:
		return []rules.Match{rules.ConnMark{Mark: m.Mark + 1}}
	case rules.DestinationPorts:
		var all []rules.Match
		for i, r := range m.Ports.All() {
			ports := slices.Clone(m.Ports.All())
			switch next := r.Last + 1; {
			case next != 0 && !m.Ports.Contains(next):
				ports[i].Last = next
			case r.First != r.Last:
				ports[i].Last--
			default:
				ports[i].First--
			}
			if m.Not { // of which none is a range
				ports[i] = rules.PortRange{First: r.First + 1, Last: r.First + 1}
			}
			other := rules.ToAny(ports...)
			other.Not = m.Not
			all = append(all, other)
		}
		return all
	case rules.OwnerUIDs:
		return []rules.Match{rules.OwnerUIDs{First: m.First + 1, Last: m.Last + 1}}
	case rules.Comment:
		return nil
	}
	panic(fmt.Sprintf("no mutation is known for condition %T", m))
}

// otherPrefixes returns the prefix one bit longer, one bit shorter (two where that adds only the unspecified
// address), and its neighbour of the same length.
func otherPrefixes(p netip.Prefix) []netip.Prefix {
	var all []netip.Prefix
	add := func(addr netip.Addr, bits int) {
		if bits >= 0 && bits <= p.Addr().BitLen() {
			all = append(all, netip.PrefixFrom(addr, bits).Masked())
		}
	}
	add(p.Addr(), p.Bits()+1)
	shorter := p.Bits() - 1
	if netip.PrefixFrom(p.Addr(), p.Bits()-1).Masked().Addr().IsUnspecified() && p.Bits() == p.Addr().BitLen() {
		shorter--
	}
	add(p.Addr(), shorter)
	if p.Bits() > 0 {
		other := p.Masked().Addr().AsSlice()
		bit := shorter
		other[bit/8] ^= 0x80 >> (bit % 8)
		addr, _ := netip.AddrFromSlice(other)
		add(addr, p.Bits())
	}
	return all
}

func otherTargets(t rules.Target) []rules.Target {
	switch t := t.(type) {
	case rules.Redirect:
		return []rules.Target{rules.Redirect{Port: t.Port + 1}}
	case rules.TProxy:
		port, mark := t, t
		port.Port++
		mark.Mark++
		return []rules.Target{port, mark}
	case rules.DNAT:
		return []rules.Target{rules.DNAT{To: t.To, Port: t.Port + 1}}
	case rules.SetMark:
		return []rules.Target{t + 1}
	case rules.SetConnMark:
		return []rules.Target{t + 1}
	case rules.CTZone:
		return []rules.Target{t + 2}
	case rules.SaveMark:
		return []rules.Target{rules.RestoreMark{}}
	case rules.RestoreMark:
		return []rules.Target{rules.SaveMark{}}
	case rules.Verdict:
		if t == rules.Drop {
			return []rules.Target{rules.Accept}
		}
		return []rules.Target{rules.Drop}
	case rules.Jump, rules.RejectWith: // what they lead to is changed there
		return []rules.Target{rules.Return}
	}
	panic(fmt.Sprintf("no mutation is known for target %T", t))
}
