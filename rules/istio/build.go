// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

func (in *Intent) families() rules.Families {
	f := rules.Families{
		Redirect: func(family rules.Family) rules.Ruleset { return in.builder(family).redirect() },
		Block:    in.block,
		Routes:   in.routes, Loopback: []netip.Prefix{passthrough6},
		// Istio goes by the first address that the kernel lists, an IPv4 one where there is any. With dual stack it speaks both,
		// even where the pod gets its IPv6 address later.
		SpeaksIPv6: in.DualStack, OrAlone: true, Because: envDualStack + " is not set", Without: in.WithoutIPv6,
		Listens: rules.Ports(append([]uint16{in.TunnelPort}, agentPorts...)), Notes: in.notes,
	}
	if len(in.RerouteInterfaces) > 0 {
		f.Unblocked = "IPv6 from behind " + strings.Join(in.RerouteInterfaces, ", ") + " is forwarded, not reset"
	}
	return f
}

func (in *Intent) routes(family rules.Family) []rules.PolicyRoute {
	if !in.TProxy || !in.capturesInbound() {
		return nil
	}
	return []rules.PolicyRoute{route(family)}
}

func (in Intent) capturesInbound() bool { return in.InboundAll || len(in.Inbound) > 0 }

// builder writes the rules of one family.
type builder struct {
	Intent
	rules.Builder
	family      rules.Family
	loopback    netip.Prefix
	passthrough netip.Prefix
	any         netip.Addr
}

func (in Intent) builder(family rules.Family) *builder {
	if family == rules.IPv6 {
		return &builder{Intent: in, family: family, loopback: loopback6, passthrough: passthrough6, any: netip.IPv6Unspecified()}
	}
	return &builder{Intent: in, family: family, loopback: in.Loopback, passthrough: passthrough4, any: netip.IPv4Unspecified()}
}

const (
	nat    = "nat"
	mangle = "mangle"
	raw    = "raw"

	prerouting = "PREROUTING"
	output     = "OUTPUT"
	lo         = "lo"
)

// redirect writes all rules, in the order in which packets are to meet them.
func (b *builder) redirect() rules.Ruleset {
	b.exceptInterfaces()
	b.rerouteInterfaces()
	b.dropInvalid()
	b.inbound()
	b.outbound()
	b.keepDNSApart()
	b.tproxyMarks()
	return b.Ruleset(b.family)
}

func (b *builder) exceptInterfaces() {
	tables := []string{nat}
	if b.TProxy {
		tables = []string{nat, mangle}
	}
	for _, table := range tables {
		for _, name := range rules.Unique(b.ExcludeInterfaces) {
			why := "interface " + name + " is excluded"
			b.Append(table, prerouting, why, rules.Return, rules.InInterface(name))
			b.Append(table, output, why, rules.Return, rules.OutInterface(name))
		}
	}
}

// rerouteInterfaces treats what a virtual machine or container inside the pod sends as the pod's own
// outbound traffic. Istio inserts each rule before the earlier ones, so that the last one comes first.
func (b *builder) rerouteInterfaces() {
	var first []rules.Rule
	interfaces := rules.Unique(b.RerouteInterfaces)
	for _, name := range interfaces {
		first = append(first, rules.Rule{Why: "nothing from " + name + " is inbound traffic", Target: rules.Return, Match: []rules.Match{rules.InInterface(name)}})
	}
	redirect := func(name string, match ...rules.Match) {
		first = append(first, rules.Rule{Why: "what comes from " + name + " is outbound traffic of the workload", Target: rules.Jump(chainRedirect),
			Match: append(match, rules.InInterface(name))})
	}
	if b.OutboundAll {
		for _, name := range interfaces {
			redirect(name)
		}
	}
	for _, prefix := range rules.MergePrefixes(rules.OfFamily(b.Outbound, b.family)) {
		for _, name := range interfaces {
			redirect(name, rules.Destination(prefix))
		}
	}
	slices.Reverse(first)
	b.Prepend(nat, prerouting, first...)
}

func (b *builder) dropInvalid() {
	if !b.InvalidDrop {
		return
	}
	b.Append(mangle, prerouting, "a packet outside its connection's window would escape translation and reset the connection",
		rules.Jump(chainDrop), rules.InState(rules.StateInvalid))
	b.Append(mangle, chainDrop, "drop it", rules.Drop)
}

