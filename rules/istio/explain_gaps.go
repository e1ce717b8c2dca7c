// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Gaps implements rules.GapReporter.
func (in Intent) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := gaps{in: in, Gaps: account.Gaps{Plan: plan, Interfaces: interfaces, UID: in.UID, GID: in.GID, Ranges: in.OutboundExclude}}
	proxys := []uint16{in.OutboundPort, in.InboundPort, in.TunnelPort, in.DNSPort}
	for _, port := range slices.Concat(proxys, in.Inbound, in.InboundExclude, in.OutboundPorts, in.OutboundPortsExclude) {
		g.Ports = append(g.Ports, rules.PortRange{First: port, Last: port})
	}
	g.OnlyIPv4("; " + envDualStack + ` on the proxy, or ipv6 = "capture" or "block" in the configuration, changes that`)
	g.otherProtocols()
	g.outbound()
	g.owners()
	g.withinThePod()
	g.byInterface()
	g.inbound()
	return g.All()
}

type gaps struct {
	in Intent
	account.Gaps
}

func (g *gaps) apps(p rules.Packet) bool { return account.Out(p) && !g.Proxys(p) }

func (g *gaps) lookup(p rules.Packet) bool {
	return g.in.DNSCapture && (account.Out(p) && p.Destination.Port() == 53 && g.Captured(p.Family()) || g.RefusesLookup(p))
}

// included reports whether a packet goes to one of the included ranges.
func (g *gaps) included(p rules.Packet) bool {
	return slices.ContainsFunc(g.in.Outbound, func(prefix netip.Prefix) bool { return prefix.Contains(p.Destination.Addr()) })
}

// beyond returns an address outside the included ranges, where there is one.
func (g *gaps) beyond(family rules.Family) netip.Addr {
	return (&account.Gaps{Ranges: g.in.Outbound}).Outside(family)
}

func (g *gaps) sent(protocol string, port uint16) rules.Packet {
	return g.Sent(g.Family(), protocol, g.Outside(g.Family()), port)
}

func (g *gaps) otherProtocols() {
	what, port := "UDP, ICMP and SCTP, in and out: the rules redirect TCP. ", g.FreePort()
	switch {
	case !g.in.DNSCapture:
		port = 53
		what += "Name lookups over UDP are among it: DNS capture is off"
	case g.Resets(rules.IPv6):
		what += "Only the app's name lookups (UDP port 53) go to the agent, and over IPv6 are refused"
	default:
		what += "Only the app's name lookups (UDP port 53) go to the agent"
	}
	g.Add(g.sent(rules.UDP, port), func(p rules.Packet) bool { return p.Protocol == rules.UDP && !g.lookup(p) }, "%s", what)
}

func (g *gaps) outbound() {
	for _, port := range rules.Unique(g.in.OutboundPortsExclude) {
		g.Add(g.sent(rules.TCP, port), func(p rules.Packet) bool { return g.apps(p) && p.Destination.Port() == port },
			"outbound port %d, TCP and UDP: excluded", port)
	}
	for _, prefix := range g.in.OutboundExclude {
		family, addr := account.FamilyOf(prefix.Addr()), prefix.Addr()
		if addr.IsUnspecified() {
			addr = addr.Next() // the first is no host's
		}
		if !prefix.Contains(addr) || !g.Ruled(family) {
			continue
		}
		packet := g.Sent(family, rules.TCP, addr, g.FreePort())
		packet.Source = netip.AddrPortFrom(g.Own(family), packet.Source.Port()) // not of lo, where the range is
		g.Add(packet, func(p rules.Packet) bool { return g.apps(p) && prefix.Contains(p.Destination.Addr()) && !g.lookup(p) },
			"outbound to %s: excluded", prefix)
	}
	if g.in.OutboundAll {
		return
	}
	what := "outbound TCP, all of it"
	if len(g.in.Outbound)+len(g.in.OutboundPorts) > 0 {
		var words []string
		for _, prefix := range g.in.Outbound {
			words = append(words, prefix.String())
		}
		for _, port := range g.in.OutboundPorts {
			words = append(words, fmt.Sprintf("port %d", port))
		}
		what = "outbound TCP to anything but " + strings.Join(words, ", ")
	}
	if g.in.DNSCapture {
		what += ", name lookups apart"
	}
	covers := func(p rules.Packet) bool {
		return g.apps(p) && account.TCP(p) && !g.lookup(p) && !slices.Contains(g.in.OutboundPorts, p.Destination.Port()) && !g.included(p)
	}
	for _, family := range g.Families() {
		if p := g.Sent(family, rules.TCP, g.beyond(family), g.FreePort()); covers(p) { // or the ranges are everything
			g.Add(p, covers, "%s: only what is included is captured", what)
			return
		}
	}
}

