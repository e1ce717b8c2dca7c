// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"net"
	"net/netip"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// location is where a field of a packet is loaded from.
type location struct {
	from   string // meta, payload or ct; "" is nothing
	key    uint32 // of meta and ct, or the header of payload
	offset uint32
	length uint32
}

// fields are where each field of a match is loaded from, when packets are asked for it, and what a set of its values holds.
// The locations of addresses, and their sets, are those of IPv4.
var fields = [rules.Fields]struct {
	location
	order int
	set   setKind
}{
	rules.FieldIn:               {location{"meta", unix.NFT_META_IIFNAME, 0, 0}, 0, setKind{}},
	rules.FieldOut:              {location{"meta", unix.NFT_META_OIFNAME, 0, 0}, 1, setKind{}},
	rules.FieldProtocol:         {location{"meta", unix.NFT_META_L4PROTO, 0, 0}, 2, setKind{}},
	rules.FieldSource:           {location{"payload", unix.NFT_PAYLOAD_NETWORK_HEADER, source4, 4}, 3, ranges4},
	rules.FieldDestination:      {location{"payload", unix.NFT_PAYLOAD_NETWORK_HEADER, source4 + 4, 4}, 4, ranges4},
	rules.FieldSourcePort:       {location{"payload", unix.NFT_PAYLOAD_TRANSPORT_HEADER, sourcePort, 2}, extensions, ports},
	rules.FieldDestinationPort:  {location{"payload", unix.NFT_PAYLOAD_TRANSPORT_HEADER, destinationPort, 2}, extensions, ports},
	rules.FieldDestinationPorts: {location{"payload", unix.NFT_PAYLOAD_TRANSPORT_HEADER, destinationPort, 2}, extensions, ports},
	rules.FieldUID:              {location{"meta", unix.NFT_META_SKUID, 0, 0}, extensions, users},
	rules.FieldGID:              {location{"meta", unix.NFT_META_SKGID, 0, 0}, extensions, groups},
	rules.FieldCTState:          {location{"ct", unix.NFT_CT_STATE, 0, 0}, extensions, setKind{}},
	rules.FieldMark:             {location{"meta", unix.NFT_META_MARK, 0, 0}, extensions, setKind{}},
	rules.FieldConnMark:         {location{"ct", unix.NFT_CT_MARK, 0, 0}, extensions, setKind{}},
	rules.FieldComment:          {location{}, extensions, setKind{}},
}

// Where the addresses and the ports are in their headers.
const (
	source4, source6            = 12, 8
	sourcePort, destinationPort = 0, 2
)

// extensions are asked last, in their own order.
const extensions = 5

// locationOf returns where a field of packets of the family is.
func locationOf(f rules.Field, family rules.Family) location {
	p := fields[f].location
	if family == rules.IPv6 && (f == rules.FieldSource || f == rules.FieldDestination) {
		p.offset, p.length = source6+(p.offset-source4)*4, 16
	}
	return p
}

func (p location) load(w *wire) {
	switch p.from {
	case "meta":
		meta(w, p.key)
	case "ct":
		connection(w, p.key)
	case "payload":
		payload(w, p.key, int(p.offset), int(p.length))
	}
}

// appendAsk loads what a match is about, and ends the rule for packets that do not meet it.
func appendAsk(w *wire, family rules.Family, m rules.Match) {
	p := locationOf(m.Field, family)
	switch v := m.Value.(type) {
	case rules.Link:
		prefix, any := strings.CutSuffix(string(v), "+")
		if any && prefix == "" {
			return
		}
		name := []byte(prefix)
		if !any {
			name = append(name, 0) // so that no longer name matches
		}
		p.load(w)
		compare(w, unix.NFT_CMP_EQ, name)
	case rules.Addresses:
		p.askAddress(w, v.Prefix, m.Not)
	case rules.CTState:
		compareState(w, v, unix.NFT_CMP_NEQ) // any of them
	case rules.IDs:
		p.load(w)
		if v.First == v.Last {
			compare(w, operator(m.Not), key(v))
			return
		}
		toNetworkOrder(w, 4) // the highest byte first, as bytes are compared
		compare(w, unix.NFT_CMP_GTE, binary.BigEndian.AppendUint32(nil, v.First))
		compare(w, unix.NFT_CMP_LTE, binary.BigEndian.AppendUint32(nil, v.Last))
	default:
		p.load(w)
		compare(w, operator(m.Not), key(v))
	}
}

