// SPDX-License-Identifier: Apache-2.0

//go:build linux

package backend

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// The chains of the plan that is tried, and a mark that only its rules use.
const (
	outputChain     = "MESHNETD_OUTPUT"
	preroutingChain = "MESHNETD_PREROUTING"
	tryMark         = 0x4d4e44
)

// everything is a plan with every match and every target, each where the kernel allows it; those that only lockdowns have,
// where they are asked for.
func everything(lockdowns bool, families ...rules.Family) rules.Plan {
	plan := rules.Plan{Footprint: rules.Footprint{Chains: []string{outputChain, preroutingChain}, Marks: []uint32{tryMark}}}
	for _, family := range families {
		if family == rules.IPv6 {
			plan.V6 = every(lockdowns, family, "fd00::", netip.IPv6Unspecified())
		} else {
			plan.V4 = every(lockdowns, family, "10.0.0.0", netip.IPv4Unspecified())
		}
	}
	return plan
}

func every(lockdowns bool, family rules.Family, network string, any netip.Addr) rules.Ruleset {
	address := netip.MustParseAddr(network)
	host := netip.PrefixFrom(address, address.BitLen())
	tcp, udp := rules.Protocol(rules.TCP), rules.Protocol(rules.UDP)
	port := func(protocol string, not bool) rules.Match {
		return rules.DestinationPort{Protocol: protocol, Port: 53, Not: not}
	}
	var b rules.Builder
	out := func(table string, target rules.Target, match ...rules.Match) {
		b.Append(table, outputChain, "", target, match...)
	}
	in := func(table string, target rules.Target, match ...rules.Match) {
		b.Append(table, preroutingChain, "", target, match...)
	}
	for _, table := range []string{"nat", "mangle", "raw"} {
		b.Append(table, "OUTPUT", "", rules.Jump(outputChain))
		b.Append(table, "PREROUTING", "", rules.Jump(preroutingChain), tcp)
	}
	b.Append("filter", "OUTPUT", "", rules.Jump(outputChain))

	out("nat", rules.Return, rules.OutInterface("lo"), rules.Source{Prefix: host})
	out("nat", rules.Return, rules.Destination{Prefix: netip.PrefixFrom(address, 8)}, rules.OwnerUID{ID: 1})
	out("nat", rules.Accept, rules.Destination{Prefix: netip.PrefixFrom(address, 17), Not: true}, rules.OwnerGID{ID: 1})
	out("nat", rules.Return, tcp, port(rules.TCP, true), rules.OwnerUID{ID: 1, Not: true})
	out("nat", rules.Return, tcp, rules.NotDestinationPorts{53, 80}, rules.OwnerGID{ID: 1, Not: true}, rules.OwnerGID{ID: 2, Not: true})
	for _, more := range []uint16{80, 443} { // lists, which become sets
		out("nat", rules.Return, tcp, rules.DestinationPort{Protocol: rules.TCP, Port: more})
		out("nat", rules.Return, rules.Destination{Prefix: netip.PrefixFrom(address, int(more%100)/4)})
	}
	out("nat", rules.Return, tcp, rules.DestinationPorts{{First: 22, Last: 22}, {First: 7000, Last: 7010}}, rules.OwnerUIDs{First: 1, Last: 5})
	out("nat", rules.DNAT{To: address.Next(), Port: 53}, udp, port(rules.UDP, false), rules.Comment("meshnetd/try"))
	out("nat", rules.Redirect{Port: 1}, udp, port(rules.UDP, false))
	out("nat", rules.Redirect{Port: 2}, tcp)
	in("nat", rules.Redirect{Port: 3}, rules.InInterface("eth0"), tcp)

	out("mangle", rules.RestoreMark{}, tcp, rules.ConnMark{Mark: tryMark})
	out("mangle", rules.SetMark(tryMark), rules.PacketMark{Mark: tryMark, Not: true})
	in("mangle", rules.SaveMark{}, rules.PacketMark{Mark: tryMark})
	in("mangle", rules.Drop, rules.StateInvalid)
	in("mangle", rules.Return, rules.StateRelated|rules.StateEstablished|rules.StateNew|rules.StateUntracked)
	in("mangle", rules.TProxy{Port: 4, Addr: any, Mark: tryMark}, tcp)

	out("raw", rules.CTZone(1), udp, rules.SourcePort{Protocol: rules.UDP, Port: 53})
	in("raw", rules.CTZone(2), udp, port(rules.UDP, false))

	out("filter", rules.RejectReset, tcp)
	if family == rules.IPv6 {
		out("filter", rules.RejectPort, udp)
	}
	if lockdowns {
		icmp, unreachable := rules.Protocol(rules.ICMP), rules.RejectPort4
		if family == rules.IPv6 {
			icmp, unreachable = rules.ICMPv6, rules.RejectPort
		}
		for _, hook := range []string{"INPUT", "FORWARD"} {
			b.Append("filter", hook, "", rules.Jump(preroutingChain))
		}
		in("filter", rules.Count, icmp)
		in("filter", unreachable, icmp, rules.StateInvalid)
		out("filter", unreachable)
	}
	return b.Ruleset(family)
}
