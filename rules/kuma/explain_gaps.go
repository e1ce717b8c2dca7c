// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Gaps implements rules.GapReporter.
func (in Intent) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := gaps{in: in, Gaps: account.Gaps{Plan: plan, Interfaces: interfaces, UID: in.UID, GID: rules.NoID}}
	for _, ports := range [][]uint16{in.Inbound.Include, in.Inbound.Exclude, in.Outbound.Include, in.Outbound.Exclude, {in.Inbound.Port, in.Outbound.Port, in.DNSPort}} {
		for _, port := range ports {
			g.Ports = append(g.Ports, rules.PortRange{First: port, Last: port})
		}
	}
	g.Ranges = slices.Concat(in.Inbound.RangeExclude, in.Outbound.RangeExclude)
	for _, u := range in.Users {
		g.IDs = append(g.IDs, u.First)
	}
	g.WithoutIPv6(becauseIPv6)
	g.otherProtocols()
	g.lookupsByTCP()
	g.users()
	g.outbound()
	g.owner()
	g.withinThePod()
	g.inbound()
	return g.All()
}

type gaps struct {
	in Intent
	account.Gaps
}

// lookup reports whether a packet goes to the proxy as a name lookup.
func (g *gaps) lookup(p rules.Packet) bool {
	if !g.in.DNSCapture || p.Protocol != rules.UDP || p.Destination.Port() != 53 || !g.Captured(p.Family()) {
		return g.in.DNSCapture && g.RefusesLookup(p) && !g.exempt(p)
	}
	if !account.Out(p) {
		return g.behind(p)
	}
	return !g.Proxys(p) && !g.exempt(p)
}

// behind reports whether a packet comes from behind one of the pod's own networks.
func (g *gaps) behind(p rules.Packet) bool {
	return !account.Out(p) && g.Captured(p.Family()) && slices.ContainsFunc(g.in.Networks, func(n Network) bool {
		prefix, all := strings.CutSuffix(n.Interface, "+")
		return account.FamilyOf(n.Prefix.Addr()) == p.Family() && (p.In == n.Interface || all && strings.HasPrefix(p.In, prefix))
	})
}

// redirected reports whether a packet from behind a network counts as outbound traffic.
func (g *gaps) redirected(p rules.Packet) bool {
	return slices.ContainsFunc(g.in.Networks, func(n Network) bool {
		one := gaps{in: Intent{Networks: []Network{n}}, Gaps: g.Gaps}
		return one.behind(p) && !n.Prefix.Contains(p.Destination.Addr())
	})
}

func (g *gaps) exempt(p rules.Packet) bool {
	return slices.ContainsFunc(g.in.Users, func(u User) bool { return u.covers(p) })
}

func (u User) covers(p rules.Packet) bool {
	return account.Out(p) && p.Socket && p.Protocol == u.Protocol && u.First <= p.UID && p.UID <= u.Last && account.To(p, u.Ports...)
}

func (g *gaps) sent(protocol string, port uint16) rules.Packet {
	return g.Sent(g.Family(), protocol, g.Outside(g.Family()), port)
}

func (g *gaps) otherProtocols() {
	what, port := "UDP, ICMP and SCTP, in and out: the rules redirect TCP. ", g.FreePort()
	switch {
	case !g.in.DNSCapture:
		what += "Name lookups over UDP are among it: redirect.dns.enabled is not true"
		port = 53
	case g.Resets(rules.IPv6):
		what += "Only the app's name lookups (UDP port 53) go to the proxy, and over IPv6 are refused"
	default:
		what += "Only the app's name lookups (UDP port 53) go to the proxy"
	}
	g.Add(g.sent(rules.UDP, port), func(p rules.Packet) bool { return p.Protocol == rules.UDP && !g.lookup(p) }, "%s", what)
}

func (g *gaps) lookupsByTCP() {
	if !g.in.DNSCapture {
		return
	}
	g.Add(g.sent(rules.TCP, 53), func(p rules.Packet) bool {
		return account.Out(p) && account.TCP(p) && p.Destination.Port() == 53 && !g.Proxys(p)
	}, "outbound TCP to port 53, name lookups: the proxy answers none by TCP")
}

func (g *gaps) users() {
	for _, u := range g.in.Users {
		p := g.sent(u.Protocol, account.PortOf(u.Ports[0]))
		p.UID = u.First
		g.Add(p, u.covers, "what is of %s: excluded", u)
	}
}

// apps reports whether a packet is one of TCP that somebody else than the proxy sends.
func (g *gaps) apps(p rules.Packet) bool {
	return account.Out(p) && account.TCP(p) && !g.Proxys(p)
}

