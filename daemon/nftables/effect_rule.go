// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// program translates the expressions of one rule into conditions and actions.
type program struct {
	view
	of        object // the rule
	registers registers
	rule      *effect.Rule // or the rest of it, behind an action
	ended     bool         // by a verdict, or by a condition that no packet of the family meets
}

// rule reads a rule. It fails where the kernel's answer cannot be read.
func (v view) rule(o object) (r effect.Rule, err error) {
	p := program{view: v, of: o, rule: &r}
	err = eachExpression(o.expressions, func(kind string, a attributes) error {
		if p.ended {
			return nil
		}
		return p.step(kind, a)
	})
	return r, err
}

// asks returns the rule that a condition is added to: behind an action, it applies only to what follows.
func (p *program) asks() *effect.Rule {
	if len(p.rule.Actions) > 0 {
		rest := &effect.Rule{}
		p.do(effect.Action{Verb: effect.Then, Rest: rest})
		p.rule = rest
	}
	return p.rule
}

func (p *program) ask(f effect.Field, s effect.Set) {
	r := p.asks()
	r.Conditions = append(r.Conditions, effect.Condition{Field: f, Set: s})
}

// never ends a rule by a condition that no packet meets.
func (p *program) never() { p.ended = true }

func (p *program) do(a effect.Action) { p.rule.Actions = append(p.rule.Actions, a) }

// perhaps adds a condition that is not known.
func (p *program) perhaps(what string) {
	if r := p.asks(); r.Unknown == "" {
		r.Unknown = what
	}
}

// something loads what is not known, or what a packet may not have.
func (p *program) something(what string) {
	p.perhaps(what)
	p.registers = registers{}
}

// anything adds an action that is not known.
func (p *program) anything(what string) {
	p.perhaps(what)
	p.end(effect.Action{Verb: effect.Unknown})
}

func (p *program) end(a effect.Action) {
	p.do(a)
	p.ended = true
}

func (p *program) step(kind string, a attributes) error {
	switch kind {
	case "counter", "last", "log": // no effect on packets
		return nil
	case "limit", "quota", "connlimit", "fib", "socket", "rt", "exthdr", "osf", "hash", "numgen", "xfrm", "tunnel", "dynset":
		p.something(kind) // nothing but conditions and loads
		return nil
	case "objref":
		if of, _ := a.number(objectKind); conditions[of] {
			p.something(kind)
		} else { // such as a helper, which has connections follow another one's translation
			p.anything(kind)
		}
		return nil
	}
	if a.unknown {
		p.anything(kind)
		return nil
	}
	switch kind {
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
	case "masq":
		p.end(effect.Action{Verb: effect.Masquerade})
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
			p.never()
		case ok && a.values[tproxyAddress] == nil: // a listener on all addresses
			p.ask(effect.Protocol, effect.Values(unix.IPPROTO_TCP, unix.IPPROTO_UDP)) // the rule ends for others
			p.do(effect.Action{Verb: effect.TProxy, Port: port})
		default:
			p.anything(kind)
		}
	default:
		p.anything(kind)
	}
	return nil
}

const objectKind = 1 // NFTA_OBJREF_IMM_TYPE

// conditions are the kinds of objects that are no more than that, or nothing.
var conditions = map[uint32]bool{unix.NFT_OBJECT_COUNTER: true, unix.NFT_OBJECT_QUOTA: true, unix.NFT_OBJECT_LIMIT: true, unix.NFT_OBJECT_CONNLIMIT: true}

// port returns the port that two registers hold.
func (p *program) port(a attributes, min, max int) (uint16, bool) {
	first, ok := a.number(min)
	last, given := a.number(max)
	if !given {
		last = first
	}
	x, y := p.registers.at(first).pinned, p.registers.at(last).pinned
	if !ok || len(x) < 2 || !bytes.Equal(x, y) {
		return 0, false
	}
	return binary.BigEndian.Uint16(x), true
}

// The flags of nat that do not change where it leads (linux/netfilter/nf_nat.h).
const plainNAT = 1 | 2 | 4 | 8 | 16 // addresses, ports, random ports, persistent, fully random ports

func (p *program) nat(a attributes) {
	// One of both families has ports only, so that its address is not known here. One of the other family is passed over.
	if family, ok := a.number(unix.NFTA_NAT_FAMILY); ok && family != unix.NFPROTO_INET && byte(family) != nfFamily(p.family) {
		return
	}
	if kind, _ := a.number(unix.NFTA_NAT_TYPE); kind == unix.NFT_NAT_SNAT {
		p.end(effect.Action{Verb: effect.SNAT})
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
	x, y := p.registers.at(low).pinned, p.registers.at(high).pinned
	to, known := address.number(x)
	port, ported := uint16(0), true
	if _, given := a.number(unix.NFTA_NAT_REG_PROTO_MIN); given {
		port, ported = p.port(a, unix.NFTA_NAT_REG_PROTO_MIN, unix.NFTA_NAT_REG_PROTO_MAX)
	}
	if flags, _ := a.number(unix.NFTA_NAT_FLAGS); !ok || !known || !ported || !bytes.Equal(x, y) || flags&^plainNAT != 0 {
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
		p.registers.load(into, loaded{pinned: dataOf(a.values[unix.NFTA_IMMEDIATE_DATA])})
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
		p.end(effect.Action{Verb: map[bool]effect.Verb{true: effect.Goto, false: effect.Jump}[code == unix.NFT_GOTO], Chain: to})
		return err
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
			r := p.asks()
			r.Conditions = append(r.Conditions, conditions...)
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
	case "MASQUERADE":
		p.end(effect.Action{Verb: effect.Masquerade})
	case "SNAT":
		p.end(effect.Action{Verb: effect.SNAT})
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
