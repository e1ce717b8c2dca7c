// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"fmt"
	"iter"
	"net/netip"
	"slices"
)

// Plan is everything meshnetd puts into one network namespace. The zero Plan is an empty one: nothing of
// ours in the kernel.
type Plan struct {
	V4, V6    Ruleset
	Routes    []PolicyRoute
	Loopback  []netip.Prefix // addresses on lo
	Footprint Footprint
	Accepted  []string    // tables of others that may take from these rules, as "inet NAME" or "iptables-legacy NAME"
	Listens   []PortRange // TCP ports at which the proxy is asked by others, and that no rule takes
	Notes     []string    // what the reader must know, such as traffic that goes around the mesh

	// WithoutIPv6 is what becomes of IPv6 that the proxy does not speak; "" where it speaks it, or nothing becomes of
	// it: the kernel has none, or the pod has no address of it and no rules.
	WithoutIPv6 WithoutIPv6
	OnlyIPv4    string // who says that the proxy does not speak IPv6; "" where it does
}

// unspoken says that the proxy does not speak IPv6, because of something such as "ISTIO_DUAL_STACK is not set", and
// what becomes of the pod's IPv6: in WithoutIPv6 and in a note. The address is one that the pod has, if any.
func (p *Plan) unspoken(address netip.Addr, because string, way WithoutIPv6) {
	note := "IPv6 is refused: the proxy speaks only IPv4 (" + because + ")"
	switch way {
	case IPv6Block:
	case IPv6Capture:
		note = "IPv6 is captured although the proxy speaks only IPv4 (" + because + "): connections over IPv6 reach a listener only if the proxy has one"
	case IPv6Mesh, "":
		if !address.IsValid() {
			return
		}
		way = IPv6Mesh
		note = fmt.Sprintf("IPv6 goes around the mesh: the pod has %s, the proxy speaks only IPv4 (%s); "+
			`ipv6 = "capture" or "block" in the configuration changes that`, address, because)
	}
	p.WithoutIPv6 = way
	p.Notes = append(p.Notes, note)
}

// Rulesets returns the rule sets of both families, IPv4 first.
func (p Plan) Rulesets() []Ruleset { return []Ruleset{p.V4.of(IPv4), p.V6.of(IPv6)} }

// Rules counts the rules of both families.
func (p Plan) Rules() (n int) {
	for _, rs := range []Ruleset{p.V4, p.V6} {
		for _, t := range rs.Tables {
			n += t.rules()
		}
	}
	return n
}

// Ruleset is the tables of one family: what a plan wants, or what iptables-save showed.
type Ruleset struct {
	Family Family
	Tables []Table
}

func (rs Ruleset) of(f Family) Ruleset {
	rs.Family = f
	return rs
}

// Empty reports whether the rule set holds no table.
func (rs Ruleset) Empty() bool { return len(rs.Tables) == 0 }

// Equal reports whether both hold the same rules.
func (rs Ruleset) Equal(other Ruleset) bool { return Plan{V6: rs}.Key() == Plan{V6: other}.Key() }

// Placed is a rule, and where it stands.
type Placed struct {
	Table, Chain string
	Rule
}

// All yields the rules of all chains.
func (rs Ruleset) All() iter.Seq[Placed] {
	return func(yield func(Placed) bool) {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				for _, r := range c.Rules {
					if !yield(Placed{t.Name, c.Name, r}) {
						return
					}
				}
			}
		}
	}
}

// Table returns the table of that name; a missing one is empty.
func (rs Ruleset) Table(name string) Table {
	if i := slices.IndexFunc(rs.Tables, func(t Table) bool { return t.Name == name }); i >= 0 {
		return rs.Tables[i]
	}
	return Table{Name: name}
}

// Table is one table of a family: nat, mangle, raw or filter.
type Table struct {
	Name   string
	Chains []Chain
}

// Chain returns the chain of that name and whether the table has it.
func (t Table) Chain(name string) (Chain, bool) {
	if i := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == name }); i >= 0 {
		return t.Chains[i], true
	}
	return Chain{Name: name}, false
}

// Chain is a list of rules, taken in order. Of a built-in chain a plan holds only its own rules, which
// come before everybody else's.
type Chain struct {
	Name    string
	Builtin bool
	Rules   []Rule
}

// PolicyRoute sends packets with a mark to the local host: a rule "fwmark MARK lookup TABLE" and a route
// "local default dev lo" in that table.
type PolicyRoute struct {
	Family Family
	Mark   uint32
	Table  int
}

// Footprint tells our rules from those of others, in any namespace and for any plan: it is how an
// earlier plan is replaced or removed without a record of it on disk.
type Footprint struct {
	Chains   []string // names of chains that are ours wherever they stand
	Marks    []uint32 // packet and connection marks that only our rules use
	Comments []string // what the comments of our rules in built-in chains begin with
	Reroute  string   // the chain of nat that gets what comes from rerouted interfaces
	Routes   []PolicyRoute
	Loopback []netip.Prefix
	Parts    []Footprint // of a Union: those of the meshes; else none
}

// Builder collects rules in the order they are written and keeps chains in the order they first appear.
type Builder struct{ tables []Table }

// Append adds a rule at the end of a chain.
func (b *Builder) Append(table, chain, why string, target Target, match ...Match) {
	c := b.chain(table, chain)
	c.Rules = append(c.Rules, Rule{Match: match, Target: target, Why: why})
}

// Prepend adds rules at the head of a chain.
func (b *Builder) Prepend(table, chain string, first ...Rule) {
	if len(first) == 0 {
		return
	}
	c := b.chain(table, chain)
	c.Rules = slices.Concat(first, c.Rules)
}

// Ruleset returns what was collected, tables and chains sorted by name.
func (b *Builder) Ruleset(family Family) Ruleset {
	rs := Ruleset{Family: family, Tables: b.tables}
	rs.sort()
	return rs
}

func (b *Builder) chain(table, chain string) *Chain {
	i := slices.IndexFunc(b.tables, func(t Table) bool { return t.Name == table })
	if i < 0 {
		b.tables = append(b.tables, Table{Name: table})
		i = len(b.tables) - 1
	}
	t := &b.tables[i]
	j := slices.IndexFunc(t.Chains, func(c Chain) bool { return c.Name == chain })
	if j < 0 {
		t.Chains = append(t.Chains, Chain{Name: chain, Builtin: isBuiltin(chain)})
		j = len(t.Chains) - 1
	}
	return &t.Chains[j]
}

// sort puts built-in chains first, in the order packets meet them, and own chains by name.
func (rs *Ruleset) sort() {
	slices.SortStableFunc(rs.Tables, func(a, b Table) int { return cmp.Compare(a.Name, b.Name) })
	for _, t := range rs.Tables {
		slices.SortStableFunc(t.Chains, func(a, b Chain) int { return CompareChains(a.Name, b.Name) })
	}
}

var builtinChains = []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}

func isBuiltin(chain string) bool { return slices.Contains(builtinChains, chain) }

// CompareChains orders chains by their names: built-in ones first, as packets meet them.
func CompareChains(a, b string) int {
	rank := func(chain string) int {
		if i := slices.Index(builtinChains, chain); i >= 0 {
			return i
		}
		return len(builtinChains)
	}
	return cmp.Or(rank(a)-rank(b), cmp.Compare(a, b))
}
