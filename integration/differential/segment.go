// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The flags of TCP.
const (
	tcpSYN = 1 << 1
	tcpRST = 1 << 2
	tcpPSH = 1 << 3
	tcpACK = 1 << 4
)

// raw is a protocol without a name, to try what no rule names (RFC 3692). What stands in the place of ports is nobody's business.
const raw = "253"

// numbers are those of the protocols that are sent.
var numbers = map[string]uint8{rules.TCP: unix.IPPROTO_TCP, rules.UDP: unix.IPPROTO_UDP, rules.ICMP: unix.IPPROTO_ICMP, rules.ICMPv6: unix.IPPROTO_ICMPV6, raw: 253}

// echoes are the types of a request and its answer. Identifier and sequence number stand in the place of ports.
var echoes = map[string][2]uint8{rules.ICMP: {8, 0}, rules.ICMPv6: {128, 129}}

// segment is a TCP segment, a UDP datagram or a packet of another protocol as it is on the way.
type segment struct {
	protocol    string
	source      netip.AddrPort
	destination netip.AddrPort
	flags       uint8 // of TCP; of ICMP the type
	payload     []byte
}

// parseIP reads a packet that begins with its IP header; IPv6 without extension headers.
func parseIP(packet []byte) (segment, bool) {
	if len(packet) < 20 {
		return segment{}, false
	}
	switch header := int(packet[0]&15) * 4; {
	case packet[0]>>4 == 4 && header <= len(packet):
		src, dst := netip.AddrFrom4([4]byte(packet[12:])), netip.AddrFrom4([4]byte(packet[16:]))
		return parseTransport(packet[9], src, dst, packet[header:])
	case packet[0]>>4 == 6 && len(packet) >= 40:
		src, dst := netip.AddrFrom16([16]byte(packet[8:])), netip.AddrFrom16([16]byte(packet[24:]))
		return parseTransport(packet[6], src, dst, packet[40:])
	}
	return segment{}, false
}

func parseTransport(protocol uint8, src, dst netip.Addr, data []byte) (segment, bool) {
	s := segment{}
	header, ports := 8, 0
	for name, n := range numbers {
		if n == protocol {
			s.protocol = name
		}
	}
	switch {
	case s.protocol == "" || len(data) < header || s.protocol == rules.TCP && len(data) < 20:
		return s, false
	case s.protocol == rules.TCP:
		s.flags, header = data[13], int(data[12]>>4)*4
	case echoes[s.protocol] != [2]uint8{}:
		s.flags, ports = data[0], 4
	}
	s.source = netip.AddrPortFrom(src, binary.BigEndian.Uint16(data[ports:]))
	s.destination = netip.AddrPortFrom(dst, binary.BigEndian.Uint16(data[ports+2:]))
	if header <= len(data) {
		s.payload = data[header:]
	}
	return s, true
}

// bytes returns the packet with its IP header and checksums, and with that code point. A datagram is one
// whose length cannot be where broken is set, which conntrack takes for invalid.
func (s segment) bytes(codePoint uint8, broken bool) []byte {
	protocol := numbers[s.protocol]
	transport, ports, checksum := make([]byte, 8, 20+len(s.payload)), 0, 6
	switch s.protocol {
	case rules.TCP:
		transport, checksum = transport[:20], 16
		transport[12], transport[13] = 5<<4, s.flags
		binary.BigEndian.PutUint32(transport[4:], 1)
		binary.BigEndian.PutUint16(transport[14:], 65535)
	case rules.UDP:
		binary.BigEndian.PutUint16(transport[4:], uint16(8+len(s.payload)))
		if broken {
			binary.BigEndian.PutUint16(transport[4:], 4)
		}
	case rules.ICMP, rules.ICMPv6:
		transport[0], ports, checksum = s.flags, 4, 2
	}
	binary.BigEndian.PutUint16(transport[ports:], s.source.Port())
	binary.BigEndian.PutUint16(transport[ports+2:], s.destination.Port())
	transport = append(transport, s.payload...)
	sum := uint32(0)
	if s.protocol != rules.ICMP {
		sum = sumOf(sumOf(uint32(protocol)+uint32(len(transport)), s.source.Addr().AsSlice()), s.destination.Addr().AsSlice())
	}
	if s.protocol != raw {
		binary.BigEndian.PutUint16(transport[checksum:], ^fold(sumOf(sum, transport)))
	}
	return append(s.header(protocol, codePoint, len(transport)), transport...)
}

func (s segment) header(protocol, codePoint uint8, length int) []byte {
	if s.source.Addr().Is6() {
		h := make([]byte, 40)
		binary.BigEndian.PutUint32(h, 6<<28|uint32(codePoint)<<22)
		binary.BigEndian.PutUint16(h[4:], uint16(length))
		h[6], h[7] = protocol, 64
		copy(h[8:], s.source.Addr().AsSlice())
		copy(h[24:], s.destination.Addr().AsSlice())
		return h
	}
	h := make([]byte, 20)
	h[0], h[1], h[8], h[9] = 4<<4|5, codePoint<<2, 64, protocol
	binary.BigEndian.PutUint16(h[2:], uint16(20+length))
	copy(h[12:], s.source.Addr().AsSlice())
	copy(h[16:], s.destination.Addr().AsSlice())
	binary.BigEndian.PutUint16(h[10:], ^fold(sumOf(0, h)))
	return h
}

func sumOf(sum uint32, data []byte) uint32 {
	for i := 0; i+1 < len(data); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(data[i:]))
	}
	if len(data)%2 == 1 {
		sum += uint32(data[len(data)-1]) << 8
	}
	return sum
}

func fold(sum uint32) uint16 {
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
