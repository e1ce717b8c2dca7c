// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The native dialect: one table of family inet that is all ours. It says what a plan says, but in expressions
// of nf_tables only, which the kernel accepts in any user namespace, and with sets in place of lists, so that packets do
// not pay for their length.
const (
	nativeFamily = unix.NFPROTO_INET
	nativeTable  = "meshnetd"
)

// nativeAhead is how much earlier than iptables' our chains run, so that no table of others at iptables' priorities can
// hide them.
const nativeAhead = -1

// nativeHooks are the chains that a plan can begin in, in the order in which packets meet their tables.
var nativeHooks = [][2]string{
	{"raw", "PREROUTING"}, {"raw", "OUTPUT"},
	{"mangle", "PREROUTING"}, {"mangle", "INPUT"}, {"mangle", "FORWARD"}, {"mangle", "OUTPUT"}, {"mangle", "POSTROUTING"},
	{"nat", "PREROUTING"}, {"nat", "INPUT"}, {"nat", "OUTPUT"}, {"nat", "POSTROUTING"},
	{"filter", "INPUT"}, {"filter", "FORWARD"}, {"filter", "OUTPUT"},
}

// hasTable reports whether there is a table of that family and name.
func (s state) hasTable(family byte, table string) bool {
	return slices.ContainsFunc(s.tables, func(t object) bool { return t.family == family && name(t.table) == table })
}

func (s state) hasNative() bool { return s.hasTable(nativeFamily, nativeTable) }

// native is what the own table holds for a plan; the zero native is no table.
type native struct {
	sets   []nativeSet
	chains []nativeChain
}

// nativeChain is a base chain where it has a hook.
type nativeChain struct {
	name  string
	hook  hook
	rules []nativeRule
}

// nativeRule has a comment, which nft shows.
type nativeRule struct {
	comment     string
	expressions wire
	from        *rules.Rule // the plan's rule that it translates; nil where there is none
}

// compile writes a plan's rules as expressions. Chains that no packet can come to are left out. It fails on a
// rule of somebody else, on one that iptables would not take either, and on jumps that are nested too deep.
func compile(plan rules.Plan) (native, error) {
	if plan.Rules() == 0 {
		return native{}, nil
	}
	sets := plan.Rulesets()
	for _, set := range sets {
		if err := knownHooks(set); err != nil {
			return native{}, err
		}
	}
	c := compiler{depths: map[string]int{}, names: map[string]string{}, made: map[setKind]int{}}
	four, six := printedTables(sets[0]), printedTables(sets[1])
	for _, at := range nativeHooks {
		if err := c.base(tableOf(four, at[0]), tableOf(six, at[0]), at); err != nil {
			return native{}, err
		}
	}
	c.chains = append(c.chains, planChain(four, six))
	return c.native, nil
}

func knownHooks(set rules.Ruleset) error {
	for _, t := range set.Tables {
		for _, c := range t.Chains {
			if c.Builtin && !slices.Contains(nativeHooks, [2]string{t.Name, c.Name}) {
				return fmt.Errorf("%s: table %s has no chain %s", set.Family, t.Name, c.Name)
			}
		}
	}
	return nil
}

// compiler collects what the table is to hold.
type compiler struct {
	native
	room   wire              // where expressions are written, one rule behind the other
	depths map[string]int    // of the chains that are done, by their names; 0 while one is being done
	names  map[string]string // of the sets, by what they hold
	made   map[setKind]int   // how many sets there are
}

// base makes the base chain for a built-in one. What returns from it meets its policy, as it would in iptables.
func (c *compiler) base(four, six printedTable, at [2]string) error {
	t := translation{compiler: c, table: at[0], four: four, six: six}
	var tools []string // whose rules begin there
	for _, table := range []printedTable{four, six} {
		if chain, _ := table.chain(at[1]); len(chain.Rules) > 0 {
			tools = append(tools, table.family.String())
		}
	}
	if len(tools) == 0 {
		return nil
	}
	place := len(c.chains)
	if _, err := t.chain(at[1]); err != nil {
		return fmt.Errorf("%s: table %s: %w", strings.Join(tools, " and "), at[0], err)
	}
	c.chains[place].hook = baseHooks[at]
	c.chains[place].hook.priority += nativeAhead
	return nil
}

// rule writes a rule's expressions, in a new room where little is left: to grow one costs more.
func (c *compiler) rule(comment string, from *rules.Rule, write func(*wire)) nativeRule {
	const longest = 1 << 10
	if cap(c.room)-len(c.room) < longest {
		c.room = make(wire, 0, 8*longest)
	}
	begin := len(c.room)
	write(&c.room)
	unflag(c.room[begin:]) // as the kernel sends them back
	return nativeRule{comment, c.room[begin:len(c.room):len(c.room)], from}
}

// replace makes the table hold n, whatever it holds. Base chains that both have are kept and only their rules replaced, if
// nobody else changed the table: while a base chain is being deleted, packets meet it and the new one too. A packet that
// the old chain marks for TPROXY would have its mark saved by the new one to the client's connection, whose answers would
// then never leave the pod.
func (n native) replace(b *batch, s state) error {
	if !s.hasNative() {
		return n.appendTo(b)
	}
	v4, v6, err := s.nativePlan()
	if err != nil {
		return err
	}
	if len(n.chains) == 0 || v4.Empty() && v6.Empty() {
		b.deleteTable(nativeFamily, nativeTable)
		return n.appendTo(b)
	}
	return n.fill(b, n.clear(b, s))
}

// clear takes out what the table holds, except for the base chains that n has too, whose names it returns.
func (n native) clear(b *batch, s state) (kept map[string]bool) {
	hooks := map[string]hook{}
	for _, c := range n.chains {
		hooks[c.name] = c.hook
	}
	kept = map[string]bool{}
	var gone []string
	for _, c := range s.chains {
		chain := name(c.chain)
		if !c.isNative() {
			continue
		}
		b.flush(nativeFamily, nativeTable, chain)
		if c.hook != (hook{}) && c.hook == hooks[chain] {
			kept[chain] = true
		} else {
			gone = append(gone, chain)
		}
	}
	for _, chain := range gone { // no rule leads to them now
		b.deleteChain(nativeFamily, nativeTable, chain)
	}
	for _, set := range ofNative(s.sets) {
		b.deleteSet(nativeFamily, nativeTable, name(set.chain))
	}
	return kept
}

// appendTo makes the table where there is none.
func (n native) appendTo(b *batch) error {
	if len(n.chains) == 0 {
		return nil
	}
	b.newTable(nativeFamily, nativeTable)
	return n.fill(b, nil)
}

// fill makes sets, chains except for the kept ones, and rules. Sets are filled before a rule uses them, since constant sets
// accept nothing afterwards.
func (n native) fill(b *batch, kept map[string]bool) error {
	for i, s := range n.sets {
		s.appendTo(b, uint32(i+1))
	}
	for _, c := range n.chains {
		if !kept[c.name] {
			b.newChain(nativeFamily, nativeTable, c.name, c.hook)
		}
	}
	for _, c := range n.chains {
		for _, r := range c.rules {
			if err := b.newRule(nativeFamily, nativeTable, c.name, 0, r.from, r.appendTo); err != nil {
				return err
			}
		}
	}
	return nil
}

func (r nativeRule) appendTo(w *wire) error {
	list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
	*w = append(*w, r.expressions...)
	w.end(list)
	w.bytes(unix.NFTA_RULE_USERDATA, appendComment(nil, r.comment))
	return nil
}
