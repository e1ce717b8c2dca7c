// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"iter"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The plan itself stands in the table as well, for whoever reads it back: a chain that nothing leads to, and whose rules only
// return. Their comments together are what iptables-save would print, with each chain's rules below it, which need not name it,
// and with tabs in place of the line breaks. What one family has alone begins with it, as in a file that iptables-restore and
// ip6tables-restore share.

const (
	planName  = "plan"
	lineBreak = "\t" // no word of a rule holds one
)

// ofFamily is what the lines of one family begin with.
var ofFamily = map[rules.Family]string{rules.IPv4: "-4 ", rules.IPv6: "-6 "}

// longestComment is what nft takes of a comment; the kernel would take twice as much.
const longestComment = 128

// planChain returns the chain that holds the plan.
func planChain(four, six []printedTable) nativeChain {
	c := nativeChain{name: planName}
	var nothing wire // nft takes a comment alone for the chain's
	immediate(&nothing, unix.NFT_RETURN, "")
	unflag(nothing)
	var room []byte
	add := func(n int) {
		c.rules = append(c.rules, nativeRule{comment: string(room[:n]), expressions: nothing})
		room = room[:copy(room, room[n:])]
	}
	for family, line := range planLines(four, six) {
		full := len(room)
		room = append(append(append(room, ofFamily[family]...), line...), lineBreak...)
		if len(room) > longestComment && full > 0 {
			add(full)
		}
		for len(room) > longestComment {
			add(longestComment)
		}
	}
	if len(room) > 0 {
		add(len(room))
	}
	return c
}

// What the lines of tables and chains begin with, and the latter end with.
const (
	tableLine  = "*"
	chainLine  = ":"
	builtinEnd = " ACCEPT"
	ownEnd     = " -"
)

// planLines yields the plan line by line, with the family that has it.
func planLines(four, six []printedTable) iter.Seq2[rules.Family, string] {
	return func(yield func(rules.Family, string) bool) {
		for _, name := range namesOf(slices.Concat(four, six), func(t printedTable) string { return t.name }) {
			t4, t6 := tableOf(four, name), tableOf(six, name)
			parts := [][2][]string{{t4.head(), t6.head()}}
			chains := namesOf(slices.Concat(t4.chains, t6.chains), func(c printedChain) string { return c.Name })
			for _, chain := range chains {
				parts = append(parts, [2][]string{t4.lines(chain), t6.lines(chain)})
			}
			for _, part := range parts {
				for i, family := range together(part[0], part[1]) {
					lines := part[0]
					if family == rules.IPv6 {
						lines = part[1]
					}
					if !yield(family, lines[i]) {
						return
					}
				}
			}
		}
	}
}

// namesOf returns the names of tables or chains, each once: built-in chains as packets meet them, and before the others.
func namesOf[T any](all []T, name func(T) string) (names []string) {
	for _, item := range all {
		names = append(names, name(item))
	}
	slices.SortFunc(names, rules.CompareChains)
	return slices.Compact(names)
}

// head returns the line that a table begins with; nothing where there is none.
func (t printedTable) head() []string {
	if t.name == "" {
		return nil
	}
	return []string{tableLine + t.name}
}

// lines returns those of a chain; nothing where there is none.
func (t printedTable) lines(chain string) []string {
	c, found := t.chain(chain)
	if !found {
		return nil
	}
	end := ownEnd
	if c.Builtin {
		end = builtinEnd
	}
	return append([]string{chainLine + c.Name + end}, c.texts...)
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
	for _, o := range chainObject(planName).of(s.rules) {
		text.WriteString(commentOf(o.text))
	}
	rs := rules.Ruleset{Family: family}
	for line := range strings.SplitSeq(strings.TrimSuffix(text.String(), lineBreak), lineBreak) {
		if strings.HasPrefix(line, ofFamily[rules.IPv4+rules.IPv6-family]) {
			continue
		}
		line = strings.TrimPrefix(line, ofFamily[family])
		if name, ok := strings.CutPrefix(line, tableLine); ok {
			rs.Tables = append(rs.Tables, rules.Table{Name: name})
			continue
		}
		if len(rs.Tables) == 0 {
			return rs, fmt.Errorf("%q is in no table", line)
		}
		table := &rs.Tables[len(rs.Tables)-1]
		if name, ok := strings.CutPrefix(line, chainLine); ok {
			name, builtin := strings.CutSuffix(name, builtinEnd)
			table.Chains = append(table.Chains, rules.Chain{Name: strings.TrimSuffix(name, ownEnd), Builtin: builtin})
			continue
		}
		if len(table.Chains) == 0 {
			return rs, fmt.Errorf("%q is in no chain", line)
		}
		chain := &table.Chains[len(table.Chains)-1]
		chain.Rules = append(chain.Rules, rules.ParseRule(line))
	}
	return rs, nil
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
