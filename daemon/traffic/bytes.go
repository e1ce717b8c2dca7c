// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The flags of a TCP segment that are sent.
const (
	flagSYN = 0x02
	flagRST = 0x04
)

const (
	firstHop = 1  // what leaves the pod goes no further
	anyHop   = 64 // for packets that seem to come from elsewhere
)

// signature is a TCP MD5 signature (RFC 2385) that fits no key. A listener without a key, as all of a pod are,
// counts such a segment as dropped and does nothing else: it neither answers nor knows of a connection.
var signature = append([]byte{1, 1, 19, 18}, make([]byte, 16)...)

// form is how a packet is encoded, apart from what rules.Packet says.
type form struct {
	flags    byte // of TCP
	sequence uint32
	unsigned bool // without the signature
	spoilt   bool // with a wrong checksum, so that no receiver accepts it
	hops     byte
}

// encode returns the packet from its IP header on.
func encode(p rules.Packet, f form) []byte {
	protocol, body := byte(unix.IPPROTO_TCP), segment(p, f)
	sum := 16 // where the checksum stands
	if p.Protocol == rules.UDP {
		protocol, body = unix.IPPROTO_UDP, datagram(p)
		sum = 6
	}
	value := checksum(pseudoHeader(p, protocol, len(body)), body)
	if f.spoilt {
		value ^= 0x5a5a
	}
	if value == 0 {
		value = 0xffff // 0 means none, for UDP
	}
	binary.BigEndian.PutUint16(body[sum:], value)
	return append(header(p, protocol, f.hops, len(body)), body...)
}

func segment(p rules.Packet, f form) []byte {
	b := make([]byte, 20, 40)
	if !f.unsigned {
		b = append(b, signature...)
	}
	binary.BigEndian.PutUint16(b[0:], p.Source.Port())
	binary.BigEndian.PutUint16(b[2:], p.Destination.Port())
	binary.BigEndian.PutUint32(b[4:], f.sequence)
	b[12], b[13] = byte(len(b)/4)<<4, f.flags
	binary.BigEndian.PutUint16(b[14:], 64240) // the window
	return b
}

// datagram is short, since the kernel verifies the checksum of a long one only when it is read.
func datagram(p rules.Packet) []byte {
	b := make([]byte, 12)
	binary.BigEndian.PutUint16(b[0:], p.Source.Port())
	binary.BigEndian.PutUint16(b[2:], p.Destination.Port())
	binary.BigEndian.PutUint16(b[4:], uint16(len(b)))
	return b
}

func header(p rules.Packet, protocol, hops byte, length int) []byte {
	src, dst := p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice()
	if p.Family() == rules.IPv6 {
		h := []byte{0x60, 0, 0, 0, 0, 0, protocol, hops}
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		return append(append(h, src...), dst...)
	}
	h := []byte{0x45, 0, 0, 0, 0, 0, 0x40, 0, hops, protocol, 0, 0}
	binary.BigEndian.PutUint16(h[2:], uint16(20+length))
	h = append(append(h, src...), dst...)
	binary.BigEndian.PutUint16(h[10:], checksum(h))
	return h
}

func pseudoHeader(p rules.Packet, protocol byte, length int) []byte {
	h := append(p.Source.Addr().AsSlice(), p.Destination.Addr().AsSlice()...)
	return append(h, 0, 0, byte(length>>8), byte(length), 0, 0, 0, protocol)
}

// checksum is that of RFC 1071, of parts of an even length each.
func checksum(parts ...[]byte) uint16 {
	var sum uint32
	for _, part := range parts {
		for i := 0; i+1 < len(part); i += 2 {
			sum += uint32(part[i])<<8 | uint32(part[i+1])
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

// frame puts an Ethernet header before a packet for an interface with that address.
func frame(mac []byte, p rules.Packet, packet []byte) []byte {
	f := append([]byte{}, mac...)
	f = append(f, 0x02, 0, 0, 0, 0, 0x01) // a locally administered address as sender
	kind := uint16(unix.ETH_P_IP)
	if p.Family() == rules.IPv6 {
		kind = unix.ETH_P_IPV6
	}
	return append(binary.BigEndian.AppendUint16(f, kind), packet...)
}

func sockaddr(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}
