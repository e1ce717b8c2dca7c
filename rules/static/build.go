// SPDX-License-Identifier: Apache-2.0

package static

import (
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

const (
	nat    = "nat"
	mangle = "mangle"
	raw    = "raw"

	prerouting = "PREROUTING"
	output     = "OUTPUT"
	lo         = "lo"
)

var tcp, udp = rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)

func (p *Profile) families() rules.Families {
	return rules.Families{
		Redirect: p.redirect, Block: p.block, Routes: p.routes, Listens: p.InboundExclude,
		SpeaksIPv6: p.ProxyIPv6, Without: p.WithoutIPv6,
		Because: "proxy_ipv6 of static profile " + p.Name + " is false",
	}
}

func (p *Profile) routes(family rules.Family) []rules.PolicyRoute {
	if !p.TProxy || p.InboundPort == 0 {
		return nil
	}
	return []rules.PolicyRoute{route(family)}
}

// Rules counts those that a pod gets, with the rules of both families.
func (p Profile) Rules() int {
	p.ProxyIPv6 = true
	plan, _ := p.families().Planner(rules.Footprint{})(rules.Network{})
	return plan.Rules()
}

// builder writes the rules of one family.
type builder struct {
	Profile
	rules.Builder
	family rules.Family
}

// redirect writes all rules, in the order in which packets are to meet them. The built-in chains hold only jumps,
// so that every other rule is recognised by its chain.
func (p *Profile) redirect(family rules.Family) rules.Ruleset {
	b := builder{Profile: *p, family: family}
	switch {
	case p.InboundPort == 0:
	case p.TProxy:
		b.inboundTProxy()
	default:
		b.inbound()
	}
	b.outbound()
	b.keepDNSApart()
	return b.Ruleset(family)
}

func (b *builder) inbound() {
	b.Append(nat, prerouting, "what arrives by TCP is inbound traffic", rules.Jump(chainInbound), tcp)
	b.inboundExceptions(nat)
	for _, s := range b.inboundCaptured() {
		b.Append(nat, chainInbound, s.Why, rules.Jump(chainInRedirect), append([]rules.Match{tcp}, s.Match...)...)
	}
	b.Append(nat, chainInRedirect, "to the proxy's inbound listener", rules.Redirect{Port: b.InboundPort}, tcp)
}

// inboundTProxy leaves addresses as they are. A proxy that connects to the app from the client's address marks what
// it sends: the connection keeps the mark, so that the app's answers come back to the proxy.
func (b *builder) inboundTProxy() {
	marked := rules.PacketMark(Mark)
	anywhere := netip.IPv4Unspecified()
	if b.family == rules.IPv6 {
		anywhere = netip.IPv6Unspecified()
	}
	b.Append(mangle, prerouting, "what arrives by TCP may be inbound traffic", rules.Jump(chainInbound), tcp)
	b.Append(mangle, chainInbound, "remember the proxy's mark for the connection", rules.SaveMark{}, tcp, marked)
	b.Append(mangle, chainInbound, "the proxy passes a connection on to the app, or gets the app's answer", rules.Return, tcp, marked)
	b.Append(mangle, chainInbound, "what stays in the pod is the app's own business", rules.Return, rules.InInterface(lo))
	b.inboundExceptions(mangle)
	for _, s := range b.inboundCaptured() {
		match := append([]rules.Match{tcp}, s.Match...)
		b.Append(mangle, chainInbound, "a connection the proxy already has stays with it", rules.Jump(chainDivert),
			append(match[:len(match):len(match)], rules.InState(rules.StateRelated|rules.StateEstablished))...)
		b.Append(mangle, chainInbound, s.Why, rules.Jump(chainTProxy), match...)
	}
	b.Append(mangle, chainDivert, "mark it, so that routing delivers it here", rules.SetMark(Mark))
	b.Append(mangle, chainDivert, "and let it pass", rules.Accept)
	b.Append(mangle, chainTProxy, "to the proxy's inbound listener, addresses unchanged",
		rules.TProxy{Port: b.InboundPort, Addr: anywhere, Mark: Mark}, tcp)
	b.Append(mangle, output, "answers to the proxy carry its mark", rules.Jump(chainOutbound), tcp)
	b.Append(mangle, chainOutbound, "the proxy has marked it", rules.Return, marked)
	b.Append(mangle, chainOutbound, "the app answers on a connection that carries the mark", rules.RestoreMark{}, rules.ConnMark(Mark))
}

// inboundExceptions lets excluded traffic pass.
func (b *builder) inboundExceptions(table string) {
	for _, name := range b.ExcludeInterfaces {
		b.Append(table, chainInbound, "interface "+name+" is excluded", rules.Return, rules.InInterface(name))
	}
	for _, s := range b.inboundExcluded() {
		b.Append(table, chainInbound, s.Why, rules.Return, append([]rules.Match{tcp}, s.Match...)...)
	}
}

