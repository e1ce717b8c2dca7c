// SPDX-License-Identifier: Apache-2.0

package static

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if profile, ok := d.Intent.(Profile); ok {
		d.Account.Settings = profile.settings()
	}
	return d
}

// settings are what every pod of the profile gets, without what selects it.
func (p Profile) settings() []rules.Setting {
	all := account.Settings(p, account.Sources{Empty: map[string]string{"inboundPort": "none", "outboundPort": "none", "dnsPort": "none",
		"proxyGID": "none", "inboundPorts": "all"}})
	all = slices.DeleteFunc(all, func(s rules.Setting) bool { return s.Name == "-" })
	for i := range all {
		all[i].Source = "static profile " + p.Name
	}
	return all
}

func (p Profile) becauseIPv6() string { return "proxy_ipv6 of static profile " + p.Name + " is false" }

// Gaps implements rules.GapReporter.
func (p Profile) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := gaps{in: p, Gaps: account.Gaps{Plan: plan, Interfaces: interfaces, UID: p.UID, GID: rules.NoID, IDs: p.ExemptUIDs}}
	if p.GID != 0 {
		g.GID = p.GID
	}
	g.Ports = slices.Concat(p.Inbound, p.InboundExclude, p.OutboundPorts, p.OutboundPortsExclude)
	g.Ranges = slices.Concat(p.Outbound, p.OutboundExclude)
	g.WithoutIPv6(p.becauseIPv6())
	g.otherProtocols()
	g.exempted()
	g.withinThePod()
	g.outbound()
	g.inbound()
	return g.All()
}

type gaps struct {
	in Profile
	account.Gaps
}

// lookup reports whether a packet is a lookup that is redirected or refused.
func (g *gaps) lookup(p rules.Packet) bool {
	exempt := g.Proxys(p) || p.Socket && slices.Contains(g.in.ExemptUIDs, p.UID)
	captured := account.Out(p) && p.Destination.Port() == 53 && g.Captured(p.Family())
	return g.in.DNSPort != 0 && (captured || g.RefusesLookup(p)) && !exempt &&
		!slices.ContainsFunc(g.in.ExcludeInterfaces, func(name string) bool { return g.by(p, name) })
}

// by reports whether a packet leaves or arrives by an interface.
func (g *gaps) by(p rules.Packet, name string) bool {
	if account.Out(p) {
		return !g.Stays(p) && p.Out == name
	}
	return p.In == name
}

func (g *gaps) sent(port uint16) rules.Packet {
	return g.Sent(g.Family(), rules.TCP, g.Outside(g.Family()), port)
}

func (g *gaps) otherProtocols() {
	what, port := "UDP, ICMP and SCTP, in and out, name lookups over UDP among them: the rules redirect TCP", uint16(53)
	if g.in.DNSPort != 0 {
		what, port = "UDP, ICMP and SCTP, in and out, but for lookups: the rules redirect TCP", g.FreePort()
		if g.Resets(rules.IPv6) {
			what += "; lookups over IPv6 are refused"
		}
	}
	p := g.sent(port)
	p.Protocol = rules.UDP
	g.Add(p, func(p rules.Packet) bool { return p.Protocol == rules.UDP && !g.lookup(p) }, "%s", what)
}

func (g *gaps) exempted() {
	p, who := g.sent(g.FreePort()), fmt.Sprintf("user %d", g.UID)
	p.UID = g.UID
	if g.GID != rules.NoID {
		who += fmt.Sprintf(" or group %d", g.GID)
	}
	g.Add(p, g.Proxys, "what %s sends: that is the proxy, and whatever else runs so goes around it", who)
	for _, id := range g.in.ExemptUIDs {
		p.UID = id
		g.Add(p, func(p rules.Packet) bool { return account.Out(p) && p.Socket && p.UID == id }, "what user %d sends: exempt", id)
	}
	for _, name := range g.in.ExcludeInterfaces {
		p := g.sent(g.FreePort())
		p.Out = name
		g.Add(p, func(p rules.Packet) bool { return g.by(p, name) }, "what leaves or arrives by %s: the interface is excluded", name)
	}
}

func (g *gaps) withinThePod() {
	for _, family := range g.Families() {
		loopback := account.Loopback(family)
		g.Add(g.Sent(family, rules.TCP, loopback, g.FreePort()), func(p rules.Packet) bool { return g.Stays(p) && p.Family() == family && !g.lookup(p) },
			"what is sent within the pod, to %s and to the pod's own addresses", loopback)
	}
}

func (g *gaps) outbound() {
	leaving := func(p rules.Packet) bool { return account.Out(p) && account.TCP(p) && !g.lookup(p) }
	if g.in.OutboundPort == 0 {
		g.Add(g.sent(g.FreePort()), leaving, "outbound TCP, all of it: the profile has no outbound_port")
		return
	}
	for _, r := range g.in.OutboundPortsExclude {
		p := g.sent(account.PortOf(r))
		if g.lookup(p) {
			p = g.sent(r.Last)
		}
		if !g.lookup(p) {
			g.Add(p, func(p rules.Packet) bool { return leaving(p) && account.To(p, r) }, "outbound TCP to port %s: excluded", r)
		}
	}
	for _, prefix := range g.in.OutboundExclude {
		if p, some := g.SentTo(prefix); some {
			g.Add(p, func(p rules.Packet) bool { return leaving(p) && prefix.Contains(p.Destination.Addr()) }, "outbound TCP to %s: excluded", prefix)
		}
	}
	if len(g.in.Outbound)+len(g.in.OutboundPorts) == 0 {
		return
	}
	covers := func(p rules.Packet) bool {
		return leaving(p) && !account.To(p, g.in.OutboundPorts...) &&
			!slices.ContainsFunc(g.in.Outbound, func(prefix netip.Prefix) bool { return prefix.Contains(p.Destination.Addr()) })
	}
	for _, family := range g.Families() {
		if p := g.Sent(family, rules.TCP, g.Outside(family), g.FreePort()); covers(p) {
			g.Add(p, covers, "outbound TCP to any other port or address than those that are included")
			return
		}
	}
}

func (g *gaps) inbound() {
	arriving := func(p rules.Packet) bool { return !account.Out(p) && account.TCP(p) }
	at := func(port uint16) rules.Packet { return g.Arrives(g.Family(), rules.TCP, g.Own(g.Family()), port) }
	if g.in.InboundPort == 0 {
		g.Add(at(g.FreePort()), arriving, "inbound TCP, all of it: the profile has no inbound_port")
		return
	}
	for _, r := range g.in.InboundExclude {
		g.Add(at(account.PortOf(r)), func(p rules.Packet) bool { return arriving(p) && account.To(p, r) }, "inbound TCP to port %s: excluded", r)
	}
	others := func(p rules.Packet) bool { return arriving(p) && !account.To(p, g.in.Inbound...) }
	if p := at(g.FreePort()); len(g.in.Inbound) > 0 && others(p) {
		g.Add(p, others, "inbound TCP to any other port than those that are included")
	}
}
