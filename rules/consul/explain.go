// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

const (
	configured  = "consul." // what the keys of the node's configuration begin with
	becauseIPv6 = "annotation " + keyDualStack + ` is not "true"`
)

// settings are what the keys of the configuration set.
var settings = map[string]string{
	"ConsulDNSIP": "dnsAddress", "ConsulDNSPort": "dnsPort", "ProxyUserID": "proxyUID", "ProxyInboundPort": "inboundPort",
	"ProxyOutboundPort": "outboundPort", "ExcludeInboundPorts": "inboundPortsExcluded", "ExcludeOutboundPorts": "outboundPortsExcluded",
	"ExcludeOutboundCIDRs": "outboundRangesExcluded", "ExcludeUIDs": "usersExcluded",
}

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if intent, ok := d.Intent.(Intent); ok {
		d.Account.Settings = account.Settings(intent, sources(pod))
	}
	return d
}

// sources says where each setting of a pod that is enrolled is from.
func sources(pod rules.Pod) account.Sources {
	s := account.Sources{Given: map[string]string{}, Keys: map[string]string{"ipv6": configured + "ipv6"}, Empty: map[string]string{"dnsPort": "none"}}
	if pod.Annotations[keyDualStack] != "" {
		s.Given["dualStack"] = "annotation " + keyDualStack
	}
	_ = eachKey(pod.Annotations[KeyConfig], func(key string, value json.RawMessage) error { // it was read before
		if text := string(value); settings[key] != "" && text != "null" && text != "0" && text != `""` { // which give nothing
			s.Given[settings[key]] = key + " in annotation " + KeyConfig
		}
		return nil
	})
	return s
}

// Gaps implements rules.GapReporter.
func (in Intent) Gaps(plan rules.Plan, interfaces []rules.Interface) []rules.Gap {
	g := gaps{in: in, Gaps: account.Gaps{Plan: plan, Interfaces: interfaces, UID: in.UID, GID: rules.NoID}}
	g.Ports = append(slices.Clone(in.InboundExclude), in.OutboundExclude...)
	for _, port := range []uint16{in.InboundPort, in.OutboundPort, in.DNSPort} {
		g.Ports = append(g.Ports, rules.PortRange{First: port, Last: port})
	}
	g.Ranges, g.IDs = in.RangesExclude, in.UIDsExclude
	g.WithoutIPv6(becauseIPv6)
	g.otherProtocols()
	g.lookups()
	g.outbound()
	g.withinThePod()
	g.inbound()
	return g.All()
}

type gaps struct {
	in Intent
	account.Gaps
}

// asked returns the address whose lookups go to Consul, the invalid one where all do, and false where none do.
func (g *gaps) asked() (asked netip.Addr, any bool) {
	switch {
	case g.in.DNSPort == 0:
		return netip.Addr{}, g.in.DNSAddress.IsValid()
	case g.in.DNSAddress.IsValid():
		return g.in.DNSAddress, true
	}
	return account.Loopback(g.lookupFamily()), true
}

// lookupFamily is the only one whose lookups go to Consul.
func (g *gaps) lookupFamily() rules.Family {
	if g.in.DualStack {
		return rules.IPv6
	}
	return rules.IPv4
}

// lookup reports whether a packet goes to Consul as a name lookup.
func (g *gaps) lookup(p rules.Packet) bool {
	asked, some := g.asked()
	return some && account.Out(p) && p.Destination.Port() == 53 && p.Family() == g.lookupFamily() && g.Captured(p.Family()) &&
		(!asked.IsValid() || p.Destination.Addr() == asked)
}

func (g *gaps) otherProtocols() {
	what := "UDP, ICMP and SCTP, in and out, name lookups over UDP among them: the rules redirect TCP"
	p := g.Sent(g.Family(), rules.UDP, g.Outside(g.Family()), 53)
	asked, some := g.asked()
	switch {
	case !some || !g.Captured(g.lookupFamily()):
	case asked.IsValid():
		what = fmt.Sprintf("UDP, ICMP and SCTP, in and out: the rules redirect TCP. Of the name lookups over UDP only those at %s go to Consul", asked)
		if p.Destination.Addr() == asked {
			p = g.Sent(g.Family(), rules.UDP, g.Outside(g.Family()), g.FreePort())
		}
	default:
		what = fmt.Sprintf("UDP, ICMP and SCTP, in and out: the rules redirect TCP, and name lookups over %s", account.Name(g.lookupFamily()))
		if g.Resets(rules.IPv6) {
			what += "; the app's lookups over IPv6 are refused"
		}
		p = g.Sent(g.Family(), rules.UDP, g.Outside(g.Family()), g.FreePort())
	}
	refused := func(p rules.Packet) bool { return some && !asked.IsValid() && g.RefusesLookup(p) }
	g.Add(p, func(p rules.Packet) bool { return p.Protocol == rules.UDP && !g.lookup(p) && !refused(p) }, "%s", what)
}

