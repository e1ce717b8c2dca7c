// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"net/netip"
	"testing"
)

// The addresses and ports of every frame below.
var (
	src4 = netip.MustParseAddr("10.1.2.3")
	dst4 = netip.MustParseAddr("10.4.5.6")
	src6 = netip.MustParseAddr("fd00::1")
	dst6 = netip.MustParseAddr("fd00::2")
)

const srcPort, dstPort = 0xabcd, 8080

func ethernet(etherType uint16, payload ...byte) []byte {
	frame := make([]byte, 12, 128)
	return append(append(frame, byte(etherType>>8), byte(etherType)), payload...)
}

// ipv4 has options of that many bytes, and the flags and offset of fragments.
func ipv4(protocol byte, options int, fragment uint16, payload []byte) []byte {
	header := make([]byte, 20+options)
	header[0] = 4<<4 | byte(5+options/4)
	header[6], header[7], header[9] = byte(fragment>>8), byte(fragment), protocol
	copy(header[12:], src4.AsSlice())
	copy(header[16:], dst4.AsSlice())
	return ethernet(0x0800, append(header, payload...)...)
}

func ipv6(protocol byte, payload []byte) []byte {
	header := make([]byte, 40)
	header[0], header[6] = 6<<4, protocol
	copy(header[8:], src6.AsSlice())
	copy(header[24:], dst6.AsSlice())
	return ethernet(0x86dd, append(header, payload...)...)
}

func segment(flags byte) []byte {
	s := make([]byte, 20)
	s[0], s[1], s[2], s[3], s[13] = srcPort>>8, srcPort&0xff, dstPort>>8, dstPort&0xff, flags
	return s
}

func TestParse(t *testing.T) {
	const tcp, udp, icmp, moreFragments = 6, 17, 1, 0x2000
	want4 := Packet{Src: netip.AddrPortFrom(src4, srcPort), Dst: netip.AddrPortFrom(dst4, dstPort)}
	want6 := Packet{Src: netip.AddrPortFrom(src6, srcPort), Dst: netip.AddrPortFrom(dst6, dstPort)}
	for _, test := range []struct {
		name     string
		frame    []byte
		want     Packet
		protocol string // "" is nothing
	}{
		{"SYN", ipv4(tcp, 0, 0, segment(0x02)), want4, "tcp"},
		{"SYN with ECN", ipv4(tcp, 0, 0, segment(0xc2)), want4, "tcp"},
		{"SYN behind IP options", ipv4(tcp, 8, 0, segment(0x02)), want4, "tcp"},
		{"SYN, IPv6", ipv6(tcp, segment(0x02)), want6, "tcp"},
		{"answer to a SYN", ipv4(tcp, 0, 0, segment(0x12)), Packet{}, ""},
		{"data", ipv4(tcp, 0, 0, segment(0x18)), Packet{}, ""},
		{"reset", ipv6(tcp, segment(0x04)), Packet{}, ""},
		{"datagram", ipv4(udp, 0, 0, segment(0)[:8]), want4, "udp"},
		{"datagram, IPv6", ipv6(udp, segment(0)[:8]), want6, "udp"},
		{"first fragment", ipv4(udp, 0, moreFragments, segment(0)[:8]), want4, "udp"},
		{"later fragment", ipv4(udp, 0, 1, segment(0)[:8]), Packet{}, ""},
		{"ICMP", ipv4(icmp, 0, 0, segment(0x02)), Packet{}, ""},
		{"ARP", ethernet(0x0806, segment(0x02)...), Packet{}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			got, ok := parse(test.frame)
			got.At = test.want.At
			test.want.Protocol = test.protocol
			if ok != (test.protocol != "") || got != test.want {
				t.Errorf("got %+v, %v, want %+v", got, ok, test.want)
			}
			for n := range test.frame { // a frame may be cut off anywhere
				parse(test.frame[:n])
			}
		})
	}
}