func (g *gaps) owners() {
	p := g.sent(rules.TCP, g.FreePort())
	p.UID = g.UID
	g.Add(p, func(p rules.Packet) bool { return g.Proxys(p) && !g.Stays(p) },
		"what user %d or group %d sends out of the pod: that is the proxy, and whatever else runs as either goes around it", g.UID, g.GID)
	if g.in.OwnerGroups == nil {
		for _, id := range g.in.OwnerGroupsExclude {
			if id == g.GID {
				continue // the proxy's group is in the gap above
			}
			p := g.sent(rules.TCP, g.FreePort())
			p.GID = id
			g.Add(p, func(p rules.Packet) bool { return g.apps(p) && p.Socket && p.GID == id }, "what group %d sends: excluded", id)
		}
		return
	}
	what := "what anybody sends: no group is to be captured"
	if len(g.in.OwnerGroups) > 0 {
		what = "what any other group than " + account.List(g.in.OwnerGroups) + " sends, and the kernel itself"
	}
	p = g.sent(rules.TCP, g.FreePort())
	for slices.Contains(g.in.OwnerGroups, p.GID) || p.GID == g.GID {
		p.GID++
	}
	g.Add(p, func(p rules.Packet) bool {
		return g.apps(p) && (!p.Socket || !slices.Contains(g.in.OwnerGroups, p.GID))
	}, "%s", what)
}

func (g *gaps) withinThePod() {
	for _, family := range g.Families() {
		loopback, passthrough := g.in.Loopback, passthrough4
		if family == rules.IPv6 {
			loopback, passthrough = loopback6, passthrough6
		}
		apart := ""
		if g.in.DNSCapture && g.Captured(family) {
			apart = ", name lookups apart"
		}
		packet := g.Sent(family, rules.TCP, loopback.Addr(), g.FreePort())
		if g.in.capturesLoopback() && g.Captured(family) {
			g.Add(packet, func(p rules.Packet) bool { return g.apps(p) && loopback.Contains(p.Destination.Addr()) && !g.lookup(p) },
				"what the app sends to %s%s", loopback, apart)
		} else {
			g.Add(packet, func(p rules.Packet) bool { return g.apps(p) && g.Stays(p) && p.Family() == family && !g.lookup(p) },
				"what the app sends within the pod, to %s and to the pod's own addresses%s", packet.Destination.Addr(), apart)
		}
		if !g.Captured(family) {
			continue
		}
		packet.Source = netip.AddrPortFrom(passthrough.Addr(), packet.Source.Port())
		g.Add(packet, func(p rules.Packet) bool { return g.Stays(p) && p.Source.Addr() == passthrough.Addr() },
			"what is sent within the pod from %s, by which the proxy passes on what came in", passthrough.Addr())
	}
}

// by returns the interface that the rules see.
func (g *gaps) by(p rules.Packet) string {
	switch {
	case !account.Out(p):
		return p.In
	case g.Stays(p):
		return lo
	}
	return p.Out
}

