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
			if p, ok := other.Value.(rules.Transport); ok { // the ports of a rule are those of its protocol
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
		if port, ok := m.Value.(rules.Port); ok {
			port.Protocol = protocol
			matches[i].Value = port
		}
	}
}

// otherMatches returns the condition with another value each, and negated where it can be.
func otherMatches(m rules.Match) (all []rules.Match) {
	for _, v := range otherValues(m.Value, m.Not) {
		all = append(all, rules.Match{Field: m.Field, Value: v, Not: m.Not})
	}
	if m.Negatable() {
		all = append(all, rules.Not(m))
	}
	return all
}

func otherValues(v rules.Value, negated bool) (all []rules.Value) {
	switch v := v.(type) {
	case rules.Transport:
		if v == rules.TCP {
			return []rules.Value{rules.Transport(rules.UDP)}
		}
		return []rules.Value{rules.Transport(rules.TCP)}
	case rules.Addresses:
		for _, p := range otherPrefixes(v.Prefix) {
			all = append(all, rules.Addresses{Prefix: p})
		}
		return all
	case rules.Link:
		return []rules.Value{rules.Link("eth0")}
	case rules.Port:
		return []rules.Value{rules.Port{Protocol: v.Protocol, Number: v.Number + 1}}
	case rules.IDs:
		return []rules.Value{rules.IDs{First: v.First + 1, Last: v.Last + 1}}
	case rules.CTState:
		all = append(all, (rules.StateInvalid|rules.StateNew|rules.StateRelated|rules.StateEstablished|rules.StateUntracked)&^v)
		for bit := rules.StateInvalid; bit <= rules.StateUntracked; bit <<= 1 {
			if v&bit != 0 && v != bit {
				all = append(all, v&^bit)
			}
		}
		return all
	case rules.Mark:
		return []rules.Value{v + 1}
	case rules.PortList:
		for i, r := range v.All() {
			ports := slices.Clone(v.All())
			switch next := r.Last + 1; {
			case negated: // of which none is a range
				ports[i] = rules.PortRange{First: r.First + 1, Last: r.First + 1}
			case next != 0 && !v.Contains(next):
				ports[i].Last = next
			case r.First != r.Last:
				ports[i].Last--
			default:
				ports[i].First--
			}
			all = append(all, rules.List(ports...))
		}
		return all
	case rules.Text:
		return nil
	}
	panic(fmt.Sprintf("no mutation is known for %T", v))
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
	case rules.RejectWith:
		return []rules.Target{rules.Return, rules.Drop}
	case rules.Jump: // what it leads to is changed there
		return []rules.Target{rules.Return}
	}
	panic(fmt.Sprintf("no mutation is known for target %T", t))
}
