// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

// block refuses IPv6 where redirect would have captured it. What redirect leaves alone is left alone: the proxy's own
// traffic, excluded ports, ranges, interfaces and groups.
func (in *Intent) block() rules.Ruleset {
	var lookupsKept []rules.Selection
	if in.DNSCapture {
		lookupsKept = in.outboundKept(rules.UDP)
	}
	return rules.Block(in.blockedOutbound(), in.blockedInbound(), lookupsKept...)
}

func selection(why string, match ...rules.Match) rules.Selection {
	return rules.Selection{Why: why, Match: match}
}

// outboundKept is what is never captured: of TCP, or lookups by UDP.
func (in Intent) outboundKept(protocol string) (kept []rules.Selection) {
	for _, name := range rules.Unique(in.ExcludeInterfaces) {
		kept = append(kept, selection("interface "+name+" is excluded", rules.OutInterface(name)))
	}
	for _, ports := range merged(in.OutboundPortsExclude) {
		if protocol == rules.UDP && !ports.Contains(53) {
			continue
		}
		kept = append(kept, selection(fmt.Sprintf("outbound port %s is excluded", ports), rules.ToPorts(protocol, ports)))
	}
	kept = append(kept, selection("the proxy's own traffic", rules.OwnerUID(in.UID)),
		selection("the proxy's own traffic", rules.OwnerGID(in.GID)))
	if in.OwnerGroups == nil {
		for _, id := range rules.Unique(in.OwnerGroupsExclude) {
			kept = append(kept, selection(fmt.Sprintf("group %d is excluded", id), rules.OwnerGID(id)))
		}
		return kept
	}
	var none []rules.Match
	for _, id := range rules.Unique(in.OwnerGroups) {
		none = append(none, rules.Not(rules.OwnerGID(id)))
	}
	return append(kept, selection("only the included groups are captured", none...))
}

func (in Intent) blockedOutbound() rules.Blocked {
	b := rules.Blocked{Kept: in.outboundKept(rules.TCP)}
	b.Kept = append(b.Kept, rules.Ranges("range %s is excluded", in.OutboundExclude, rules.IPv6, rules.Destination)...)
	for _, ports := range merged(in.OutboundPorts) {
		b.Captured = append(b.Captured, selection(fmt.Sprintf("outbound port %s belongs to the mesh", ports), to(ports)))
	}
	if in.OutboundAll {
		b.Captured = append(b.Captured, selection("everything else belongs to the mesh"))
	}
	b.Captured = append(b.Captured, rules.Ranges("range %s belongs to the mesh", in.Outbound, rules.IPv6, rules.Destination)...)
	return b
}

func (in Intent) blockedInbound() (b rules.Blocked) {
	for _, name := range rules.Unique(in.ExcludeInterfaces) {
		b.Kept = append(b.Kept, selection("interface "+name+" is excluded", rules.InInterface(name)))
	}
	b.Kept = append(b.Kept, selection("the proxy listens on the tunnel port itself", toPort(in.TunnelPort)))
	if in.InboundAll {
		for _, ports := range merged(in.InboundExclude) {
			b.Kept = append(b.Kept, selection(portWhy(ports), to(ports)))
		}
		b.Captured = []rules.Selection{selection("every other port belongs to the mesh")}
		return b
	}
	for _, ports := range merged(in.Inbound) {
		b.Captured = append(b.Captured, selection(fmt.Sprintf("port %s belongs to the mesh", ports), to(ports)))
	}
	return b
}
