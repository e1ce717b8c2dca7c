// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"encoding/binary"
	"encoding/hex"
	"net/netip"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The example of RFC 1071, section 3.
func TestChecksum(t *testing.T) {
	if got := checksum([]byte{0x00, 0x01, 0xf2, 0x03}, []byte{0xf4, 0xf5, 0xf6, 0xf7}); got != ^uint16(0xddf2) {
		t.Errorf("got %#x", got)
	}
}

// A receiver that adds everything up gets zero, but for what is spoilt.
func TestEncode(t *testing.T) {
	four := [2]string{"10.9.0.1:40000", "192.0.2.1:80"}
	six := [2]string{"[fd09::1]:40000", "[2001:db8::1]:80"}
	for _, addresses := range [][2]string{four, six} {
		for _, protocol := range []string{rules.TCP, rules.UDP} {
			for _, spoilt := range []bool{false, true} {
				p := rules.Packet{Protocol: protocol, Source: netip.MustParseAddrPort(addresses[0]), Destination: netip.MustParseAddrPort(addresses[1])}
				b := encode(p, form{flags: flagSYN, sequence: 0x01020304, hops: 7, spoilt: spoilt})
				ip, number, hops := 20, b[9], b[8]
				if p.Family() == rules.IPv6 {
					ip, number, hops = 40, b[6], b[7]
					if n := int(binary.BigEndian.Uint16(b[4:])); n != len(b)-ip {
						t.Errorf("%s: says %d bytes of %d", p, n, len(b)-ip)
					}
				} else if n := int(binary.BigEndian.Uint16(b[2:])); n != len(b) || checksum(b[:20]) != 0 {
					t.Errorf("%s: says %d bytes of %d, checksum %#x", p, n, len(b), checksum(b[:20]))
				}
				want := map[string]byte{rules.TCP: unix.IPPROTO_TCP, rules.UDP: unix.IPPROTO_UDP}[protocol]
				if number != want || hops != 7 {
					t.Errorf("%s: protocol %d, %d hops", p, number, hops)
				}
				body := b[ip:]
				if valid := checksum(pseudoHeader(p, number, len(body)), body) == 0; valid == spoilt {
					t.Errorf("%s, spoilt %v: the checksum is right: %v", p, spoilt, valid)
				}
				if binary.BigEndian.Uint16(body) != 40000 || binary.BigEndian.Uint16(body[2:]) != 80 {
					t.Errorf("%s: ports in % x", p, body[:4])
				}
			}
		}
	}
}

// What a listener is sent is signed; what takes it back is not.
func TestSegment(t *testing.T) {
	p := rules.Packet{Protocol: rules.TCP, Source: netip.MustParseAddrPort("10.9.0.1:1"), Destination: netip.MustParseAddrPort("10.9.0.2:2")}
	for _, tt := range []struct {
		form form
		want string
	}{
		{form{flags: flagSYN, sequence: 1}, "0001000200000001" + "00000000" + "a002faf0" + "00000000" + "01011312" + "00000000000000000000000000000000"},
		{form{flags: flagRST, sequence: 2, unsigned: true}, "0001000200000002" + "00000000" + "5004faf0" + "00000000"},
	} {
		if got := hex.EncodeToString(segment(p, tt.form)); got != tt.want {
			t.Errorf("got  %s\nwant %s", got, tt.want)
		}
	}
}

func TestFrame(t *testing.T) {
	p := rules.Packet{Source: netip.MustParseAddrPort("[::1]:1"), Destination: netip.MustParseAddrPort("[::1]:1")}
	if got := hex.EncodeToString(frame([]byte{1, 2, 3, 4, 5, 6}, p, []byte{0xff})); got != "010203040506"+"020000000001"+"86dd"+"ff" {
		t.Error(got)
	}
	p.Destination = netip.MustParseAddrPort("127.0.0.1:1")
	if got := hex.EncodeToString(frame([]byte{1, 2, 3, 4, 5, 6}, p, nil)); got != "010203040506"+"020000000001"+"0800" {
		t.Error(got)
	}
}
