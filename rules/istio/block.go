// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

// block answers with a reset what redirect would have captured. What redirect leaves alone is left alone:
// loopback, the proxy's own traffic, excluded ports, ranges and interfaces.
func (b *builder) block() rules.Ruleset {
	b.blockOutbound()
	if b.capturesInbound() {
		b.blockInbound()
	}
	return b.Ruleset(b.family)
}

func (b *builder) blockOutbound() {
	tcp := rules.Protocol(rules.TCP)
	reset := rules.RejectReset{}
	b.Append(filter, output, "IPv6 goes around the proxy", rules.Jump(chainBlockOut), tcp)
	keep := func(why string, match ...rules.Match) {
		b.Append(filter, chainBlockOut, why, rules.Return, append(match, tcp)...)
	}
	keep("what stays in the pod is the app's own business", rules.OutInterface(lo))
	for _, name := range rules.Unique(b.ExcludeInterfaces) {
		keep("interface "+name+" is excluded", rules.OutInterface(name))
	}
	keep("a connection that was let in or out before", rules.StateRelated|rules.StateEstablished)
	for _, ports := range merged(b.OutboundPortsExclude) {
		keep(fmt.Sprintf("outbound port %s is excluded", ports), to(ports))
	}
	keep("the proxy's own traffic", rules.OwnerUID{ID: b.UID})
	keep("the proxy's own traffic", rules.OwnerGID{ID: b.GID})
	if b.OwnerGroups == nil {
		for _, id := range rules.Unique(b.OwnerGroupsExclude) {
			keep(fmt.Sprintf("group %d is excluded", id), rules.OwnerGID{ID: id})
		}
	} else {
		var none []rules.Match
		for _, id := range rules.Unique(b.OwnerGroups) {
			none = append(none, rules.OwnerGID{ID: id, Not: true})
		}
		keep("only the included groups are captured", none...)
	}
	for _, prefix := range b.ofFamily(b.OutboundExclude) {
		keep("range "+prefix.String()+" is excluded", rules.Destination{Prefix: prefix})
	}
	for _, ports := range merged(b.OutboundPorts) {
		b.Append(filter, chainBlockOut, fmt.Sprintf("outbound port %s belongs to the mesh", ports), reset, tcp, to(ports))
	}
	if b.OutboundAll {
		b.Append(filter, chainBlockOut, "everything else belongs to the mesh", reset, tcp)
	}
	for _, prefix := range b.ofFamily(b.Outbound) {
		b.Append(filter, chainBlockOut, "range "+prefix.String()+" belongs to the mesh", reset, tcp,
			rules.Destination{Prefix: prefix})
	}
}

func (b *builder) blockInbound() {
	tcp := rules.Protocol(rules.TCP)
	b.Append(filter, input, "IPv6 goes around the proxy", rules.Jump(chainBlockIn), tcp)
	keep := func(why string, match ...rules.Match) {
		b.Append(filter, chainBlockIn, why, rules.Return, append(match, tcp)...)
	}
	keep("what stays in the pod is the app's own business", rules.InInterface(lo))
	for _, name := range rules.Unique(b.ExcludeInterfaces) {
		keep("interface "+name+" is excluded", rules.InInterface(name))
	}
	keep("answers to what the pod was let to ask", rules.StateRelated|rules.StateEstablished)
	keep("the proxy listens on the tunnel port itself", toPort(b.TunnelPort))
	if b.InboundAll {
		for _, ports := range merged(b.InboundExclude) {
			keep(portWhy(ports), to(ports))
		}
		b.Append(filter, chainBlockIn, "every other port belongs to the mesh", rules.RejectReset{}, tcp)
		return
	}
	for _, ports := range merged(b.Inbound) {
		b.Append(filter, chainBlockIn, fmt.Sprintf("port %s belongs to the mesh", ports), rules.RejectReset{}, tcp, to(ports))
	}
}
