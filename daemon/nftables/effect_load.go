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

// metaFields are the keys of meta that are a packet's field.
var metaFields = map[uint32]loaded{
	unix.NFT_META_L4PROTO: {field: effect.Protocol, known: true, length: 1, top: 1},
	unix.NFT_META_MARK:    {field: effect.Mark, known: true, length: 4, top: 4, native: true},
	unix.NFT_META_SKUID:   {field: effect.UID, known: true, length: 4, top: 4, native: true},
	unix.NFT_META_SKGID:   {field: effect.GID, known: true, length: 4, top: 4, native: true},
	unix.NFT_META_IIFNAME: {field: effect.In, known: true, length: unix.IFNAMSIZ, top: unix.IFNAMSIZ, text: true},
	unix.NFT_META_OIFNAME: {field: effect.Out, known: true, length: unix.IFNAMSIZ, top: unix.IFNAMSIZ, text: true},
}

func (p *program) meta(a attributes) {
	key, _ := a.number(unix.NFTA_META_KEY)
	if from, set := a.number(unix.NFTA_META_SREG); set {
		value := p.registers.at(from)
		switch {
		case key == unix.NFT_META_NFTRACE || key == unix.NFT_META_PRIORITY: // nothing that rules ask for
		case key == unix.NFT_META_MARK && len(value.pinned) == 4:
			p.do(effect.Action{Verb: effect.SetMark, Value: effect.N(uint64(binary.NativeEndian.Uint32(value.pinned)))})
		case key == unix.NFT_META_MARK && value.whole(effect.ConnMark):
			p.do(effect.Action{Verb: effect.RestoreMark})
		default:
			p.anything("meta")
		}
		return
	}
	into, _ := a.number(unix.NFTA_META_DREG)
	l, known := metaFields[key]
	switch {
	case key == unix.NFT_META_NFPROTO:
		l = loaded{pinned: []byte{nfFamily(p.family)}}
	case key == unix.NFT_META_PROTOCOL && p.family == rules.IPv6:
		l = loaded{pinned: []byte{0x86, 0xdd}}
	case key == unix.NFT_META_PROTOCOL:
		l = loaded{pinned: []byte{0x08, 0x00}}
	case !known:
		p.something("meta")
		return
	case l.field == effect.UID || l.field == effect.GID: // the rule ends for a packet without a socket
		p.ask(l.field, effect.Everything(4))
	}
	p.registers.load(into, l)
}

// whole reports whether it is all of a field, unchanged.
func (l loaded) whole(f effect.Field) bool {
	return l.known && l.field == f && l.mask == nil && l.native && l.length == l.top
}

func (p *program) connection(a attributes) {
	key, _ := a.number(unix.NFTA_CT_KEY)
	if from, set := a.number(unix.NFTA_CT_SREG); set {
		value := p.registers.at(from)
		switch {
		case key == unix.NFT_CT_MARK && len(value.pinned) == 4:
			p.do(effect.Action{Verb: effect.SetConnMark, Value: effect.N(uint64(binary.NativeEndian.Uint32(value.pinned)))})
		case key == unix.NFT_CT_MARK && value.whole(effect.Mark):
			p.do(effect.Action{Verb: effect.SaveMark})
		case key == unix.NFT_CT_ZONE && len(value.pinned) >= 2 && a.values[unix.NFTA_CT_DIRECTION] == nil:
			p.do(effect.Action{Verb: effect.Zone, Value: effect.N(uint64(binary.NativeEndian.Uint16(value.pinned)))})
		default:
			p.anything("ct")
		}
		return
	}
	into, _ := a.number(unix.NFTA_CT_DREG)
	l := loaded{known: true, length: 4, top: 4, native: true}
	switch key {
	case unix.NFT_CT_STATE:
		l.field = effect.CTState
	case unix.NFT_CT_MARK: // the rule ends for a packet without a connection
		p.ask(effect.CTState, effect.Values(uint64(rules.StateNew), uint64(rules.StateRelated), uint64(rules.StateEstablished)))
		l.field = effect.ConnMark
	default:
		p.something("ct")
		return
	}
	p.registers.load(into, l)
}

