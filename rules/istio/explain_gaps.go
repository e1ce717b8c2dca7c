// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Gaps says what of a pod's traffic does not go through its proxy by this plan, in a pod with these interfaces:
// of connections that begin when the rules are there, on sockets without a mark. Each is shown by a packet.
func (in Intent) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := &gaps{Intent: in, plan: plan, interfaces: interfaces}
	g.withoutRules()
	g.otherProtocols()
	g.outbound()
	g.owners()
	g.withinThePod()
	g.byInterface()
	g.inbound()
	g.through()
	g.earlier()
	return g.all
}

type gaps struct {
	Intent
	plan       rules.Plan
	interfaces []rules.Interface
	all        []rules.Gap
}

// add takes a gap of connections that begin, in the families that have rules.
func (g *gaps) add(packet rules.Packet, covers func(rules.Packet) bool, what string, args ...any) {
	g.all = append(g.all, rules.Gap{What: fmt.Sprintf(what, args...), Packet: &packet, Covers: func(p rules.Packet) bool {
		return first(p) && (g.captured(p.Family()) || g.resets(p.Family())) && covers(p)
	}})
}

func first(p rules.Packet) bool { return (p.State == 0 || p.State == rules.StateNew) && p.Mark == 0 }

func (g *gaps) withoutRules() {
	if g.captured(rules.IPv6) || g.resets(rules.IPv6) {
		return
	}
	what := "IPv6, all of it: the pod had no IPv6 address that others can reach when its rules were made, so there are none for it"
	if g.has(rules.IPv6) {
		what = fmt.Sprintf("IPv6, all of it: the pod has %s, and its proxy speaks only IPv4; %s on the proxy, or ipv6 = \"capture\" or \"block\" "+
			"in the configuration, changes that", g.own(rules.IPv6), envDualStack)
	}
	packet := g.sent(rules.IPv6, rules.TCP, g.outside(rules.IPv6), g.freePort())
	g.all = append(g.all, rules.Gap{What: what, Packet: &packet, Covers: func(p rules.Packet) bool { return p.Family() == rules.IPv6 && first(p) }})
}

func (g *gaps) otherProtocols() {
	what, port := "UDP, ICMP and SCTP, in and out: the rules redirect TCP. ", g.freePort()
	switch {
	case !g.DNSCapture:
		port = 53
		what += "Name lookups over UDP are among it: DNS capture is off"
	case g.resets(rules.IPv6):
		what += "Only the app's name lookups over IPv4 (UDP port 53) go to the agent"
	default:
		what += "Only the app's name lookups (UDP port 53) go to the agent"
	}
	g.add(g.sent(g.family(), rules.UDP, g.outside(g.family()), port),
		func(p rules.Packet) bool { return p.Protocol == rules.UDP && !g.lookup(p) }, "%s", what)
}

func (g *gaps) outbound() {
	for _, port := range deduplicate(g.OutboundPortsExclude) {
		g.add(g.sent(g.family(), rules.TCP, g.outside(g.family()), port),
			func(p rules.Packet) bool { return g.apps(p) && p.Destination.Port() == port }, "outbound port %d, TCP and UDP: excluded", port)
	}
	for _, prefix := range g.OutboundExclude {
		family, addr := familyOf(prefix.Addr()), prefix.Addr()
		if addr.IsUnspecified() {
			addr = addr.Next() // nothing goes to the first
		}
		if !prefix.Contains(addr) || !g.captured(family) && !g.resets(family) {
			continue
		}
		g.add(g.sent(family, rules.TCP, addr, g.freePort()),
			func(p rules.Packet) bool { return g.apps(p) && prefix.Contains(p.Destination.Addr()) && !g.lookup(p) }, "outbound to %s: excluded", prefix)
	}
	if g.OutboundAll {
		return
	}
	included := "outbound TCP, all of it"
	if len(g.Outbound)+len(g.OutboundPorts) > 0 {
		var words []string
		for _, prefix := range g.Outbound {
			words = append(words, prefix.String())
		}
		for _, port := range g.OutboundPorts {
			words = append(words, fmt.Sprintf("port %d", port))
		}
		included = "outbound TCP to anything but " + strings.Join(words, ", ")
	}
	if g.DNSCapture {
		included += ", name lookups apart"
	}
	packet, found := g.notIncluded()
	if !found {
		return // the ranges are everything
	}
	g.add(packet, func(p rules.Packet) bool {
		return g.apps(p) && p.Protocol == rules.TCP && !g.lookup(p) && !slices.Contains(g.OutboundPorts, p.Destination.Port()) && !within(g.Outbound, p)
	}, "%s: only what is included is captured", included)
}

