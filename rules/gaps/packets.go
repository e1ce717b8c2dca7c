// SPDX-License-Identifier: Apache-2.0

package gaps

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// bases are packets that meet no rule in particular, the most usual first: by every kind of owner, to every kind of address,
// lookups and others.
func (s *scene) bases(family rules.Family) (all []rules.Packet) {
	own, some := s.own(family)
	outside := s.elsewhere(servers[family])
	nobody := s.nobody()
	owners := []rules.Packet{{Socket: true, UID: nobody, GID: nobody}}
	if len(s.groups) > 0 {
		owners = append(owners, rules.Packet{Socket: true, UID: nobody, GID: s.groups[0]})
	}
	apps := len(owners)
	owners = append(owners, rules.Packet{Socket: true, UID: s.proxy.UID, GID: nobody}, rules.Packet{})
	if s.proxy.GID != rules.NoID {
		owners = append(owners, rules.Packet{Socket: true, UID: nobody, GID: s.proxy.GID})
	}
	for i, p := range owners {
		locals := s.locals(family)
		if i >= apps {
			locals = locals[:min(2, len(locals))]
		}
		for _, to := range append([]netip.Addr{outside}, locals...) {
			p.Out, p.Source = s.leads(), netip.AddrPortFrom(own, client)
			if to.IsLoopback() {
				p.Source = netip.AddrPortFrom(to, client)
			}
			all = append(all, s.ofBoth(p, to)...)
		}
	}
	names := []string{s.leads()}
	for name, named := range s.named {
		if named && name != names[0] {
			names = append(names, name)
		}
	}
	slices.Sort(names[1:])
	for _, name := range names {
		for _, to := range []netip.Addr{own, outside} {
			if to == own && !some {
				continue // nobody could send it
			}
			all = append(all, s.ofBoth(rules.Packet{Direction: rules.Inbound, In: name, Out: s.leads(),
				Source: netip.AddrPortFrom(s.elsewhere(peers[family]), client)}, to)...)
		}
	}
	return all
}

// locals are the pod's own addresses, and others of lo.
func (s *scene) locals(family rules.Family) []netip.Addr {
	all := []netip.Addr{loopback(family)}
	if own, some := s.own(family); some {
		all = append(all, own)
	}
	if family == rules.IPv4 {
		all = append(all, netip.AddrFrom4([4]byte{127, 1, 2, 3}))
	}
	for _, i := range s.interfaces {
		for _, addr := range i.Addresses {
			if addr.Is6() == (family == rules.IPv6) {
				all = append(all, addr)
			}
		}
	}
	for _, prefix := range s.plan.Loopback {
		if prefix.Addr().Is6() == (family == rules.IPv6) {
			all = append(all, prefix.Addr())
		}
	}
	return rules.Unique(all)
}

const client = 40000 // a port that means nothing

// ofBoth returns a packet by TCP and UDP, to a port that means nothing and to that of lookups.
func (s *scene) ofBoth(p rules.Packet, to netip.Addr) (all []rules.Packet) {
	for _, p.Protocol = range []string{rules.TCP, rules.UDP} {
		for _, port := range []uint16{s.free, 53} {
			p.Destination = netip.AddrPortFrom(to, port)
			all = append(all, p)
		}
	}
	return all
}

// loopback returns the family's own address of lo.
func loopback(family rules.Family) netip.Addr {
	if family == rules.IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// meeting changes a packet so that it meets all matches, in every way that makes a difference; there is none where it cannot.
func (s *scene) meeting(p rules.Packet, matches []rules.Match) []rules.Packet {
	all := []rules.Packet{p}
	for _, m := range matches {
		var next []rules.Packet
		for _, p := range all {
			next = append(next, s.meetOne(p, m)...)
		}
		all = next
	}
	return all
}

func (s *scene) meetOne(p rules.Packet, m rules.Match) (all []rules.Packet) {
	only := func(possible bool) []rules.Packet {
		if !possible {
			return nil
		}
		return []rules.Packet{p}
	}
	isSent := p.Direction == rules.Outbound
	switch m := m.(type) {
	case rules.Protocol:
		return only(p.Protocol == string(m))
	case rules.Source:
		for _, addr := range addressesOf(m.Prefix, p.Source.Addr()) {
			p.Source = netip.AddrPortFrom(addr, p.Source.Port())
			all = append(all, p)
		}
		return all
	case rules.Destination:
		if m.Not {
			return only(!m.Prefix.Contains(p.Destination.Addr()))
		}
		for _, addr := range addressesOf(m.Prefix, p.Destination.Addr()) {
			p.Destination = netip.AddrPortFrom(addr, p.Destination.Port())
			all = append(all, p)
		}
		return all
	case rules.InInterface:
		if m == lo { // it comes back
			return only(s.way(p) == within)
		}
		return only(p.In == s.existing(string(m)))
	case rules.OutInterface:
		if m == lo {
			return only(s.way(p) == within)
		}
		p.Out = s.existing(string(m))
		return only(s.way(p) == outbound)
	case rules.SourcePort:
		p.Source = netip.AddrPortFrom(p.Source.Addr(), m.Port)
	case rules.DestinationPort:
		if m.Not {
			return only(p.Destination.Port() != m.Port)
		}
		p.Destination = netip.AddrPortFrom(p.Destination.Addr(), m.Port)
	case rules.NotDestinationPorts:
		return only(!slices.Contains(m, p.Destination.Port()))
	case rules.DestinationPorts:
		for _, r := range m {
			for _, port := range rules.Unique([]uint16{max(r.First, min(r.Last, 1)), r.Last}) { // nobody listens on port 0
				p.Destination = netip.AddrPortFrom(p.Destination.Addr(), port)
				all = append(all, p)
			}
		}
		return all
	case rules.OwnerUID:
		if m.Not {
			return only(isSent && (!p.Socket || p.UID != m.ID))
		}
		p.Socket, p.UID = true, m.ID
		return only(isSent)
	case rules.OwnerUIDs:
		p.Socket, p.UID = true, m.First
		return only(isSent)
	case rules.OwnerGID:
		if m.Not {
			return only(isSent && (!p.Socket || p.GID != m.ID))
		}
		p.Socket, p.GID = true, m.ID
		return only(isSent)
	case rules.CTState:
		return only(m&rules.StateNew != 0)
	case rules.PacketMark:
		return only(m.Not == (m.Mark != 0))
	case rules.ConnMark:
		return only(m.Mark == 0)
	}
	return only(true)
}

// addressesOf returns addresses of a prefix: the usual one where that is of it, else its first host. Of one family there is
// none of the other.
func addressesOf(prefix netip.Prefix, usual netip.Addr) []netip.Addr {
	if prefix.Bits() == 0 || prefix.Contains(usual) {
		return []netip.Addr{usual}
	}
	addr := prefix.Addr()
	if prefix.Addr().Is6() != usual.Is6() {
		return nil
	}
	if addr.IsUnspecified() || addr == prefix.Masked().Addr() && prefix.Bits() < addr.BitLen()-1 {
		addr = addr.Next() // the first is no host's
	}
	if !prefix.Contains(addr) {
		return nil
	}
	return []netip.Addr{addr}
}