func (b *builder) inbound() {
	tcp := rules.Protocol(rules.TCP)
	b.Append(nat, chainInbound, "the proxy listens on the tunnel port itself", rules.Return, tcp, toPort(b.TunnelPort))
	b.Append(nat, chainRedirect, "to the proxy's outbound listener", rules.Redirect{Port: b.OutboundPort}, tcp)
	b.Append(nat, chainInRedirect, "to the proxy's inbound listener", rules.Redirect{Port: b.InboundPort}, tcp)
	if !b.capturesInbound() {
		return
	}
	table := nat
	if b.TProxy {
		table = mangle
		b.Append(mangle, chainDivert, "mark it, so that routing delivers it here", rules.SetMark(inboundMark))
		b.Append(mangle, chainDivert, "and let it pass", rules.Accept)
		b.Append(mangle, chainTProxy, "to the proxy's inbound listener, addresses unchanged",
			rules.TProxy{Port: b.InboundPort, Addr: b.any, Mark: inboundMark}, rules.Not(rules.Destination(b.loopback)), tcp)
	}
	b.Append(table, prerouting, "what arrives by TCP is inbound traffic", rules.Jump(chainInbound), tcp)
	if b.InboundAll {
		for _, ports := range merged(b.InboundExclude) {
			b.Append(table, chainInbound, portWhy(ports), rules.Return, tcp, to(ports))
		}
		b.captureInbound("every other port is captured", tcp)
		return
	}
	for _, ports := range merged(b.Inbound) {
		b.captureInbound(fmt.Sprintf("port %s is captured", ports), tcp, to(ports))
	}
}

func merged(ports []uint16) []rules.PortRange { return rules.MergePorts(rules.Ports(ports)) }

func portWhy(ports rules.PortRange) string {
	if ports.First == ports.Last && slices.Contains(agentPorts, ports.First) {
		return fmt.Sprintf("port %s is the mesh agent's own", ports)
	}
	return fmt.Sprintf("inbound port %s is excluded", ports)
}

func (b *builder) captureInbound(why string, match ...rules.Match) {
	if !b.TProxy {
		b.Append(nat, chainInbound, why, rules.Jump(chainInRedirect), match...)
		return
	}
	known := append(slices.Clone(match), rules.InState(rules.StateRelated|rules.StateEstablished))
	b.Append(mangle, chainInbound, "a connection the proxy already has stays with it", rules.Jump(chainDivert), known...)
	b.Append(mangle, chainInbound, why, rules.Jump(chainTProxy), match...)
}

func (b *builder) outbound() {
	b.Append(nat, output, "what the pod sends is outbound traffic", rules.Jump(chainOutput))
	for _, ports := range merged(b.OutboundPortsExclude) {
		why := fmt.Sprintf("outbound port %s is excluded", ports)
		b.Append(nat, chainOutput, why, rules.Return, rules.Protocol(rules.TCP), to(ports))
		b.Append(nat, chainOutput, why, rules.Return, rules.Protocol(rules.UDP), rules.ToPorts(rules.UDP, ports))
	}
	b.Append(nat, chainOutput, "the proxy passes an inbound connection on to the app", rules.Return,
		rules.OutInterface(lo), rules.Source(b.passthrough))
	b.exemptProxy(rules.OwnerUID(b.UID), rules.Not(rules.OwnerUID(b.UID)), true)
	b.exemptProxy(rules.OwnerGID(b.GID), rules.Not(rules.OwnerGID(b.GID)), false)
	b.ownerGroups()
	if b.DNSCapture {
		b.Append(nat, chainOutput, "name lookups go to the mesh agent", rules.Jump(chainOutputDNS))
		for _, protocol := range []string{rules.TCP, rules.UDP} {
			b.Append(nat, chainOutputDNS, "to the agent's DNS listener", rules.Redirect{Port: b.DNSPort},
				rules.Protocol(protocol), rules.DestinationPort(protocol, 53))
		}
	}
	b.Append(nat, chainOutput, "what stays on loopback is the app's own business", rules.Return,
		rules.Destination(b.loopback))
	for _, s := range rules.Ranges("range %s is excluded", b.OutboundExclude, b.family, rules.Destination) {
		b.Append(nat, chainOutput, s.Why, rules.Return, s.Match...)
	}
	for _, ports := range merged(b.OutboundPorts) {
		b.Append(nat, chainOutput, fmt.Sprintf("outbound port %s is captured", ports), rules.Jump(chainRedirect),
			rules.Protocol(rules.TCP), to(ports))
	}
	if b.OutboundAll {
		b.Append(nat, chainOutput, "everything else is captured", rules.Jump(chainRedirect))
	}
	for _, s := range rules.Ranges("range %s is captured", b.Outbound, b.family, rules.Destination) {
		b.Append(nat, chainOutput, s.Why, rules.Jump(chainRedirect), s.Match...)
	}
}

