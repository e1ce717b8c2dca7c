// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"math/rand/v2"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
)

// draw returns a pod out of the whole space of settings, with the interfaces that there are, and packets. Now
// and then its route for the mark is missing, as if somebody had taken it away.
func (w *world) draw(random *rand.Rand, packets int) (generate.Setting, []rules.Packet) {
	s := generate.Draw(random)
	s.Interfaces = w.interfaces
	if random.IntN(8) == 0 {
		s.Plan.Routes = nil
	}
	all := make([]rules.Packet, packets)
	for i := range all {
		all[i] = w.fit(sendable(random, s.Packet(random)))
	}
	return s, all
}

// sendable makes of what cannot be sent something near it that can be, and of some packets what is rarely drawn:
// one that comes from outside with a loopback address, a lookup that nobody owns.
func sendable(random *rand.Rand, p rules.Packet) rules.Packet {
	if p.State == rules.StateRelated {
		p.State = rules.StateNew
	}
	loopback := netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if p.Destination.Addr().Is6() {
		loopback = netip.IPv6Loopback()
	}
	switch {
	case p.Direction == rules.Inbound && p.State != rules.StateEstablished && random.IntN(20) == 0:
		if random.IntN(2) == 0 {
			p.Source = netip.AddrPortFrom(loopback, p.Source.Port())
		} else {
			p.Destination = netip.AddrPortFrom(loopback, p.Destination.Port())
		}
	case p.Direction == rules.Outbound && !p.Socket && random.IntN(2) == 0:
		p.Protocol, p.State, p.ConnMark, p.Mark = rules.UDP, rules.StateNew, 0, 0
		p.Destination = netip.AddrPortFrom(p.Destination.Addr(), 53)
	}
	return p
}

// fit gives a packet that names a link-local address of the pod one that it can have: of the interface that
// it comes by, or a global one where the pod sends.
func (w *world) fit(p rules.Packet) rules.Packet {
	if linkLocal6(p.Destination.Addr()) {
		p.Destination = netip.AddrPortFrom(w.sixOf(p.In, p.Direction == rules.Inbound), p.Destination.Port())
	}
	if linkLocal6(p.Source.Addr()) {
		p.Source = netip.AddrPortFrom(w.sixOf("", false), p.Source.Port())
	}
	return p
}

// sixOf returns an IPv6 address of an interface, or of the first where it has none.
func (w *world) sixOf(name string, linkLocal bool) netip.Addr {
	i := max(0, slices.IndexFunc(w.interfaces, func(i rules.Interface) bool { return i.Name == name }))
	for _, addr := range w.interfaces[i].Addresses {
		if addr.Is6() && linkLocal6(addr) == linkLocal {
			return addr
		}
	}
	return netip.IPv6Loopback()
}

func linkLocal6(addr netip.Addr) bool { return addr.Is6() && addr.IsLinkLocalUnicast() }
