// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// program translates the expressions of one rule into conditions and actions.
type program struct {
	view
	of        object // the rule
	registers map[uint32]loaded
	rule      effect.Rule
	never     bool // packets of this family do not meet the rule's conditions
	ended     bool // by a verdict
}

// rule reads a rule; met is false where no packet of the family can meet it. It fails where the kernel's answer cannot
// be read.
func (v view) rule(o object) (r effect.Rule, met bool, err error) {
	p := program{view: v, of: o, registers: map[uint32]loaded{}}
	var outer []*effect.Rule
	err = eachAttribute(o.expressions, func(element attribute) error {
		kind, a, err := splitExpression(element.value)
		if err != nil || p.ended || p.never {
			return err
		}
		a.unknown = a.unknown || element.kind != unix.NFTA_LIST_ELEM
		before, unknown := len(p.rule.Conditions), p.rule.Unknown
		if err := p.step(kind, a); err != nil {
			return err
		}
		if asked := len(p.rule.Conditions) > before || p.rule.Unknown != unknown; asked && len(p.rule.Actions) > 0 && !p.ended {
			// A condition after an action applies only to what follows.
			rest := effect.Rule{Conditions: slices.Clone(p.rule.Conditions[before:])}
			if p.rule.Unknown != unknown {
				rest.Unknown = p.rule.Unknown
			}
			done := p.rule
			done.Conditions, done.Unknown = done.Conditions[:before], unknown
			outer = append(outer, &done)
			p.rule = rest
		}
		return nil
	})
	for _, r := range slices.Backward(outer) {
		inner := p.rule
		for i := range inner.Actions {
			if inner.Actions[i].Verb == effect.Return { // it would return from the inner chain only
				inner.Actions[i] = effect.Action{Verb: effect.Unknown}
			}
		}
		r.Actions = append(r.Actions, effect.Action{Verb: effect.Jump, Chain: &effect.Chain{Rules: []effect.Rule{inner}}})
		p.rule = *r
	}
	return p.rule, !p.never, err
}

func (p *program) ask(f effect.Field, s effect.Set) {
	p.rule.Conditions = append(p.rule.Conditions, effect.Condition{Field: f, Set: s})
}

func (p *program) do(a effect.Action) { p.rule.Actions = append(p.rule.Actions, a) }

// perhaps adds a condition that is not known.
func (p *program) perhaps(what string) {
	if p.rule.Unknown == "" {
		p.rule.Unknown = what
	}
}

// anything adds an action that is not known.
func (p *program) anything(what string) {
	p.perhaps(what)
	p.rule.Actions = nil
	p.end(effect.Action{Verb: effect.Unknown})
}

func (p *program) end(a effect.Action) {
	p.do(a)
	p.ended = true
}

func (p *program) step(kind string, a attributes) error {
	switch kind {
	case "counter", "last", "log": // no effect on packets
	case "meta":
		p.meta(a)
	case "ct":
		p.connection(a)
	case "payload":
		p.payload(a)
	case "bitwise":
		p.bitwise(a)
	case "byteorder":
		p.byteorder(a)
	case "cmp":
		p.cmp(a)
	case "range":
		p.rangeOf(a)
	case "lookup":
		p.lookup(a)
	case "limit", "quota", "connlimit", "fib", "socket", "rt", "exthdr", "osf", "hash", "numgen", "xfrm", "tunnel": // nothing but conditions
		if into, ok := a.number(1); kind != "limit" && kind != "quota" && kind != "connlimit" && ok {
			p.registers[into] = loaded{}
		} else {
			p.perhaps(kind)
		}
	case "match":
		revision, _ := a.number(unix.NFTA_MATCH_REV)
		p.match(exactly(a.values[unix.NFTA_MATCH_NAME]), revision, a.values[unix.NFTA_MATCH_INFO])
	case "target":
		revision, _ := a.number(unix.NFTA_TARGET_REV)
		p.target(exactly(a.values[unix.NFTA_TARGET_NAME]), revision, a.values[unix.NFTA_TARGET_INFO])
	case "immediate":
		return p.immediate(a)
	case "notrack":
		p.do(effect.Action{Verb: effect.NoTrack})
	case "masq": // it changes only the source, which nothing asks for afterwards
		p.end(effect.Action{Verb: effect.Accept})
	case "reject":
		p.end(effect.Action{Verb: effect.Reject})
	case "redir":
		if port, ok := p.port(a, unix.NFTA_REDIR_REG_PROTO_MIN, unix.NFTA_REDIR_REG_PROTO_MAX); ok {
			p.end(effect.Action{Verb: effect.Redirect, Port: port})
		} else {
			p.anything(kind)
		}
	case "nat":
		p.nat(a)
	case "tproxy":
		family, given := a.number(tproxyFamily)
		port, ok := p.port(a, tproxyPort, tproxyPort)
		switch {
		case given && family != unix.NFPROTO_UNSPEC && family != unix.NFPROTO_INET && byte(family) != nfFamily(p.family):
			p.never = true
		case ok:
			p.do(effect.Action{Verb: effect.TProxy, Port: port})
		default:
			p.anything(kind)
		}
	default:
		p.anything(kind)
	}
	return nil
}