// notIncluded returns a packet to an address out of the included ranges, in any family that has rules.
func (g *gaps) notIncluded() (rules.Packet, bool) {
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		for _, addr := range elsewhere(family) {
			p := g.sent(family, rules.TCP, addr, g.freePort())
			if (g.captured(family) || g.resets(family)) && !within(g.Outbound, p) {
				return p, true
			}
		}
	}
	return rules.Packet{}, false
}

func (g *gaps) owners() {
	p := g.sent(g.family(), rules.TCP, g.outside(g.family()), g.freePort())
	p.UID = g.UID
	g.add(p, func(p rules.Packet) bool { return out(p) && g.proxys(p) && !g.stays(p) },
		"what user %d or group %d sends out of the pod: that is the proxy, and whatever else runs as either goes around it", g.UID, g.GID)
	groups, other := g.OwnerGroupsExclude, "what group %d sends: excluded"
	if g.OwnerGroups == nil {
		for _, id := range groups {
			if id == g.GID {
				continue // the proxy's, which is said
			}
			p := g.sent(g.family(), rules.TCP, g.outside(g.family()), g.freePort())
			p.GID = id
			g.add(p, func(p rules.Packet) bool { return g.apps(p) && p.Socket && p.GID == id }, other, id)
		}
		return
	}
	what := "what anybody sends: no group is to be captured"
	if len(g.OwnerGroups) > 0 {
		what = "what any other group than " + list(g.OwnerGroups) + " sends, and the kernel itself"
	}
	p = g.sent(g.family(), rules.TCP, g.outside(g.family()), g.freePort())
	for slices.Contains(g.OwnerGroups, p.GID) || p.GID == g.GID {
		p.GID++
	}
	g.add(p, func(p rules.Packet) bool { return g.apps(p) && (!p.Socket || !slices.Contains(g.OwnerGroups, p.GID)) }, "%s", what)
}

func (g *gaps) withinThePod() {
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		if !g.captured(family) && !g.resets(family) {
			continue
		}
		loopback, passthrough := g.Loopback, passthrough4
		if family == rules.IPv6 {
			loopback, passthrough = loopback6, passthrough6
		}
		apart := ""
		if g.DNSCapture && g.captured(family) {
			apart = ", name lookups apart"
		}
		packet := g.sent(family, rules.TCP, loopback.Addr(), g.freePort())
		packet.Source = netip.AddrPortFrom(loopback.Addr(), packet.Source.Port())
		if g.capturesLoopback() && g.captured(family) {
			g.add(packet, func(p rules.Packet) bool { return g.apps(p) && loopback.Contains(p.Destination.Addr()) && !g.lookup(p) },
				"what the app sends to %s%s", loopback, apart)
		} else {
			g.add(packet, func(p rules.Packet) bool { return g.apps(p) && g.stays(p) && p.Family() == family && !g.lookup(p) },
				"what the app sends within the pod, to %s and to the pod's own addresses%s", packet.Destination.Addr(), apart)
		}
		if !g.captured(family) {
			continue
		}
		packet.Source = netip.AddrPortFrom(passthrough.Addr(), packet.Source.Port())
		g.add(packet, func(p rules.Packet) bool { return out(p) && g.stays(p) && p.Source.Addr() == passthrough.Addr() },
			"what is sent within the pod from %s, by which the proxy passes on what came in", passthrough.Addr())
	}
}