// exemptProxy keeps the proxy's own traffic from being redirected to itself. With DNS capture, apps' lookups over loopback
// are left to the agent; Istio leaves port 53 out only where the proxy is identified by user id.
func (b *builder) exemptProxy(proxy, others rules.Match, byUser bool) {
	tcp, toLo := rules.Protocol(rules.TCP), rules.OutInterface(lo)
	beyond := rules.Not(rules.Destination(b.loopback))
	notTunnel := rules.Not(rules.DestinationPort(rules.TCP, b.TunnelPort))
	if b.DNSCapture && byUser {
		notTunnel = rules.ToNone(53, b.TunnelPort)
	}
	b.Append(nat, chainOutput, "the proxy calls its own pod by a service address: inbound rules apply",
		rules.Jump(chainInRedirect), beyond, toLo, tcp, notTunnel, proxy)
	if !b.capturesLoopback() {
		why := "the app calls its own pod: not the proxy's business"
		if b.DNSCapture {
			b.Append(nat, chainOutput, why, rules.Return, toLo, tcp,
				rules.Not(rules.DestinationPort(rules.TCP, 53)), others)
		} else {
			b.Append(nat, chainOutput, why, rules.Return, toLo, others)
		}
	}
	b.Append(nat, chainOutput, "the proxy's own traffic never comes back to it", rules.Return, proxy)
}

// capturesLoopback reports whether an included range lies in loopback, of either family.
func (in Intent) capturesLoopback() bool {
	return slices.ContainsFunc(in.Outbound, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}

func (b *builder) ownerGroups() {
	if b.OwnerGroups == nil {
		for _, id := range rules.Unique(b.OwnerGroupsExclude) {
			b.Append(nat, chainOutput, fmt.Sprintf("group %d is excluded", id), rules.Return, rules.OwnerGID(id))
		}
		return
	}
	var none []rules.Match
	var names []string
	for _, id := range rules.Unique(b.OwnerGroups) {
		none = append(none, rules.Not(rules.OwnerGID(id)))
		names = append(names, fmt.Sprint(id))
	}
	b.Append(nat, chainOutput, "only these groups are captured: "+strings.Join(names, ", "), rules.Return, none...)
}

// keepDNSApart puts the app's lookups and the agent's own in different conntrack zones: redirected, they
// may share addresses and ports.
func (b *builder) keepDNSApart() {
	if !b.DNSCapture {
		return
	}
	const agent, app = rules.CTZone(1), rules.CTZone(2)
	udp := rules.Protocol(rules.UDP)
	toDNS := rules.DestinationPort(rules.UDP, 53)
	b.Append(raw, prerouting, "answers from name servers", rules.Jump(chainInbound))
	b.Append(raw, chainInbound, "an answer to the agent", agent, udp, rules.SourcePort(rules.UDP, 53))
	b.Append(raw, output, "lookups and the agent's answers", rules.Jump(chainOutputDNS))
	for _, proxy := range []rules.Match{rules.OwnerUID(b.UID), rules.OwnerGID(b.GID)} {
		b.Append(raw, chainOutputDNS, "the agent asks upstream", agent, udp, toDNS, proxy)
		b.Append(raw, chainOutputDNS, "the agent answers the app", app, udp,
			rules.SourcePort(rules.UDP, b.DNSPort), proxy)
	}
	b.Append(raw, chainOutputDNS, "the app asks", app, udp, toDNS)
}

// tproxyMarks carries the mark of connections that the proxy opens with the client's address, so that
// the app's answers come back to the proxy.
func (b *builder) tproxyMarks() {
	if !b.TProxy {
		return
	}
	tcp := rules.Protocol(rules.TCP)
	marked := rules.PacketMark(inboundMark)
	b.Append(mangle, prerouting, "remember the proxy's mark for the connection", rules.SaveMark{}, tcp, marked)
	b.Append(mangle, output, "already marked by the proxy", rules.Return, rules.OutInterface(lo), tcp, marked)
	for _, proxy := range []rules.Match{rules.OwnerUID(b.UID), rules.OwnerGID(b.GID)} {
		b.Append(mangle, output, "the proxy calls its own pod by a service address: inbound rules apply",
			rules.SetMark(outboundMark), rules.Not(rules.Destination(b.loopback)), rules.OutInterface(lo), tcp, proxy)
	}
	b.Append(mangle, output, "the app answers on a connection that carries the mark", rules.RestoreMark{}, tcp,
		rules.ConnMark(inboundMark))
	b.Prepend(mangle, chainInbound,
		rules.Rule{Why: "already marked by the proxy", Target: rules.Return, Match: []rules.Match{tcp, marked}},
		rules.Rule{Why: "the proxy passes an inbound connection on to the app", Target: rules.Return,
			Match: []rules.Match{rules.InInterface(lo), rules.Source(b.passthrough), tcp}},
		rules.Rule{Why: "the app calls its own pod: not the proxy's business", Target: rules.Return,
			Match: []rules.Match{rules.InInterface(lo), tcp, rules.Not(rules.PacketMark(outboundMark))}})
}

func to(ports rules.PortRange) rules.Match { return rules.ToPorts(rules.TCP, ports) }

func toPort(port uint16) rules.Match { return to(rules.PortRange{First: port, Last: port}) }
