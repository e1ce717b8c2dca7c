// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// OfPlan returns the side of a plan's rules of one family, with its routes and addresses.
func OfPlan(p *Pod, plan rules.Plan, family rules.Family) *Side {
	s := NewSide(p, family, plan.Routes, plan.Loopback)
	s.AddTables(p, ruleset(plan, family))
	return s
}

func ruleset(plan rules.Plan, family rules.Family) rules.Ruleset {
	if family == rules.IPv6 {
		return plan.Rulesets()[1]
	}
	return plan.Rulesets()[0]
}

// Where the kernel asks the built-in chains of iptables' tables (the registrations of net/ipv4/netfilter/iptable_*.c).
var tables = map[string]struct {
	priority int
	kind     Kind
}{
	"raw": {-300, Filter}, "mangle": {-150, Filter}, "nat": {-100, NAT}, "filter": {0, Filter}, "security": {50, Filter},
}

// chainNames are those of the built-in chains by their hooks.
var chainNames = [hooks]string{Prerouting: "PREROUTING", Input: "INPUT", Forward: "FORWARD", Output: "OUTPUT", Postrouting: "POSTROUTING"}

// AddTables adds tables of iptables.
func (s *Side) AddTables(p *Pod, rs rules.Ruleset) { s.Add(p.bases(rs, false)...) }

// bases compiles tables of iptables, whose built-in chains accept what their rules do not decide. For a trace, each rule knows
// which step it is.
func (p *Pod) bases(rs rules.Ruleset, traced bool) (all []Base) {
	for _, t := range rs.Tables {
		made := map[string]*Chain{}
		for _, chain := range t.Chains {
			made[chain.Name] = &Chain{Name: t.Name + " " + chain.Name, Rules: make([]Rule, 0, len(chain.Rules))}
		}
		for _, chain := range t.Chains {
			c := made[chain.Name]
			for i, r := range chain.Rules {
				if c.Rules = append(c.Rules, p.rule(rs.Family, r, made)); traced {
					c.Rules[i].step = &rules.Step{Table: t.Name, Chain: chain.Name, Index: i + 1, Rule: r}
				}
			}
			hook := slices.Index(chainNames[:], chain.Name)
			if b, known := PlaceOf(t.Name, Hook(hook)); hook >= 0 && known {
				b.Chain = c
				all = append(all, b)
			}
		}
	}
	return all
}

// PlaceOf returns where the kernel asks a built-in chain of an iptables table; false for a table that it does not have.
func PlaceOf(table string, hook Hook) (b Base, known bool) {
	at, known := tables[table]
	b = Base{Hook: hook, Kind: at.kind, Priority: at.priority}
	switch {
	case at.kind == NAT && (hook == Input || hook == Postrouting):
		b.Priority = 100
	case table == "mangle" && hook == Output:
		b.Kind = Route
	}
	return b, known
}

// Add adds base chains with all that their rules lead to. It takes over the chains and may change them.
func (s *Side) Add(bases ...Base) {
	j := joiner{done: map[*Chain]bool{}, pure: map[*Chain]bool{}}
	for _, b := range bases {
		j.shorten(b.Chain)
	}
	s.place(slices.DeleteFunc(bases, func(b Base) bool { return len(b.Rules) == 0 && !b.Drop })) // they would only double the orders
}

// place puts base chains where the kernel runs them.
func (s *Side) place(bases []Base) {
	for _, b := range bases {
		s.hooks[b.Hook] = append(s.hooks[b.Hook], b)
	}
	for _, list := range s.hooks {
		slices.SortStableFunc(list, func(a, b Base) int { return cmp.Compare(a.Priority, b.Priority) })
	}
}

// Move has the kernel ask the side's base chains at other priorities, by so much.
func (s *Side) Move(by int) {
	for _, list := range s.hooks {
		for i := range list {
			list[i].Priority += by
		}
	}
}

func (p *Pod) rule(family rules.Family, r rules.Rule, chains map[string]*Chain) Rule {
	var out Rule
	for _, m := range r.Match {
		conditions, ok := p.Conditions(family, m)
		if !ok {
			out.Unknown = r.String()
		}
		out.Conditions = append(out.Conditions, conditions...)
	}
	if _, foreign := r.Target.(rules.Foreign); foreign {
		out.Unknown = r.String()
	}
	out.Actions = []Action{Act(family, r.Target, chains)}
	return out
}

// protocols are the numbers of those that rules name.
var protocols = map[string]uint64{rules.TCP: 6, rules.UDP: 17, rules.ICMP: 1, rules.ICMPv6: 58}

const unnamed = 255 // a protocol that no rule names

var ported = Values(protocols[rules.TCP], protocols[rules.UDP]) // protocols with ports

// prefixOf returns the addresses that a rule's prefix stands for. One of no bits is any address whatever its family.
func prefixOf(p netip.Prefix, six bool) Set {
	switch {
	case p.Bits() == 0:
		return every(six)
	case p.Addr().Is6() != six:
		return Set{}
	}
	return Prefix(p)
}

// Interfaces returns the numbers of the interfaces that iptables' word stands for: with a + at its end all that begin so.
func (p *Pod) Interfaces(word string) Set {
	if prefix, wild := strings.CutSuffix(word, "+"); wild {
		return p.Prefixed(prefix)
	}
	return p.Interface(word)
}