// key returns a single value as it is loaded.
func key(v rules.Value) []byte {
	switch v := v.(type) {
	case rules.Transport:
		return []byte{protocolNumbers[string(v)]}
	case rules.Port:
		return binary.BigEndian.AppendUint16(nil, v.Number)
	case rules.PortList:
		return binary.BigEndian.AppendUint16(nil, v.All()[0].First)
	case rules.IDs:
		return binary.NativeEndian.AppendUint32(nil, v.First)
	case rules.Mark:
		return binary.NativeEndian.AppendUint32(nil, uint32(v))
	}
	return nil
}

var protocolNumbers = map[string]byte{rules.TCP: unix.IPPROTO_TCP, rules.UDP: unix.IPPROTO_UDP, rules.ICMP: unix.IPPROTO_ICMP, rules.ICMPv6: unix.IPPROTO_ICMPV6}

// askAddress compares whole bytes of the address where the prefix ends between two, else all with a mask.
func (p location) askAddress(w *wire, prefix netip.Prefix, not bool) {
	bits := prefix.Bits()
	if bits == 0 && !not {
		return
	}
	address := prefix.Masked().Addr().AsSlice()
	if bits%8 == 0 && bits > 0 {
		p.length = uint32(bits / 8)
		p.load(w)
		compare(w, operator(not), address[:p.length])
		return
	}
	p.load(w)
	bitwise(w, net.CIDRMask(bits, 8*len(address)), false)
	compare(w, operator(not), address)
}

func operator(not bool) uint32 {
	if not {
		return unix.NFT_CMP_NEQ
	}
	return unix.NFT_CMP_EQ
}

// matchOf is the reverse of appendAsk, as far as the iptables dialect uses it.
func (r *reader) matchOf(l load, data []byte, not bool) (rules.Match, bool) {
	if r.family == rules.IPv4 && l.location == (location{"payload", unix.NFT_PAYLOAD_NETWORK_HEADER, protocol4, 1}) {
		l.location = fields[rules.FieldProtocol].location // as iptables-nft before 1.8.0 writes it
	}
	for i := range fields {
		f := rules.Field(i)
		if p := locationOf(f, r.family); p.from == l.from && p.key == l.key && p.offset == l.offset {
			m := rules.Match{Field: f, Value: r.valueOf(f, l, data), Not: not}
			return m, m.Value != nil && (!not || m.Negatable())
		}
	}
	return rules.Match{}, false
}

func (r *reader) valueOf(f rules.Field, l load, data []byte) rules.Value {
	switch {
	case f == rules.FieldSource || f == rules.FieldDestination:
		if prefix, ok := prefixOf(l, data, locationOf(f, r.family).length); ok {
			return rules.Addresses{Prefix: prefix}
		}
	case l.mask != nil:
	case (f == rules.FieldIn || f == rules.FieldOut) && len(data) > 0:
		if whole, ok := bytes.CutSuffix(data, []byte{0}); ok {
			return rules.Link(whole)
		}
		return rules.Link(data) + "+"
	case f == rules.FieldProtocol:
		for name, number := range protocolNumbers {
			if bytes.Equal(data, []byte{number}) {
				return rules.Transport(name)
			}
		}
	case (f == rules.FieldSourcePort || f == rules.FieldDestinationPort) && r.protocol != "" && l.length == 2 && len(data) == 2:
		return rules.Port{Protocol: r.protocol, Number: binary.BigEndian.Uint16(data)}
	case f == rules.FieldMark && len(data) == 4:
		return rules.Mark(binary.NativeEndian.Uint32(data))
	}
	return nil
}

// prefixOf reads the first bytes of an address, or all of it and a mask that is a row of ones.
func prefixOf(l load, data []byte, length uint32) (netip.Prefix, bool) {
	if l.length == 0 || l.length > length || len(data) != int(l.length) {
		return netip.Prefix{}, false
	}
	bits := int(l.length) * 8
	if l.mask != nil {
		var row bool
		if bits, row = leading(l.mask); l.length != length || len(l.mask) != int(length) || !row || bits%8 == 0 && bits > 0 {
			return netip.Prefix{}, false // not as iptables writes it
		}
	}
	address := make([]byte, length)
	copy(address, data)
	ip, _ := netip.AddrFromSlice(address)
	prefix := netip.PrefixFrom(ip, bits)
	return prefix, prefix.Masked() == prefix
}