func (g *gaps) byInterface() {
	for _, name := range g.in.ExcludeInterfaces {
		rerouted := slices.Contains(g.in.RerouteInterfaces, name)
		covers := func(p rules.Packet) bool {
			return g.by(p) == name && (account.Out(p) || !rerouted || g.Resets(p.Family()))
		}
		packet := g.sent(rules.TCP, g.FreePort())
		if packet.Out = name; name == lo {
			packet.Destination = netip.AddrPortFrom(g.Own(g.Family()), g.FreePort())
		}
		way := "leaves or arrives"
		if rerouted {
			way = "leaves"
		}
		g.Add(packet, covers, "what %s by %s: the interface is excluded", way, name)
	}
	if g.in.OutboundAll {
		return
	}
	for _, name := range slices.Compact(slices.Sorted(slices.Values(g.in.RerouteInterfaces))) {
		covers := func(p rules.Packet) bool {
			return !account.Out(p) && p.In == name && account.TCP(p) && g.Captured(p.Family()) && !g.included(p) &&
				(!g.in.TProxy || slices.Contains(g.in.ExcludeInterfaces, name) || g.passes(p))
		}
		what := "TCP that comes by %s for addresses out of the included ranges: it counts as outbound"
		if g.in.TProxy {
			what = "TCP that comes by %s for addresses out of the included ranges, to ports that are not captured inbound"
		}
		if packet, found := g.behind(name, covers); found {
			g.Add(packet, covers, what, name)
		}
	}
}

// behind returns a packet that arrives by an interface and is covered.
func (g *gaps) behind(name string, covers account.Covers) (rules.Packet, bool) {
	for _, family := range g.Families() {
		for _, port := range append([]uint16{g.FreePort(), g.in.TunnelPort}, g.in.InboundExclude...) {
			p := g.Arrives(family, rules.TCP, g.beyond(family), port)
			if p.In = name; covers(p) {
				return p, true
			}
		}
	}
	return rules.Packet{}, false
}

func (g *gaps) inbound() {
	arriving := func(p rules.Packet) bool {
		return !account.Out(p) && account.TCP(p) && (g.Resets(p.Family()) || !slices.Contains(g.in.RerouteInterfaces, p.In))
	}
	at := func(family rules.Family, port uint16) rules.Packet {
		return g.Arrives(family, rules.TCP, g.Own(family), port)
	}
	if !g.in.InboundAll {
		what := "inbound TCP, all of it: no port is included"
		if g.in.capturesInbound() {
			what = "inbound TCP to any other port than " + account.List(g.in.Inbound)
		}
		g.Add(at(g.Family(), g.FreePort()), func(p rules.Packet) bool { return arriving(p) && !slices.Contains(g.in.Inbound, p.Destination.Port()) }, "%s", what)
	} else {
		for _, port := range g.in.InboundExclude {
			g.Add(at(g.Family(), port), func(p rules.Packet) bool { return arriving(p) && p.Destination.Port() == port }, "inbound TCP: %s", portWhy(rules.PortRange{First: port, Last: port}))
		}
	}
	if g.in.InboundAll && slices.Contains(g.in.InboundExclude, g.in.TunnelPort) || !g.in.InboundAll && !slices.Contains(g.in.Inbound, g.in.TunnelPort) {
		return // in the gaps above already
	}
	covers := func(p rules.Packet) bool {
		return arriving(p) && p.Destination.Port() == g.in.TunnelPort && g.passes(p)
	}
	for _, family := range g.Families() {
		if packet := at(family, g.in.TunnelPort); covers(packet) {
			g.Add(packet, covers, "inbound TCP to port %d: the proxy listens on the tunnel port itself", g.in.TunnelPort)
			return
		}
	}
}

// passes reports whether inbound capture lets a port pass. With TPROXY Istio has no exception for the tunnel port.
func (g *gaps) passes(p rules.Packet) bool {
	port := p.Destination.Port()
	switch {
	case !g.in.capturesInbound():
		return true
	case port == g.in.TunnelPort && (!g.in.TProxy || g.Resets(p.Family())):
		return true
	case g.in.InboundAll:
		return slices.Contains(g.in.InboundExclude, port)
	}
	return !slices.Contains(g.in.Inbound, port)
}
