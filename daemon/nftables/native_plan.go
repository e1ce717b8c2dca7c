// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"cmp"
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The plan itself stands in the table as well, for whoever reads it back: a chain for each family that nothing
// leads to, and whose rules only return. Their comments together are what iptables-save would print, with tabs
// in place of the line breaks.

const lineBreak = "\t" // no word of a rule holds one

// longestComment is what nft takes of a comment; the kernel would take twice as much.
const longestComment = 128

func planChainOf(family rules.Family) string {
	if family == rules.IPv6 {
		return "plan-ip6"
	}
	return "plan-ip"
}

// planChain returns the chain that holds the plan of one family.
func planChain(set rules.Ruleset) nativeChain {
	c := nativeChain{name: planChainOf(set.Family)}
	var nothing wire // nft takes a comment alone for the chain's
	immediate(&nothing, unix.NFT_RETURN, "")
	unflag(nothing)
	add := func(text string) { c.rules = append(c.rules, nativeRule{comment: text, expressions: nothing}) }
	room := ""
	for line := range saveLines(set) {
		line += lineBreak
		if len(room)+len(line) > longestComment && room != "" {
			add(room)
			room = ""
		}
		for len(line) > longestComment {
			add(line[:longestComment])
			line = line[longestComment:]
		}
		room += line
	}
	if room != "" {
		add(room)
	}
	return c
}

// saveLines yields a rule set line by line as iptables-save prints it, in the order in which it is read back.
func saveLines(set rules.Ruleset) iter.Seq[string] {
	byName := func(a, b rules.Table) int { return cmp.Compare(a.Name, b.Name) }
	return func(yield func(string) bool) {
		for _, t := range slices.SortedStableFunc(slices.Values(set.Tables), byName) {
			if !yield("*" + t.Name) {
				return
			}
			chains := slices.SortedStableFunc(slices.Values(t.Chains), builtinFirst)
			for _, c := range chains {
				policy := "-"
				if c.Builtin {
					policy = "ACCEPT"
				}
				if !yield(":" + c.Name + " " + policy) {
					return
				}
			}
			for _, c := range chains {
				for _, r := range c.Rules {
					if !yield("-A " + c.Name + " " + r.String()) {
						return
					}
				}
			}
			if !yield("COMMIT") {
				return
			}
		}
	}
}

// builtinFirst orders built-in chains as packets meet them, and the others behind them by name.
func builtinFirst(a, b rules.Chain) int {
	rank := func(c rules.Chain) int {
		if i := slices.Index([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, c.Name); i >= 0 {
			return i
		}
		return 5
	}
	return cmp.Or(cmp.Compare(rank(a), rank(b)), cmp.Compare(a.Name, b.Name))
}

// nativePlan reads the plan that the table was made from. It returns an empty one unless the table holds
// what that plan gives, and nothing else.
func (s state) nativePlan() (v4, v6 rules.Ruleset, err error) {
	v4.Family, v6.Family = rules.IPv4, rules.IPv6
	read4, err4 := s.planOf(rules.IPv4)
	read6, err6 := s.planOf(rules.IPv6)
	if err4 != nil || err6 != nil {
		return v4, v6, nil // somebody wrote something else there
	}
	n, err := compile(rules.Plan{V4: read4, V6: read6})
	if err != nil || len(n.differences(s)) > 0 {
		return v4, v6, nil
	}
	return read4, read6, nil
}

// planOf reads one family's part.
func (s state) planOf(family rules.Family) (rules.Ruleset, error) {
	var text strings.Builder
	for _, o := range chainObject(planChainOf(family)).of(s.rules) {
		text.WriteString(commentOf(o.text))
	}
	return rules.ParseSave(family, strings.NewReader(strings.ReplaceAll(text.String(), lineBreak, "\n")))
}

// ruleComment is NFTNL_UDATA_RULE_COMMENT (libnftnl, udata.h): a type and a length of one byte each stand
// before a text that ends with a zero byte.
const ruleComment = 0

func appendComment(userdata []byte, text string) []byte {
	text = text[:min(len(text), longestComment)]
	userdata = append(userdata, ruleComment, byte(len(text)+1))
	return append(append(userdata, text...), 0)
}

// commentOf returns the comment of a rule from the text of its object.
func commentOf(text []byte) (comment string) {
	eachField(text, func(f field) {
		if f.kind != unix.NFTA_RULE_USERDATA {
			return
		}
		for rest := f.value; len(rest) >= 2; {
			kind, length := rest[0], int(rest[1])
			if len(rest) < 2+length {
				return
			}
			if kind == ruleComment {
				comment = name(rest[2 : 2+length])
			}
			rest = rest[2+length:]
		}
	})
	return comment
}

// describe names a rule to an operator. Whoever may configure the pod's network can write any comment.
func describe(o object) string {
	if comment := commentOf(o.text); comment != "" {
		text := strings.ReplaceAll(strings.TrimSuffix(comment, lineBreak), lineBreak, "; ")
		if quoted := strconv.Quote(text); len(quoted) > len(text)+2 {
			return quoted
		}
		return text
	}
	var names []string
	eachField(o.text, func(f field) {
		if f.expression != "" && f.kind == unix.NFTA_EXPR_NAME {
			names = append(names, f.expression)
		}
	})
	return fmt.Sprintf("(a rule of %s)", strings.Join(names, ", "))
}