// payload loads addresses and ports. The first bytes of an address are its first bits.
func (p *program) payload(a attributes) {
	base, _ := a.number(unix.NFTA_PAYLOAD_BASE)
	offset, _ := a.number(unix.NFTA_PAYLOAD_OFFSET)
	length, ok := a.number(unix.NFTA_PAYLOAD_LEN)
	into, ok2 := a.number(unix.NFTA_PAYLOAD_DREG)
	if !ok || !ok2 { // it writes into the packet
		p.anything("payload")
		return
	}
	source, size := uint32(source4), uint32(4)
	if p.family == rules.IPv6 {
		source, size = source6, 16
	}
	l := loaded{length: int(length)}
	of := func(f effect.Field, top uint32) {
		l.field, l.known, l.top = f, length > 0 && length <= top, int(top)
	}
	switch {
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == source:
		of(effect.Source, size)
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == source+size:
		of(effect.Destination, size)
	case base == unix.NFT_PAYLOAD_NETWORK_HEADER && offset == protocol4 && p.family == rules.IPv4:
		of(effect.Protocol, 1)
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == sourcePort && length == 2:
		of(effect.SourcePort, 2)
	case base == unix.NFT_PAYLOAD_TRANSPORT_HEADER && offset == destinationPort && length == 2:
		of(effect.DestinationPort, 2)
	}
	if !l.known { // a packet may be too short for it
		p.something("payload")
		return
	}
	p.registers.load(into, l)
}

// protocol4 is where struct iphdr has the protocol.
const protocol4 = 9

func (p *program) bitwise(a attributes) {
	from, _ := a.number(unix.NFTA_BITWISE_SREG)
	into, _ := a.number(unix.NFTA_BITWISE_DREG)
	mask, xor := dataOf(a.values[unix.NFTA_BITWISE_MASK]), dataOf(a.values[unix.NFTA_BITWISE_XOR])
	operation, _ := a.number(bitwiseOperation)
	l := p.registers.at(from)
	if operation != 0 || !l.known || l.mask != nil || len(mask) != l.length || !bytes.Equal(xor, make([]byte, len(mask))) {
		l = loaded{} // what comes of it is not known, as long as nobody asks
	}
	l.mask = mask
	p.registers.load(into, l)
}

func (p *program) byteorder(a attributes) {
	from, _ := a.number(unix.NFTA_BYTEORDER_SREG)
	into, _ := a.number(unix.NFTA_BYTEORDER_DREG)
	length, _ := a.number(unix.NFTA_BYTEORDER_LEN)
	size, _ := a.number(unix.NFTA_BYTEORDER_SIZE)
	l := p.registers.at(from)
	if !l.known || l.text || l.mask != nil || int(size) != l.length || int(length) != l.length {
		l = loaded{}
	}
	l.native = !l.native
	p.registers.load(into, l)
}

func (p *program) cmp(a attributes) {
	from, _ := a.number(unix.NFTA_CMP_SREG)
	operator, ok := a.number(unix.NFTA_CMP_OP)
	data := dataOf(a.values[unix.NFTA_CMP_DATA])
	l := p.registers.at(from)
	switch {
	case !ok || data == nil:
		p.perhaps("cmp")
	case l.pinned != nil:
		p.pinned(l.pinned, operator, data)
	case !l.known || len(data) > l.length:
		p.perhaps("cmp")
	default:
		if s, ok := p.compared(l, operator, data); ok {
			p.ask(l.field, s)
		} else {
			p.perhaps("cmp")
		}
	}
}

// pinned compares a constant: either all packets of this family pass, or none does.
func (p *program) pinned(value []byte, operator uint32, data []byte) {
	equal := bytes.Equal(value, data)
	switch {
	case len(value) != len(data) || operator != unix.NFT_CMP_EQ && operator != unix.NFT_CMP_NEQ:
		p.perhaps("cmp")
	case equal != (operator == unix.NFT_CMP_EQ):
		p.never()
	}
}