func (g *gaps) outbound() {
	if !g.in.Outbound.Enabled {
		g.Add(g.sent(rules.TCP, g.FreePort()), func(p rules.Packet) bool { return account.Out(p) && account.TCP(p) }, "outbound TCP, all of it: redirect.outbound.enabled is false")
		return
	}
	for _, prefix := range g.in.Outbound.RangeExclude {
		if p, some := g.SentTo(prefix); some {
			g.Add(p, func(p rules.Packet) bool {
				return account.Out(p) && account.TCP(p) && prefix.Contains(p.Destination.Addr())
			}, "outbound TCP to %s: excluded", prefix)
		}
	}
	sent := func(p rules.Packet) bool { return account.Out(p) && account.TCP(p) }
	g.ports(g.in.Outbound, sent, g.apps, "outbound", func(port uint16) rules.Packet { return g.sent(rules.TCP, port) })
}

// ports are those that are left out of a direction: of all of it where they are excluded, of what is left of it where
// only others are included.
func (g *gaps) ports(d Direction, all, left account.Covers, name string, packet func(port uint16) rules.Packet) {
	if len(d.Include) > 0 {
		g.Add(packet(g.FreePort(d.Include...)), func(p rules.Packet) bool { return left(p) && !slices.Contains(d.Include, p.Destination.Port()) },
			"%s TCP to any other port than %s", name, account.List(d.Include))
		return
	}
	for _, port := range d.Exclude {
		g.Add(packet(port), func(p rules.Packet) bool { return all(p) && p.Destination.Port() == port }, "%s TCP to port %d: excluded", name, port)
	}
}

func (g *gaps) owner() {
	p := g.sent(rules.TCP, g.FreePort())
	p.UID = g.UID
	apart := ", but for what it sends to the pod's own addresses, which counts as inbound traffic"
	if !g.in.Outbound.Enabled {
		apart = ""
	}
	g.Add(p, func(p rules.Packet) bool { return g.Proxys(p) && account.TCP(p) && !g.ownService(p) },
		"what user %d sends: that is the proxy, and whatever else runs as it goes around it%s", g.UID, apart)
}

// ownService reports whether the proxy calls its own pod, as one of its clients.
func (g *gaps) ownService(p rules.Packet) bool {
	return g.in.Outbound.Enabled && g.Captured(p.Family()) && g.Stays(p) && p.Destination.Addr() != account.Loopback(p.Family()) &&
		p.Source.Addr() != passthrough(p.Family())
}

func passthrough(family rules.Family) netip.Addr {
	if family == rules.IPv6 {
		return passthrough6.Addr()
	}
	return passthrough4.Addr()
}

func (g *gaps) withinThePod() {
	for _, family := range g.Families() {
		loopback := account.Loopback(family)
		p := g.Sent(family, rules.TCP, loopback, g.FreePort())
		g.Add(p, func(p rules.Packet) bool { return g.apps(p) && g.Stays(p) && p.Family() == family },
			"what the app sends within the pod, to %s and to the pod's own addresses", loopback)
		if g.Captured(family) && g.in.Outbound.Enabled {
			p.Source = netip.AddrPortFrom(passthrough(family), p.Source.Port())
			g.Add(p, func(p rules.Packet) bool {
				return account.TCP(p) && g.Stays(p) && p.Source.Addr() == passthrough(family)
			}, "what is sent within the pod from %s, by which the proxy passes on what came in", passthrough(family))
		}
	}
}

func (g *gaps) inbound() {
	arriving := func(p rules.Packet) bool { return !account.Out(p) && account.TCP(p) && !g.redirected(p) }
	at := func(port uint16) rules.Packet {
		p := g.Arrives(g.Family(), rules.TCP, g.Own(g.Family()), port)
		if !g.redirected(p) {
			return p
		}
		// From behind a network of the pod's own, only what stays there is inbound.
		for _, n := range g.in.Networks {
			if account.FamilyOf(n.Prefix.Addr()) == g.Family() {
				p.Destination = netip.AddrPortFrom(n.Prefix.Addr(), port)
			}
		}
		return p
	}
	if !g.in.Inbound.Enabled {
		g.Add(at(g.FreePort()), arriving, "inbound TCP, all of it: redirect.inbound.enabled is false, as of a gateway")
		return
	}
	for _, prefix := range g.in.Inbound.RangeExclude {
		if p, some := g.ArrivesFrom(prefix); some && !g.redirected(p) {
			g.Add(p, func(p rules.Packet) bool { return arriving(p) && prefix.Contains(p.Source.Addr()) }, "inbound TCP from %s: excluded", prefix)
		}
	}
	g.ports(g.in.Inbound, arriving, arriving, "inbound", at)
}
