// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// compare turns a comparison of what is loaded into a match.
func (r *reader) compare(a attributes) bool {
	from, ok := a.number(unix.NFTA_CMP_SREG)
	operator, ok2 := a.number(unix.NFTA_CMP_OP)
	data := dataOf(a.values[unix.NFTA_CMP_DATA])
	l := r.loaded
	r.loaded = load{}
	if !ok || !ok2 || from != register || operator > unix.NFT_CMP_NEQ || !a.only(unix.NFTA_CMP_SREG, unix.NFTA_CMP_OP, unix.NFTA_CMP_DATA) {
		return false
	}
	not := operator == unix.NFT_CMP_NEQ
	var m rules.Match
	switch {
	case l.from == "meta" && l.mask == nil:
		m = metaMatch(l.key, data, not)
	case l.from == "payload" && l.key == unix.NFT_PAYLOAD_NETWORK_HEADER:
		m = r.networkMatch(l, data, not)
	case l.from == "payload" && l.key == unix.NFT_PAYLOAD_TRANSPORT_HEADER && l.length == 2 && len(data) == 2 && l.mask == nil:
		m = r.portMatch(l.offset, binary.BigEndian.Uint16(data), not)
	}
	if m == nil {
		return false
	}
	if p, ok := m.(rules.Protocol); ok && (p == rules.TCP || p == rules.UDP) {
		r.protocol = string(p)
	}
	r.rule.Match = append(r.rule.Match, m)
	return true
}

func metaMatch(key uint32, data []byte, not bool) rules.Match {
	switch {
	case key == unix.NFT_META_MARK && len(data) == 4:
		return rules.PacketMark{Mark: binary.NativeEndian.Uint32(data), Not: not}
	case not:
	case key == unix.NFT_META_L4PROTO:
		return protocolMatch(data)
	case key == unix.NFT_META_IIFNAME && len(data) > 0:
		return rules.InInterface(interfaceName(data))
	case key == unix.NFT_META_OIFNAME && len(data) > 0:
		return rules.OutInterface(interfaceName(data))
	}
	return nil
}

func protocolMatch(data []byte) rules.Match {
	for _, p := range []rules.Protocol{rules.TCP, rules.UDP, rules.ICMP, rules.ICMPv6} {
		if bytes.Equal(data, []byte{protocolNumber(string(p))}) {
			return p
		}
	}
	return nil
}

// interfaceName returns a name, or what a name begins with and a plus.
func interfaceName(data []byte) string {
	if whole, ok := bytes.CutSuffix(data, []byte{0}); ok {
		return string(whole)
	}
	return string(data) + "+"
}

func (r *reader) portMatch(offset uint32, port uint16, not bool) rules.Match {
	switch {
	case r.protocol == "":
	case offset == sourcePort && !not:
		return rules.SourcePort{Protocol: r.protocol, Port: port}
	case offset == destinationPort:
		return rules.DestinationPort{Protocol: r.protocol, Port: port, Not: not}
	}
	return nil
}

// networkMatch reads a comparison with an address or, as iptables-nft before 1.8.0 writes it, the protocol.
func (r *reader) networkMatch(l load, data []byte, not bool) rules.Match {
	length, source := uint32(4), uint32(source4)
	if r.family == rules.IPv6 {
		length, source = 16, source6
	}
	const protocol4 = 9
	switch {
	case len(data) != int(l.length):
	case r.family == rules.IPv4 && l.offset == protocol4 && l.length == 1 && l.mask == nil && !not:
		return protocolMatch(data)
	case l.offset == source && !not:
		if prefix, ok := prefixOf(l, data, length); ok {
			return rules.Source{Prefix: prefix}
		}
	case l.offset == source+length:
		if prefix, ok := prefixOf(l, data, length); ok {
			return rules.Destination{Prefix: prefix, Not: not}
		}
	}
	return nil
}

// prefixOf reads the first bytes of an address, or all of it and a mask that is a row of ones.
func prefixOf(l load, data []byte, length uint32) (netip.Prefix, bool) {
	if l.length == 0 || l.length > length {
		return netip.Prefix{}, false
	}
	bits := int(l.length) * 8
	if l.mask != nil {
		if l.length != length || len(l.mask) != int(length) {
			return netip.Prefix{}, false
		}
		for bits = 0; bits < len(l.mask)*8 && l.mask[bits/8]&(0x80>>(bits%8)) != 0; {
			bits++
		}
		if bits%8 == 0 && bits > 0 || !bytes.Equal(l.mask, ones(bits, len(l.mask))) {
			return netip.Prefix{}, false // not as iptables writes it
		}
	}
	address := make([]byte, length)
	copy(address, data)
	ip, _ := netip.AddrFromSlice(address)
	prefix := netip.PrefixFrom(ip, bits)
	return prefix, prefix.Masked() == prefix
}
