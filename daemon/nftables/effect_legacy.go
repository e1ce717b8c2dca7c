// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Legacy returns a difference for each family in which tables of iptables-legacy, in the namespace of the calling thread, may
// let packets go that the plan takes: they are asked beside ours, and which of two is asked first depends on which was made
// last. Those that take nothing from the plan, as docker's in a pod, are none.
func Legacy(plan rules.Plan) ([]rules.Difference, error) {
	old, err := oldBeside(plan)
	if err != nil || len(old) == 0 {
		return nil, err
	}
	return taken(plan, old, 0)
}

// Overtaken returns what Legacy does where the native table, which is asked before any of iptables-legacy, loses nothing to
// those: there the plan's rules are to be native ones. Tables with chains of the mesh are left to Apply, which empties them.
func Overtaken(ns *netns.Namespace, plan rules.Plan) (diffs []rules.Difference, err error) {
	err = ns.Do(func() error {
		old, err := oldBeside(plan)
		if err != nil || len(old) == 0 || slices.ContainsFunc(old, func(t legacy.Contents) bool { return ofMesh(plan, t) }) {
			return err
		}
		if diffs, err = taken(plan, old, 0); err != nil || len(diffs) == 0 {
			return err
		}
		still, err := taken(plan, old, nativeAhead)
		if len(still) > 0 {
			diffs = nil
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("compare the tables of iptables-legacy in %s: %w", ns.Path(), err)
	}
	return diffs, nil
}

// oldBeside returns the tables of iptables-legacy that hold something, and that the plan does not accept.
func oldBeside(plan rules.Plan) ([]legacy.Contents, error) {
	text, err := legacy.Read()
	if err != nil || len(text) == 0 {
		return nil, err
	}
	old, err := legacy.Parse(text)
	return acceptedOld(plan, old), err
}

// taken compares a plan, whose rules are asked so much before their usual place, with what comes of it beside tables of
// iptables-legacy.
func taken(plan rules.Plan, old []legacy.Contents, ahead int) (diffs []rules.Difference, err error) {
	interfaces, err := routing.Interfaces()
	if err != nil {
		return nil, err
	}
	for _, family := range families {
		pod := effect.NewPod(interfaces)
		wanted, held := effect.OfPlan(pod, plan, family), effect.OfPlan(pod, plan, family)
		held.Move(ahead)
		view{pod: pod, family: family, local: held.Local()}.addOld(held, old)
		r := effect.Compare(pod, wanted, held)
		if r.Answer <= effect.More {
			continue
		}
		var names []string
		for _, t := range old {
			if t.Family == family {
				names = append(names, t.Name)
			}
		}
		diffs = append(diffs, rules.Difference{Family: family, Table: strings.Join(names, ", "), Kind: "also in iptables-legacy, unexpected: " + r.String()})
	}
	return diffs, nil
}

// oldTable reads a table of iptables-legacy, which the kernel asks at the same places as those of nf_tables.
type oldTable struct {
	view
	legacy.Contents
	read map[int]*effect.Chain // by the places of their first entries
}

// addOld adds what tables of iptables-legacy hold for packets of the side's family.
func (v view) addOld(side *effect.Side, tables []legacy.Contents) {
	for _, contents := range tables {
		if contents.Family != v.family {
			continue
		}
		t := oldTable{v, contents, map[int]*effect.Chain{}}
		var bases []effect.Base
		for number, h := range contents.Hooks {
			b, known := effect.PlaceOf(contents.Name, inetHooks[uint32(number)])
			if !known {
				continue
			}
			b.Chain, b.Drop = t.chain(h.First, h.Policy), contents.Entries[h.Policy].Verdict != oldAccept
			bases = append(bases, b)
		}
		side.Add(bases...)
	}
}

// The verdicts of xtables: those of netfilter, negated, less one; and XT_RETURN.
const (
	oldDrop   = -drop - 1
	oldAccept = -accept - 1
	oldReturn = -5
	noPolicy  = -1 // no entry has this place
)

// chain reads the entries from a place to the next head, or to the policy.
func (t *oldTable) chain(first, policy int) *effect.Chain {
	if known := t.read[first]; known != nil {
		return known
	}
	c := &effect.Chain{Name: t.Name + " of iptables-legacy"}
	t.read[first] = c
	for at := first; at != policy; {
		e, ok := t.Entries[at]
		if !ok || e.Head {
			c.Rules = append(c.Rules, effect.Rule{Actions: []effect.Action{{Verb: effect.Drop}}})
			break
		}
		c.Rules = append(c.Rules, t.rule(e))
		at = e.Next
	}
	return c
}

func (t *oldTable) rule(e legacy.Entry) (r effect.Rule) {
	p := program{view: t.view, rule: &r}
	jumps := p.addressed(e.Packet)
	for _, m := range e.Matches {
		p.match(m.Name, m.Revision, m.Info)
	}
	if e.Target.Name != "" {
		p.target(e.Target.Name, e.Target.Revision, e.Target.Info)
		return r
	}
	switch {
	case e.Verdict == oldAccept:
		p.end(effect.Action{Verb: effect.Accept})
	case e.Verdict == oldDrop:
		p.end(effect.Action{Verb: effect.Drop})
	case e.Verdict == oldReturn:
		p.end(effect.Action{Verb: effect.Return})
	case e.Verdict < 0:
		p.anything("verdict")
	case e.Verdict != e.Next || jumps == effect.Goto: // else a rule without a target
		a := effect.Action{Verb: jumps} // without a chain it is not known what comes of it
		if t.Entries[e.Verdict].Begins {
			a.Chain = t.chain(e.Verdict, noPolicy)
		}
		p.end(a)
	}
	return r
}

// packetLayout is where struct ipt_ip or ip6t_ip6 has what a rule asks of addresses, interfaces and the protocol.
type packetLayout struct{ address, interfaces, protocol, flags, inverse int }

var (
	packet4 = packetLayout{address: 4, interfaces: 16, protocol: 80, flags: 82, inverse: 83}
	packet6 = packetLayout{address: 16, interfaces: 64, protocol: 128, flags: 131, inverse: 132}
)

// What is negated (IPT_INV_*), the same for both families.
const (
	notIn       = 1 << iota
	notOut      // VIA_OUT
	notService  // TOS
	notSource   // SRCIP
	notTarget   // DSTIP
	notFragment // FRAG
	notProtocol // PROTO
)

// addressed reads the part of a rule that every rule has, and whether its target jumps or goes.
func (p *program) addressed(packet []byte) (jumps effect.Verb) {
	at, other, goes := packet4, byte(1), byte(2) // IPT_F_FRAG, IPT_F_GOTO
	if p.family == rules.IPv6 {
		at, other, goes = packet6, 2, 4 // IP6T_F_TOS, IP6T_F_GOTO
	}
	flags, inverse := packet[at.flags], packet[at.inverse]
	if flags&other != 0 || inverse&(notService|notFragment) != 0 {
		p.perhaps("fragments")
	}
	for i, f := range []effect.Field{effect.Source, effect.Destination} {
		address, mask := packet[i*at.address:][:at.address], packet[(2+i)*at.address:][:at.address]
		not := inverse&(notSource<<i) != 0
		switch length, ok := leading(mask); {
		case !ok:
			p.perhaps("mask")
		case p.family == rules.IPv4 && !bytes.Equal(and(address, mask), address): // no address has what the mask takes away
			p.askUnless(not, f, effect.Everything(at.address), effect.Set{})
		case length > 0 || not:
			from, _ := netip.AddrFromSlice(address)
			p.askUnless(not, f, effect.Everything(at.address), effect.Prefix(netip.PrefixFrom(from, length)))
		}
	}
	for i, f := range []effect.Field{effect.In, effect.Out} {
		const size = unix.IFNAMSIZ
		name, mask := packet[at.interfaces+i*size:][:size], packet[at.interfaces+(2+i)*size:][:size]
		not := inverse&(notIn<<i) != 0
		switch length, ok := leading(mask); {
		case !ok || length%8 != 0:
			p.perhaps("mask")
		case length > 0 || not:
			p.askUnless(not, f, effect.Everything(2), interfacesNamed(p.pod, name[:length/8]))
		}
	}
	protocol := binary.NativeEndian.Uint16(packet[at.protocol:])
	if protocol != 0 && (p.family == rules.IPv4 || flags&1 != 0) { // IP6T_F_PROTO
		p.askUnless(inverse&notProtocol != 0, effect.Protocol, effect.Everything(1), effect.Values(uint64(protocol)))
	}
	if flags&goes != 0 {
		return effect.Goto
	}
	return effect.Jump
}

// leading counts the bits of a mask; false where there is a zero before the last.
func leading(mask []byte) (bits int, ok bool) {
	bits, size := net.IPMask(mask).Size()
	return bits, size > 0
}

// askUnless adds a condition, or its opposite.
func (p *program) askUnless(not bool, f effect.Field, all, s effect.Set) {
	if not {
		s = all.Without(s)
	}
	p.ask(f, s)
}

// The matches of xtables that only rules of others use.
const (
	portsOfTCP, portsOfUDP = 12, 10 // struct xt_tcp, xt_udp
	addressType            = 8      // struct xt_addrtype_info_v1
	typeLocal              = 1 << unix.RTN_LOCAL
	notSourceType          = 1 // XT_ADDRTYPE_INVERT_SOURCE
	notDestinationType     = 2 // XT_ADDRTYPE_INVERT_DEST
)

// ofOthers reads a match that decodeMatch does not know.
func (p *program) ofOthers(name string, revision uint32, info []byte) bool {
	switch {
	case name == "tcp" && len(info) >= portsOfTCP:
		asksMore := info[8] != 0 || info[9] != 0 || info[11]&^3 != 0 // options and flags
		p.ports(info, info[11])
		return !asksMore
	case name == "udp" && len(info) >= portsOfUDP:
		p.ports(info, info[8])
		return true
	case name == "addrtype" && revision == 1 && len(info) >= addressType:
		source, destination := binary.NativeEndian.Uint16(info), binary.NativeEndian.Uint16(info[2:])
		flags := binary.NativeEndian.Uint32(info[4:])
		all := effect.Everything(16)
		if p.family == rules.IPv4 {
			all = effect.Everything(4)
		}
		for _, x := range []struct {
			kinds uint16
			field effect.Field
			not   uint32
		}{{source, effect.Source, notSourceType}, {destination, effect.Destination, notDestinationType}} {
			if x.kinds == typeLocal {
				p.askUnless(flags&x.not != 0, x.field, all, p.local)
			}
		}
		return (source == 0 || source == typeLocal) && (destination == 0 || destination == typeLocal) && flags&^3 == 0
	}
	return false
}

// ports reads the two ranges with which struct xt_tcp and xt_udp begin.
func (p *program) ports(info []byte, inverse byte) {
	for i, f := range []effect.Field{effect.SourcePort, effect.DestinationPort} {
		first, last := binary.NativeEndian.Uint16(info[4*i:]), binary.NativeEndian.Uint16(info[4*i+2:])
		p.askUnless(inverse>>i&1 == 1, f, effect.Everything(2), effect.Between(uint64(first), uint64(last)))
	}
}