func (b *builder) outbound() {
	if b.OutboundPort == 0 && b.DNSPort == 0 {
		return
	}
	b.Append(nat, output, "what the pod sends may be outbound traffic", rules.Jump(chainOutbound))
	for _, s := range b.exempt() {
		b.Append(nat, chainOutbound, s.Why, rules.Return, s.Match...)
	}
	if b.DNSPort != 0 {
		for _, protocol := range []string{rules.UDP, rules.TCP} {
			b.Append(nat, chainOutbound, "name lookups go to the proxy", rules.Redirect{Port: b.DNSPort},
				rules.Protocol(protocol), rules.DestinationPort(protocol, 53))
		}
	}
	if b.OutboundPort == 0 {
		return
	}
	b.Append(nat, chainOutbound, "what stays in the pod is the app's own business", rules.Return, rules.OutInterface(lo))
	for _, s := range b.outboundExcluded(b.family) {
		b.Append(nat, chainOutbound, s.Why, rules.Return, append([]rules.Match{tcp}, s.Match...)...)
	}
	for _, s := range b.outboundCaptured(b.family) {
		b.Append(nat, chainOutbound, s.Why, rules.Jump(chainRedirect), append([]rules.Match{tcp}, s.Match...)...)
	}
	b.Append(nat, chainRedirect, "to the proxy's outbound listener", rules.Redirect{Port: b.OutboundPort}, tcp)
}

// keepDNSApart puts the app's lookups and those of the proxy in different conntrack zones: redirected, they may share
// addresses and ports.
func (b *builder) keepDNSApart() {
	if b.DNSPort == 0 {
		return
	}
	const proxys, apps = rules.CTZone(1), rules.CTZone(2)
	ask := rules.DestinationPort(rules.UDP, 53)
	b.Append(raw, prerouting, "answers from name servers", rules.Jump(chainDNS), udp)
	for _, name := range b.ExcludeInterfaces {
		b.Append(raw, chainDNS, "interface "+name+" is excluded", rules.Return, rules.InInterface(name))
	}
	b.Append(raw, chainDNS, "an answer to a lookup that was not redirected", proxys, udp, rules.SourcePort(rules.UDP, 53))
	b.Append(raw, output, "lookups, and the proxy's answers", rules.Jump(chainOutbound), udp)
	for _, s := range b.exempt() {
		if s.Match[0].Field == rules.FieldOut {
			b.Append(raw, chainOutbound, s.Why, rules.Return, s.Match...)
			continue
		}
		b.Append(raw, chainOutbound, "a lookup that is not redirected", proxys, append([]rules.Match{udp, ask}, s.Match...)...)
		b.Append(raw, chainOutbound, "the proxy answers the app", apps,
			append([]rules.Match{udp, rules.SourcePort(rules.UDP, b.DNSPort)}, s.Match...)...)
	}
	b.Append(raw, chainOutbound, "the app asks", apps, udp, ask)
}

// exempt returns whose traffic, and by which interfaces, is never redirected.
func (p Profile) exempt() []rules.Selection {
	var all []rules.Selection
	add := func(why string, match rules.Match) {
		all = append(all, rules.Selection{Why: why, Match: []rules.Match{match}})
	}
	add("the proxy's own traffic never comes back to it", rules.OwnerUID(p.UID))
	if p.GID != 0 {
		add("the proxy's own traffic never comes back to it", rules.OwnerGID(p.GID))
	}
	for _, id := range rules.Unique(p.ExemptUIDs) {
		add(fmt.Sprintf("user %d is exempt", id), rules.OwnerUID(id))
	}
	for _, name := range p.ExcludeInterfaces {
		add("interface "+name+" is excluded", rules.OutInterface(name))
	}
	return all
}

func (p Profile) inboundExcluded() []rules.Selection {
	return byPorts(p.InboundExclude, "inbound ports %s are excluded")
}

func (p Profile) inboundCaptured() []rules.Selection {
	if len(p.Inbound) == 0 {
		return []rules.Selection{{Why: "every other port is captured"}}
	}
	return byPorts(p.Inbound, "inbound ports %s are captured")
}

func (p Profile) outboundExcluded(family rules.Family) []rules.Selection {
	return append(byPorts(p.OutboundPortsExclude, "outbound ports %s are excluded"),
		rules.Ranges("range %s is excluded", p.OutboundExclude, family, rules.Destination)...)
}

func (p Profile) outboundCaptured(family rules.Family) []rules.Selection {
	if len(p.Outbound)+len(p.OutboundPorts) == 0 {
		return []rules.Selection{{Why: "everything else is captured"}}
	}
	return append(byPorts(p.OutboundPorts, "outbound ports %s are captured"), rules.Ranges("range %s is captured", p.Outbound, family, rules.Destination)...)
}

func byPorts(ports []rules.PortRange, why string) (all []rules.Selection) {
	for _, list := range rules.PortLists(rules.MergePorts(ports)) {
		all = append(all, rules.Selection{Why: fmt.Sprintf(why, mesh.List(list.Ports())), Match: []rules.Match{list}})
	}
	return all
}

// block refuses IPv6 where redirect would have captured it.
func (p *Profile) block() rules.Ruleset {
	var out, in rules.Blocked
	var lookupsKept []rules.Selection
	if p.DNSPort != 0 {
		lookupsKept = p.exempt()
	}
	if p.OutboundPort != 0 {
		out = rules.Blocked{Kept: append(p.exempt(), p.outboundExcluded(rules.IPv6)...), Captured: p.outboundCaptured(rules.IPv6)}
	}
	if p.InboundPort != 0 {
		for _, name := range p.ExcludeInterfaces {
			in.Kept = append(in.Kept, rules.Selection{Why: "interface " + name + " is excluded", Match: []rules.Match{rules.InInterface(name)}})
		}
		in.Kept, in.Captured = append(in.Kept, p.inboundExcluded()...), p.inboundCaptured()
	}
	return rules.Block(out, in, lookupsKept...)
}