// Interface returns the number of the interface with that name.
func (p *Pod) Interface(name string) Set { return Single(N(p.number(name))) }

// Prefixed returns the numbers of the interfaces whose names begin so, of those that are known by then. There may be thousands of
// rules with the same prefix.
func (p *Pod) Prefixed(prefix string) Set {
	if set, known := p.prefixed[prefix]; known {
		return set
	}
	var all []uint64
	for i, name := range p.names {
		if strings.HasPrefix(name, prefix) {
			all = append(all, uint64(i))
		}
	}
	if p.prefixed == nil {
		p.prefixed = map[string]Set{}
	}
	p.prefixed[prefix] = Values(all...)
	return p.prefixed[prefix]
}

// asked are the fields of packets that those of matches are about. A comment asks for none.
var asked = map[rules.Field]Field{
	rules.FieldSource: Source, rules.FieldDestination: Destination, rules.FieldIn: In, rules.FieldOut: Out, rules.FieldProtocol: Protocol,
	rules.FieldSourcePort: SourcePort, rules.FieldDestinationPort: DestinationPort, rules.FieldDestinationPorts: DestinationPort,
	rules.FieldUID: UID, rules.FieldGID: GID, rules.FieldCTState: CTState, rules.FieldMark: Mark, rules.FieldConnMark: ConnMark,
}

// Conditions returns what a match asks of a packet of the family; false where it is not understood.
func (p *Pod) Conditions(family rules.Family, m rules.Match) (conditions []Condition, understood bool) {
	field, ok := asked[m.Field]
	if !ok {
		return nil, m.Field == rules.FieldComment
	}
	var set Set
	universe := every32
	first := func(f Field, s Set) { conditions = append(conditions, Condition{Field: f, Set: s}) }
	switch v := m.Value.(type) {
	case rules.Addresses:
		set, universe = prefixOf(v.Prefix, family == rules.IPv6), every(family == rules.IPv6)
	case rules.Link:
		set = p.Interfaces(string(v))
	case rules.Transport:
		set = Single(N(protocols[string(v)]))
	case rules.Port:
		first(Protocol, Single(N(protocols[v.Protocol])))
		set, universe = Single(N(uint64(v.Number))), every16
	case rules.PortList: // of whatever protocol: the rule asks for that itself
		var spans []Span
		for _, r := range v.All() {
			spans = append(spans, Span{N(uint64(r.First)), N(uint64(r.Last))})
		}
		set, universe = Union(spans...), every16
	case rules.IDs:
		set = Between(uint64(v.First), uint64(v.Last))
	case rules.CTState:
		set = states(v)
	case rules.Mark:
		if field == ConnMark { // a packet without a connection matches no mark, not even 0
			first(CTState, tracked)
		}
		set = Single(N(uint64(v)))
	}
	if m.Not {
		set = universe.Without(set)
	}
	return append(conditions, Condition{Field: field, Set: set, Bare: m.Not && (field == UID || field == GID)}), true
}

// The connection states as values of CTState.
const (
	invalid     = uint64(rules.StateInvalid)
	fresh       = uint64(rules.StateNew)
	related     = uint64(rules.StateRelated)
	established = uint64(rules.StateEstablished)
	untracked   = uint64(rules.StateUntracked)
)

var (
	tracked = Values(fresh, related, established)
	first   = Values(fresh, related) // of packets for which nat is asked
)

func states(m rules.CTState) Set {
	var all []uint64
	for _, state := range []uint64{invalid, fresh, related, established, untracked} {
		if uint64(m)&state != 0 {
			all = append(all, state)
		}
	}
	return Values(all...)
}

var verdicts = map[rules.Verdict]Verb{rules.Accept: Accept, rules.Drop: Drop, rules.Return: Return}

// Act returns what a target does with packets of the family. Its jumps lead to the chains.
func Act(family rules.Family, t rules.Target, chains map[string]*Chain) Action {
	switch t := t.(type) {
	case rules.Verdict:
		if verb, known := verdicts[t]; known {
			return Action{Verb: verb}
		}
	case rules.Counting:
		return Action{Verb: Nothing}
	case rules.Jump:
		return Action{Verb: Jump, Chain: chains[string(t)]}
	case rules.Redirect:
		return Action{Verb: Redirect, Port: t.Port}
	case rules.DNAT:
		if rules.FamilyOf(t.To) == family {
			return Action{Verb: DNAT, Value: Address(t.To), Port: t.Port}
		}
	case rules.TProxy:
		return Action{Verb: TProxy, Port: t.Port, Value: N(uint64(t.Mark)), Stops: true}
	case rules.SetMark:
		return Action{Verb: SetMark, Value: N(uint64(t))}
	case rules.SetConnMark:
		return Action{Verb: SetConnMark, Value: N(uint64(t))}
	case rules.SaveMark:
		return Action{Verb: SaveMark}
	case rules.RestoreMark:
		return Action{Verb: RestoreMark}
	case rules.CTZone:
		return Action{Verb: Zone, Value: N(uint64(t))}
	case rules.RejectWith:
		return Action{Verb: Reject}
	}
	return Action{Verb: Unknown}
}
