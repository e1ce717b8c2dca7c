// SPDX-License-Identifier: Apache-2.0

package generate

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// The marks of TPROXY: the proxy's on its way to the app, and the one it gets when it calls its own pod.
const (
	inboundMark  = 1337
	outboundMark = 1338
)

// Packet returns a packet of the pod: any that its settings tell apart, and more of those that they name.
// Mostly it is the first of a connection.
func (s Setting) Packet(random *rand.Rand) rules.Packet {
	p := s.outbound(random)
	if random.IntN(3) == 0 {
		p = s.inbound(random)
	}
	p.Protocol = pick(random, rules.TCP, rules.TCP, rules.TCP, rules.UDP)
	p.State = pick(random, rules.StateNew, rules.StateNew, rules.StateNew, rules.StateNew, rules.StateNew,
		rules.StateEstablished, rules.StateEstablished, rules.StateRelated, rules.StateInvalid, rules.StateUntracked)
	if p.State == rules.StateEstablished {
		p.ConnMark = pick[uint32](random, 0, inboundMark, outboundMark)
		p.Transparent = s.Intent.TProxy && p.Direction == rules.Inbound && flip(random)
	}
	return p
}

func (s Setting) outbound(random *rand.Rand) rules.Packet {
	six := s.six(random)
	own, outside, loopback := s.own(random, six), s.outside(random, six), s.loopback(random, six)
	from, to := own, pick(random, outside, outside, own, loopback)
	if to == loopback || random.IntN(6) == 0 {
		from = loopback
	}
	p := rules.Packet{Direction: rules.Outbound, Out: pick(random, "eth0", "eth0", s.interfaceName(random)),
		Source: netip.AddrPortFrom(from, s.clientPort(random)), Destination: netip.AddrPortFrom(to, s.port(random)),
		Mark: pick[uint32](random, 0, 0, 0, 0, inboundMark, outboundMark, 1)}
	if random.IntN(10) == 0 {
		return p // of the kernel's own
	}
	in := s.Intent
	p.Socket = true
	p.UID = pick(random, 1000, 1000, 0, in.UID, in.UID+1)
	p.GID = pick(random, slices.Concat([]uint32{1000, 1000, 0, in.GID, in.GID + 1}, in.OwnerGroups, in.OwnerGroupsExclude)...)
	return p
}

func (s Setting) inbound(random *rand.Rand) rules.Packet {
	six := s.six(random)
	to := s.own(random, six)
	if random.IntN(8) == 0 { // for somebody behind the pod
		to = s.outside(random, six)
	}
	return rules.Packet{Direction: rules.Inbound, In: s.interfaceName(random), Out: "eth0",
		Source: netip.AddrPortFrom(s.outside(random, six), s.clientPort(random)), Destination: netip.AddrPortFrom(to, s.port(random))}
}

// six chooses the family among those that the pod has.
func (s Setting) six(random *rand.Rand) bool { return pick(random, s.Pod.IPs...).Is6() }

func (s Setting) own(random *rand.Rand, six bool) netip.Addr {
	var own []netip.Addr
	for _, i := range s.Interfaces {
		for _, addr := range i.Addresses {
			if addr.Is6() == six {
				own = append(own, addr)
			}
		}
	}
	return pick(random, own...)
}

// outside returns an address elsewhere, within or beside a range that the pod names.
func (s Setting) outside(random *rand.Rand, six bool) netip.Addr {
	addresses := []string{"10.0.0.1", "10.1.9.9", "10.2.0.1", "172.16.0.1", "172.32.0.1", "192.0.2.1", "9.255.255.255", "11.0.0.0"}
	if six {
		addresses = []string{"fd00:10:96::1", "fd00:10:96::1:0", "fd00:1::1", "2001:db8::1", "fcff::1"}
	}
	return netip.MustParseAddr(pick(random, addresses...))
}

func (s Setting) loopback(random *rand.Rand, six bool) netip.Addr {
	addresses := []string{"127.0.0.1", "127.0.0.1", "127.0.0.6", "127.0.0.5", "127.1.2.3"}
	if six {
		addresses = []string{"::1", "::1", "::6"}
	}
	return netip.MustParseAddr(pick(random, addresses...))
}

func (s Setting) interfaceName(random *rand.Rand) string { return pick(random, s.Interfaces...).Name }

func (s Setting) clientPort(random *rand.Rand) uint16 {
	return pick(random, 40000, 40000, 53, s.Intent.DNSPort, s.port(random))
}

// port returns one that the pod's settings name, the next to one, or another.
func (s Setting) port(random *rand.Rand) uint16 {
	in := s.Intent
	named := slices.Concat([]uint16{53, 80, 9999, in.OutboundPort, in.InboundPort, in.TunnelPort, in.DNSPort},
		in.Inbound, in.InboundExclude, in.OutboundPorts, in.OutboundPortsExclude)
	port := pick(random, named...)
	if random.IntN(8) == 0 {
		port++
	}
	return port
}
