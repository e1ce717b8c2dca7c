// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
)

// Key names what the plan puts into a namespace: plans with the same rules, routes and addresses have the
// same key, whatever their notes and footprints. It is the first 8 bytes of a SHA-256 in hexadecimal, and
// the same in every process: it can be kept beside the rules, and read by a later version.
func (p Plan) Key() string {
	var parts []string
	for _, rs := range p.Rulesets() {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				if len(c.Rules) > 0 { // an empty one does nothing
					parts = append(parts, chainText(rs.Family, t.Name, c))
				}
			}
		}
	}
	for _, r := range p.Routes {
		parts = append(parts, fmt.Sprintf("route %d %d %d\n", r.Family, r.Mark, r.Table))
	}
	for _, prefix := range p.Loopback {
		parts = append(parts, fmt.Sprintf("loopback %s\n", prefix))
	}
	slices.Sort(parts) // the order of chains, routes and addresses means nothing
	sum := sha256.Sum256([]byte(strings.Join(parts, "")))
	return fmt.Sprintf("%x", sum[:8])
}

func chainText(family Family, table string, c Chain) string {
	text := make([]byte, 0, 128*(len(c.Rules)+1))
	text = fmt.Appendf(text, "chain %d %s %s\n", family, table, c.Name)
	for _, r := range c.Rules {
		text = append(r.appendTo(append(text, "  "...)), '\n')
	}
	return string(text)
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