// lookups that go to Consul go to a server, not to the proxy, where that is not in the pod.
func (g *gaps) lookups() {
	asked, some := g.asked()
	family := g.lookupFamily()
	if !some || !g.Captured(family) || g.LocalTo(g.server()) {
		return
	}
	of := "all name lookups"
	if asked.IsValid() {
		of = fmt.Sprintf("name lookups at %s", asked)
	} else {
		asked = g.Outside(family)
	}
	g.Add(g.Sent(family, rules.UDP, asked, 53), g.lookup, "%s over %s, by UDP and TCP: they go to Consul's DNS at %s", of, account.Name(family), g.server())
}

// server is where lookups for Consul go.
func (g *gaps) server() netip.AddrPort {
	addr, port := g.in.DNSAddress, g.in.DNSPort
	if !addr.IsValid() {
		addr = account.Loopback(g.lookupFamily())
	}
	if port == 0 {
		port = 53
	}
	return netip.AddrPortFrom(addr, port)
}

func (g *gaps) outbound() {
	sent := g.Sent(g.Family(), rules.TCP, g.Outside(g.Family()), g.FreePort())
	add := func(p rules.Packet, covers account.Covers, what string, args ...any) {
		g.Add(p, func(p rules.Packet) bool { return account.Out(p) && account.TCP(p) && !g.lookup(p) && covers(p) }, what, args...)
	}
	for _, uid := range rules.Unique(g.in.UIDsExclude) {
		p := sent
		p.UID = uid
		add(p, func(p rules.Packet) bool { return p.Socket && p.UID == uid }, "what user %d sends by TCP: excluded", uid)
	}
	for _, prefix := range g.in.RangesExclude {
		if p, some := g.SentTo(prefix); some {
			add(p, func(p rules.Packet) bool { return prefix.Contains(p.Destination.Addr()) }, "outbound TCP to %s: excluded", prefix)
		}
	}
	for _, r := range g.in.OutboundExclude {
		for _, family := range g.Families() {
			p := g.Sent(family, rules.TCP, g.Outside(family), account.PortOf(r))
			if g.lookup(p) {
				p = g.Sent(family, rules.TCP, g.Outside(family), r.Last)
			}
			if !g.lookup(p) { // of the family where all lookups go to Consul, nothing else is left of their port
				add(p, func(p rules.Packet) bool { return account.To(p, r) }, "outbound TCP to port %s: excluded", r)
				break
			}
		}
	}
	p := sent
	p.UID = g.in.UID
	add(p, g.Proxys, "what user %d sends by TCP: that is the proxy, and whatever else runs as it goes around it", g.in.UID)
}

func (g *gaps) withinThePod() {
	for _, family := range g.Families() {
		loopback := account.Loopback(family)
		covers := func(p rules.Packet) bool { return account.TCP(p) && p.Destination.Addr() == loopback && !g.lookup(p) }
		what := "what is sent to %s by TCP; to the pod's other addresses it goes through the proxy"
		if !g.Captured(family) {
			covers = func(p rules.Packet) bool { return account.TCP(p) && p.Family() == family && g.Stays(p) }
			what = "what is sent within the pod by TCP, to %s and to the pod's own addresses"
		}
		g.Add(g.Sent(family, rules.TCP, loopback, g.FreePort()), covers, what, loopback)
	}
}

func (g *gaps) inbound() {
	for _, r := range g.in.InboundExclude {
		g.Add(g.Arrives(g.Family(), rules.TCP, g.Own(g.Family()), account.PortOf(r)),
			func(p rules.Packet) bool { return !account.Out(p) && account.TCP(p) && account.To(p, r) }, "inbound TCP to port %s: excluded", r)
	}
}
