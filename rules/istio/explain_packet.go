// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

func out(p rules.Packet) bool { return p.Direction == rules.Outbound }

func within(prefixes []netip.Prefix, p rules.Packet) bool {
	return slices.ContainsFunc(prefixes, func(prefix netip.Prefix) bool { return prefix.Contains(p.Destination.Addr()) })
}

func familyOf(addr netip.Addr) rules.Family {
	if addr.Is6() {
		return rules.IPv6
	}
	return rules.IPv4
}

func deduplicated(names []string) []string {
	names = slices.Clone(names)
	slices.Sort(names)
	return slices.Compact(names)
}

func (g *gaps) ruleset(family rules.Family) rules.Ruleset {
	if family == rules.IPv6 {
		return g.plan.V6
	}
	return g.plan.V4
}

func (g *gaps) captured(family rules.Family) bool {
	return len(g.ruleset(family).Table(nat).Chains) > 0
}

func (g *gaps) resets(family rules.Family) bool {
	return len(g.ruleset(family).Table(filter).Chains) > 0
}

// proxys tells whether the rules take a packet for the proxy's own.
func (g *gaps) proxys(p rules.Packet) bool {
	return p.Socket && (p.UID == g.UID || p.GID == g.GID)
}

func (g *gaps) apps(p rules.Packet) bool { return out(p) && !g.proxys(p) }

func (g *gaps) lookup(p rules.Packet) bool {
	return g.DNSCapture && out(p) && p.Destination.Port() == 53 && g.captured(p.Family())
}

// stays tells whether a packet that is sent stays in the pod.
func (g *gaps) stays(p rules.Packet) bool { return out(p) && g.local(p) }

func (g *gaps) local(p rules.Packet) bool {
	dst := p.Destination.Addr()
	return dst.IsLoopback() ||
		slices.ContainsFunc(g.interfaces, func(i rules.Interface) bool { return slices.Contains(i.Addresses, dst) }) ||
		slices.ContainsFunc(g.plan.Loopback, func(prefix netip.Prefix) bool { return prefix.Addr() == dst })
}

// by is the interface that the rules see.
func (g *gaps) by(p rules.Packet) string {
	switch {
	case !out(p):
		return p.In
	case g.stays(p):
		return lo
	}
	return p.Out
}

// family is the one that packets are shown of: the pod's own, where both are captured the first.
func (g *gaps) family() rules.Family {
	if g.has(rules.IPv6) && !g.has(rules.IPv4) && g.captured(rules.IPv6) {
		return rules.IPv6
	}
	return rules.IPv4
}

func (g *gaps) has(family rules.Family) bool {
	return slices.ContainsFunc(g.interfaces, func(i rules.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(addr netip.Addr) bool { return global(addr) && familyOf(addr) == family })
	})
}

func global(addr netip.Addr) bool { return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() }

// own returns an address of the pod, or one that it could have.
func (g *gaps) own(family rules.Family) netip.Addr {
	for _, i := range g.interfaces {
		for _, addr := range i.Addresses {
			if global(addr) && familyOf(addr) == family {
				return addr
			}
		}
	}
	if family == rules.IPv6 {
		return netip.MustParseAddr("2001:db8::2")
	}
	return netip.MustParseAddr("192.0.2.2")
}

// elsewhere returns addresses that are nobody's (RFC 5737, RFC 3849), and some others for pods whose ranges have these.
func elsewhere(family rules.Family) []netip.Addr {
	texts := []string{"203.0.113.10", "198.51.100.10", "8.8.8.8", "100.64.0.10"}
	if family == rules.IPv6 {
		texts = []string{"2001:db8:1::10", "2620:fe::fe", "fd12::10"}
	}
	var all []netip.Addr
	for _, text := range texts {
		all = append(all, netip.MustParseAddr(text))
	}
	return all
}

// outside returns an address elsewhere, out of the excluded ranges where that can be.
func (g *gaps) outside(family rules.Family) netip.Addr {
	all := elsewhere(family)
	for _, addr := range all {
		if !slices.ContainsFunc(g.OutboundExclude, func(prefix netip.Prefix) bool { return prefix.Contains(addr) }) {
			return addr
		}
	}
	return all[0]
}

// freePort returns a port that no setting names.
func (g *gaps) freePort() uint16 {
	named := slices.Concat([]uint16{53, g.OutboundPort, g.InboundPort, g.TunnelPort, g.DNSPort}, g.Inbound, g.InboundExclude, g.OutboundPorts, g.OutboundPortsExclude)
	port := uint16(8080)
	for slices.Contains(named, port) {
		port++
	}
	return port
}

const someClient, someUser = 40000, 1000 // that no setting has to do with

func (g *gaps) sent(family rules.Family, protocol string, to netip.Addr, port uint16) rules.Packet {
	p := rules.Packet{Direction: rules.Outbound, Protocol: protocol, Out: g.leads(), Socket: true, UID: someUser, GID: someUser,
		Source: netip.AddrPortFrom(g.own(family), someClient), Destination: netip.AddrPortFrom(to, port)}
	for p.UID == g.UID {
		p.UID++
	}
	for p.GID == g.GID {
		p.GID++
	}
	return p
}

func (g *gaps) arrives(family rules.Family, to netip.Addr, port uint16) rules.Packet {
	from := netip.MustParseAddr("192.0.2.99") // as `meshnetd trace` has a peer that nobody named
	if family == rules.IPv6 {
		from = netip.MustParseAddr("2001:db8::99")
	}
	return rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, In: g.leads(), Out: g.leads(),
		Source: netip.AddrPortFrom(from, someClient), Destination: netip.AddrPortFrom(to, port)}
}

// leads returns the interface by which the pod is reached: the first that has an address of others' reach.
func (g *gaps) leads() string {
	for _, i := range g.interfaces {
		if i.Name != lo && slices.ContainsFunc(i.Addresses, global) {
			return i.Name
		}
	}
	return "eth0"
}
