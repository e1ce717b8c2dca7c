// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"slices"
)

// Key names what the plan puts into a namespace: plans with the same rules, routes and addresses have the
// same key, whatever their notes and footprints. It is the first 16 bytes of a SHA-256 in hexadecimal, so that nobody finds two
// plans with one key, and the same in every process: it can be kept beside the rules, and read by a later version.
func (p Plan) Key() string {
	text := make([]byte, 0, 4<<10)
	parts := make([][]byte, 0, 32)
	add := func(longer []byte) { parts, text = append(parts, longer[len(text):]), longer }
	for _, rs := range p.Rulesets() {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				if len(c.Rules) > 0 { // an empty one does nothing
					add(c.appendTo(text, rs.Family, t.Name))
				}
			}
		}
	}
	for _, r := range p.Routes {
		add(fmt.Appendf(text, "route %d %d %d\n", r.Family, r.Mark, r.Table))
	}
	for _, prefix := range p.Loopback {
		add(fmt.Appendf(text, "loopback %s\n", prefix))
	}
	slices.SortFunc(parts, bytes.Compare) // the order of chains, routes and addresses means nothing
	sum := sha256.New()
	for _, part := range parts {
		sum.Write(part)
	}
	return fmt.Sprintf("%x", sum.Sum(nil)[:16])
}

func (c Chain) appendTo(text []byte, family Family, table string) []byte {
	text = number(words(text, "chain"), uint16(family))
	text = append(words(text, table), c.Name...)
	text = append(text, '\n')
	for _, r := range c.Rules {
		text = append(r.appendTo(append(text, "  "...)), '\n')
	}
	return text
}

// Own returns the part of what iptables-save showed that is certainly ours: the rules of our chains, and those of built-in
// chains that can only be ours; empty chains and tables are left out. A rule of somebody else before one of ours in a
// built-in chain is kept too: it may hide ours, so the result must not equal what was verified.
//
// Read back from a kernel that holds a plan, this is the plan again, so that the keys are equal. There is
// one exception: a plan that reroutes interfaces, and of one family has no rule in nat PREROUTING that leads
// into a chain of ours (nothing is captured that way, or TPROXY does it in mangle). Only their place tells
// that the rerouted interfaces' rules are ours, so they are left out, and the keys differ.
func (rs Ruleset) Own(ours Footprint) Ruleset {
	mine := Ruleset{Family: rs.Family}
	for _, t := range rs.Tables {
		kept := Table{Name: t.Name}
		own := ownRules(t, ours)
		for _, c := range t.Chains {
			if c = ownPart(c, own[c.Name]); len(c.Rules) > 0 {
				kept.Chains = append(kept.Chains, c)
			}
		}
		if len(kept.Chains) > 0 {
			mine.Tables = append(mine.Tables, kept)
		}
	}
	return mine
}

// ownPart keeps our rules of a chain, and what others put before them.
func ownPart(c Chain, own []ownership) Chain {
	kept := Chain{Name: c.Name, Builtin: c.Builtin}
	var before []Rule
	for i, r := range c.Rules {
		switch own[i] {
		case theirs:
			before = append(before, r)
		case certain:
			kept.Rules = append(append(kept.Rules, before...), r)
			before = nil
		case perhaps:
		}
	}
	return kept
}