func (g *gaps) byInterface() {
	for _, name := range g.ExcludeInterfaces {
		rerouted := slices.Contains(g.RerouteInterfaces, name)
		covers := func(p rules.Packet) bool { return g.by(p) == name && (out(p) || !rerouted || g.resets(p.Family())) }
		packet := g.sent(g.family(), rules.TCP, g.outside(g.family()), g.freePort())
		if packet.Out = name; name == lo {
			packet.Destination = netip.AddrPortFrom(g.own(g.family()), g.freePort())
		}
		way := "leaves or arrives"
		if rerouted {
			way = "leaves"
		}
		g.add(packet, covers, "what %s by %s: the interface is excluded", way, name)
	}
	if g.OutboundAll {
		return
	}
	for _, name := range deduplicated(g.RerouteInterfaces) {
		covers := func(p rules.Packet) bool {
			return !out(p) && p.In == name && p.Protocol == rules.TCP && g.captured(p.Family()) && !within(g.Outbound, p) &&
				(!g.TProxy || slices.Contains(g.ExcludeInterfaces, name) || g.passes(p))
		}
		what := "TCP that comes by %s for addresses out of the included ranges: it counts as outbound"
		if g.TProxy {
			what = "TCP that comes by %s for addresses out of the included ranges, to ports that are not captured inbound"
		}
		if packet, found := g.behind(name, covers); found {
			g.add(packet, covers, what, name)
		}
	}
}

// behind returns a packet that comes by an interface and is covered.
func (g *gaps) behind(name string, covers func(rules.Packet) bool) (rules.Packet, bool) {
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		for _, addr := range elsewhere(family) {
			for _, port := range append([]uint16{g.freePort(), g.TunnelPort}, g.InboundExclude...) {
				p := g.arrives(family, addr, port)
				if p.In = name; covers(p) {
					return p, true
				}
			}
		}
	}
	return rules.Packet{}, false
}

func (g *gaps) inbound() {
	arriving := func(p rules.Packet) bool {
		return !out(p) && p.Protocol == rules.TCP && (g.resets(p.Family()) || !slices.Contains(g.RerouteInterfaces, p.In))
	}
	family := g.family()
	if !g.InboundAll {
		what := "inbound TCP, all of it: no port is included"
		if g.capturesInbound() {
			what = "inbound TCP to any other port than " + list(g.Inbound)
		}
		g.add(g.arrives(family, g.own(family), g.freePort()), func(p rules.Packet) bool { return arriving(p) && !slices.Contains(g.Inbound, p.Destination.Port()) }, "%s", what)
	} else {
		for _, port := range g.InboundExclude {
			g.add(g.arrives(family, g.own(family), port), func(p rules.Packet) bool { return arriving(p) && p.Destination.Port() == port },
				"inbound TCP: %s", portWhy(port))
		}
	}
	if g.InboundAll && slices.Contains(g.InboundExclude, g.TunnelPort) || !g.InboundAll && !slices.Contains(g.Inbound, g.TunnelPort) {
		return // it is said
	}
	covers := func(p rules.Packet) bool { return arriving(p) && p.Destination.Port() == g.TunnelPort && g.passes(p) }
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		packet := g.arrives(family, g.own(family), g.TunnelPort)
		if (g.captured(family) || g.resets(family)) && covers(packet) {
			g.add(packet, covers, "inbound TCP to port %d: the proxy listens on the tunnel port itself", g.TunnelPort)
			return
		}
	}
}

// passes tells whether inbound capture lets a port pass. With TPROXY Istio has no exception for the tunnel port.
func (g *gaps) passes(p rules.Packet) bool {
	port := p.Destination.Port()
	switch {
	case !g.capturesInbound():
		return true
	case port == g.TunnelPort && (!g.TProxy || g.resets(p.Family())):
		return true
	case g.InboundAll:
		return slices.Contains(g.InboundExclude, port)
	}
	return !slices.Contains(g.Inbound, port)
}

// through is what the pod forwards of a family that is reset.
func (g *gaps) through() {
	if !g.resets(rules.IPv6) {
		return
	}
	g.add(g.arrives(rules.IPv6, g.outside(rules.IPv6), g.freePort()),
		func(p rules.Packet) bool { return !out(p) && g.resets(p.Family()) && !g.local(p) },
		"IPv6 that is forwarded through the pod, such as from a virtual machine in it: only what the pod itself sends and gets is reset")
}

// earlier is what was there before the rules.
func (g *gaps) earlier() {
	packet := g.sent(g.family(), rules.TCP, g.outside(g.family()), g.freePort())
	packet.State = rules.StateEstablished
	g.all = append(g.all, rules.Gap{What: "connections that were open before these rules were there stay as they are: those of a pod that was taken over late",
		Packet: &packet, Covers: func(p rules.Packet) bool {
			return p.State == rules.StateEstablished && p.Mark == 0 && p.ConnMark == 0 && !p.Transparent
		}})
}