// port returns the port that two registers hold.
func (p *program) port(a attributes, min, max int) (uint16, bool) {
	first, ok := a.number(min)
	last, given := a.number(max)
	if !given {
		last = first
	}
	x, y := p.registers[first].pinned, p.registers[last].pinned
	if !ok || len(x) < 2 || !bytes.Equal(x, y) {
		return 0, false
	}
	return binary.BigEndian.Uint16(x), true
}

func (p *program) nat(a attributes) {
	kind, _ := a.number(unix.NFTA_NAT_TYPE)
	if kind == unix.NFT_NAT_SNAT {
		p.end(effect.Action{Verb: effect.Accept}) // as masq
		return
	}
	if family, ok := a.number(unix.NFTA_NAT_FAMILY); ok && byte(family) != nfFamily(p.family) {
		p.never = true
		return
	}
	low, ok := a.number(unix.NFTA_NAT_REG_ADDR_MIN)
	high, given := a.number(unix.NFTA_NAT_REG_ADDR_MAX)
	if !given {
		high = low
	}
	address := loaded{length: 4, top: 4}
	if p.family == rules.IPv6 {
		address = loaded{length: 16, top: 16}
	}
	x, y := p.registers[low].pinned, p.registers[high].pinned
	to, known := address.number(x)
	port, ported := uint16(0), true
	if _, given := a.number(unix.NFTA_NAT_REG_PROTO_MIN); given {
		port, ported = p.port(a, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
	}
	if !ok || !known || !ported || !bytes.Equal(x, y) {
		p.anything("nat")
		return
	}
	p.end(effect.Action{Verb: effect.DNAT, Value: to, Port: port})
}

func (p *program) immediate(a attributes) error {
	into, ok := a.number(unix.NFTA_IMMEDIATE_DREG)
	if !ok {
		p.anything("immediate")
		return nil
	}
	if into != unix.NFT_REG_VERDICT {
		p.registers[into] = loaded{pinned: dataOf(a.values[unix.NFTA_IMMEDIATE_DATA])}
		return nil
	}
	code, chain, ok := verdictIn(a)
	if !ok {
		p.anything("verdict")
		return nil
	}
	switch code {
	case unix.NFT_JUMP, unix.NFT_GOTO:
		to, err := p.view.target(p.of, chain)
		if err != nil {
			return err
		}
		if code == unix.NFT_GOTO {
			p.end(effect.Action{Verb: effect.Goto, Chain: to})
		} else {
			p.end(effect.Action{Verb: effect.Jump, Chain: to})
		}
	case unix.NFT_RETURN:
		p.end(effect.Action{Verb: effect.Return})
	case accept:
		p.end(effect.Action{Verb: effect.Accept})
	case drop:
		p.end(effect.Action{Verb: effect.Drop})
	case unix.NFT_CONTINUE:
	default:
		p.anything("verdict")
	}
	return nil
}

// match reads one of xtables.
func (p *program) match(name string, revision uint32, info []byte) {
	if m, ok := decodeMatch(name, revision, info); ok {
		if conditions, ok := p.pod.Conditions(p.family, m); ok {
			p.rule.Conditions = append(p.rule.Conditions, conditions...)
			return
		}
	}
	if name != "comment" && !p.ofOthers(name, revision, info) {
		p.perhaps("match " + name)
	}
}

// target reads one of xtables.
func (p *program) target(name string, revision uint32, info []byte) {
	if t, ok := decodeTarget(p.family, name, revision, info); ok {
		p.do(effect.Act(p.family, t, nil))
		return
	}
	switch name {
	case "LOG", "NFLOG", "TRACE", "AUDIT": // no effect on packets
	case "REJECT":
		p.end(effect.Action{Verb: effect.Reject})
	case "MASQUERADE", "SNAT":
		p.end(effect.Action{Verb: effect.Accept})
	case "CT", "NOTRACK":
		if name == "NOTRACK" || len(info) >= 2 && binary.NativeEndian.Uint16(info)&1 != 0 { // XT_CT_NOTRACK
			p.do(effect.Action{Verb: effect.NoTrack})
			return
		}
		p.anything("target " + name)
	default:
		p.anything("target " + name)
	}
}