// compared returns the values of the field that a comparison holds for.
func (p *program) compared(l loaded, operator uint32, data []byte) (effect.Set, bool) {
	equal := operator == unix.NFT_CMP_EQ
	switch {
	case l.text:
		return l.named(p.pod, data, equal, operator)
	case l.field == effect.CTState && l.mask == nil:
		return statesOf([]byte{0xff, 0xff, 0xff, 0xff}, data, equal, operator)
	case l.field == effect.CTState:
		return statesOf(l.mask, data, equal, operator)
	}
	first, last := data, data
	if l.mask != nil {
		if _, ok := leading(l.mask); l.native || !ok || len(l.mask) != len(data) || !bytes.Equal(and(data, l.mask), data) {
			return effect.Set{}, false
		}
		last = make([]byte, len(data))
		for i := range data {
			last[i] = data[i] | ^l.mask[i]
		}
	}
	l.length = len(data)
	if l.length > l.top || l.native && l.length < l.top {
		return effect.Set{}, false
	}
	s, ok := l.span(first, last)
	all := effect.Everything(l.top)
	switch operator {
	case unix.NFT_CMP_EQ:
		return effect.Union(s), ok
	case unix.NFT_CMP_NEQ:
		return all.Without(effect.Union(s)), ok
	}
	if l.native || l.mask != nil { // bytes are compared, not numbers
		return effect.Set{}, false
	}
	upTo, from := effect.Union(effect.Span{Last: s.Last}), effect.Union(effect.Span{First: s.First, Last: effect.N(0).Filled(8 * l.top)})
	switch operator {
	case unix.NFT_CMP_LTE:
		return upTo, ok
	case unix.NFT_CMP_GTE:
		return from, ok
	case unix.NFT_CMP_LT:
		return all.Without(from), ok
	case unix.NFT_CMP_GT:
		return all.Without(upTo), ok
	}
	return effect.Set{}, false
}

// named compares names of interfaces.
func (l loaded) named(pod *effect.Pod, data []byte, equal bool, operator uint32) (effect.Set, bool) {
	if l.mask != nil || !equal && operator != unix.NFT_CMP_NEQ {
		return effect.Set{}, false
	}
	s := interfacesNamed(pod, data)
	if !equal {
		s = effect.Everything(2).Without(s)
	}
	return s, true
}

// interfacesNamed returns the interfaces whose names begin with these bytes: one is whole by the zero byte behind it.
func interfacesNamed(pod *effect.Pod, data []byte) effect.Set {
	name := unix.ByteSliceToString(data)
	switch behind := data[len(name):]; {
	case len(behind) == 0 && len(data) < unix.IFNAMSIZ:
		return pod.Prefixed(name)
	case bytes.ContainsFunc(behind, func(r rune) bool { return r != 0 }): // no name has that
		return effect.Set{}
	}
	return pod.Interface(name)
}

// statesOf reads "state & mask", compared with nothing or with one state.
func statesOf(mask, data []byte, equal bool, operator uint32) (effect.Set, bool) {
	if len(mask) != 4 || len(data) != 4 || !equal && operator != unix.NFT_CMP_NEQ {
		return effect.Set{}, false
	}
	bits, want := uint16(binary.NativeEndian.Uint32(mask)), uint16(binary.NativeEndian.Uint32(data))
	var all []uint64
	for bit, state := range nfStates {
		if (bits&state == want) == equal {
			all = append(all, 1<<bit)
		}
	}
	return effect.Values(all...), true
}

func (p *program) rangeOf(a attributes) {
	from, _ := a.number(unix.NFTA_RANGE_SREG)
	operator, ok := a.number(unix.NFTA_RANGE_OP)
	first, last := dataOf(a.values[unix.NFTA_RANGE_FROM_DATA]), dataOf(a.values[unix.NFTA_RANGE_TO_DATA])
	l := p.registers.at(from)
	s, known := l.span(first, last)
	if !ok || !known || !l.known || operator != unix.NFT_RANGE_EQ && operator != unix.NFT_RANGE_NEQ || l.text || l.native || l.mask != nil || l.field == effect.CTState {
		p.perhaps("range")
		return
	}
	p.askUnless(operator == unix.NFT_RANGE_NEQ, l.field, effect.Everything(l.top), effect.Union(s))
}

func (p *program) lookup(a attributes) {
	from, _ := a.number(unix.NFTA_LOOKUP_SREG)
	flags, _ := a.number(unix.NFTA_LOOKUP_FLAGS)
	switch into, given := a.number(unix.NFTA_LOOKUP_DREG); {
	case given && into == unix.NFT_REG_VERDICT:
		p.anything("map")
		return
	case given:
		p.something("map")
		return
	}
	l := p.registers.at(from)
	set, ok := p.values(p.of, exactly(a.values[unix.NFTA_LOOKUP_SET]), l)
	if !ok || !l.known || l.text || l.field == effect.CTState || flags&^unix.NFT_LOOKUP_F_INV != 0 {
		p.perhaps("set")
		return
	}
	p.askUnless(flags&unix.NFT_LOOKUP_F_INV != 0, l.field, effect.Everything(l.top), set)
}

func and(a, b []byte) []byte {
	out := make([]byte, len(a))
	for i := range a {
		out[i] = a[i] & b[i]
	}
	return out
}
