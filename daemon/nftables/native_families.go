// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"iter"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Most of a plan says the same of IPv4 and of IPv6. The table says it once, for both.

// both stands for the two families.
const both = rules.Family(0)

// familyRule is a rule of one family's plan, or of both.
type familyRule struct {
	rules.Rule
	family rules.Family
	text   string // as iptables-save prints it
}

// printedChain is a chain and each of its rules as iptables-save prints them.
type printedChain struct {
	rules.Chain
	texts []string
}

func printed(c rules.Chain) printedChain {
	p := printedChain{c, make([]string, len(c.Rules))}
	for i, r := range c.Rules {
		p.texts[i] = r.String()
	}
	return p
}

// printedTable is a table of one family.
type printedTable struct {
	family rules.Family
	name   string
	chains []printedChain
}

func printedTables(rs rules.Ruleset) (all []printedTable) {
	for _, t := range rs.Tables {
		p := printedTable{family: rs.Family, name: t.Name}
		for _, c := range t.Chains {
			p.chains = append(p.chains, printed(c))
		}
		all = append(all, p)
	}
	return all
}

// tableOf returns the table of that name; an empty one where there is none.
func tableOf(all []printedTable, name string) printedTable {
	if i := slices.IndexFunc(all, func(t printedTable) bool { return t.name == name }); i >= 0 {
		return all[i]
	}
	return printedTable{}
}

func (t printedTable) chain(name string) (c printedChain, found bool) {
	if i := slices.IndexFunc(t.chains, func(c printedChain) bool { return c.Name == name }); i >= 0 {
		return t.chains[i], true
	}
	return c, false
}

// familyRules returns the rules of a chain of two families, those of each in their order.
func familyRules(four, six printedChain) []familyRule {
	lists, texts := [2][]familyRule{}, [2][]string{}
	for i, c := range []printedChain{four, six} {
		lists[i], texts[i] = make([]familyRule, len(c.Rules)), make([]string, len(c.Rules))
		for j, r := range c.Rules {
			r.Match = arranged(r.Match)
			lists[i][j], texts[i][j] = familyRule{Rule: r, text: c.texts[j]}, sharedText(r, c.texts[j])
		}
	}
	all := make([]familyRule, 0, len(four.Rules)+len(six.Rules))
	for i, family := range together(texts[0], texts[1]) {
		list := lists[0]
		if family == rules.IPv6 {
			list = lists[1]
		}
		list[i].family = family
		all = append(all, list[i])
	}
	return all
}

// sharedText is the same for rules of both families that are written in the same expressions.
func sharedText(r rules.Rule, text string) string {
	if r.Target == rules.Target(rules.RejectPort) {
		return strings.TrimSuffix(text, string(rules.RejectPort)) + string(rules.RejectPort4)
	}
	return text
}

// together yields the items of two lists, each list in its order, with the family that they are of: an item that both have in
// the same order once, as the first one's.
func together(four, six []string) iter.Seq2[int, rules.Family] {
	return func(yield func(int, rules.Family) bool) {
		place := make(map[string]int, len(six))
		for j := len(six) - 1; j >= 0; j-- {
			place[six[j]] = j
		}
		next := 0
		for i, text := range four {
			j, found := place[text]
			if !found || j < next {
				if !yield(i, rules.IPv4) {
					return
				}
				continue
			}
			for ; next < j; next++ {
				if !yield(next, rules.IPv6) {
					return
				}
			}
			if !yield(i, both) {
				return
			}
			next++
		}
		for ; next < len(six); next++ {
			if !yield(next, rules.IPv6) {
				return
			}
		}
	}
}
