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
	own, some := rules.Own(s.interfaces, family)
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
	for _, name := range append([]string{s.leads()}, slices.DeleteFunc(s.others(), func(name string) bool { return name == s.leads() })...) {
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
	all := []netip.Addr{family.Loopback()}
	if own, some := rules.Own(s.interfaces, family); some {
		all = append(all, own)
	}
	if family == rules.IPv4 {
		all = append(all, netip.AddrFrom4([4]byte{127, 1, 2, 3}))
	}
	for _, i := range s.interfaces {
		for _, addr := range i.Addresses {
			if rules.FamilyOf(addr) == family {
				all = append(all, addr)
			}
		}
	}
	for _, prefix := range s.plan.Loopback {
		if rules.FamilyOf(prefix.Addr()) == family {
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
