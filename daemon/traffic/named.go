// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// named is everything that rules name, each once and in their order.
type named struct {
	uids, gids []uint32
	tcp, udp   []uint16
	ranges     []netip.Prefix // destinations beyond loopback
	sources    []netip.Addr
	ins, outs  []string // interfaces
	zones      []uint16 // of connection tracking
	tracking   bool     // the rules have the kernel track connections
}

func names(set rules.Ruleset) named {
	var n named
	for _, table := range set.Tables {
		for _, chain := range table.Chains {
			n.tracking = n.tracking || table.Name == "nat" && len(chain.Rules) > 0
			for _, r := range chain.Rules {
				for _, m := range r.Match {
					n.match(m)
				}
				if zone, ok := r.Target.(rules.CTZone); ok {
					n.zones = unique(n.zones, []uint16{uint16(zone)})
				}
			}
		}
	}
	return n
}

func (n *named) match(m rules.Match) {
	switch m := m.(type) {
	case rules.OwnerUID:
		n.uids = unique(n.uids, []uint32{m.ID})
	case rules.OwnerGID:
		n.gids = unique(n.gids, []uint32{m.ID})
	case rules.DestinationPort:
		n.port(m.Protocol, m.Port)
	case rules.OwnerUIDs:
		n.uids = unique(n.uids, []uint32{m.First, m.Last})
	case rules.DestinationPorts:
		for _, r := range m.Ports.All() {
			n.tcp = unique(n.tcp, []uint16{r.First, r.Last})
		}
	case rules.Destination:
		if m.Prefix.Bits() > 0 && !m.Prefix.Addr().IsLoopback() {
			n.ranges = unique(n.ranges, []netip.Prefix{m.Prefix.Masked()})
		}
	case rules.Source:
		if m.Prefix.IsSingleIP() {
			n.sources = unique(n.sources, []netip.Addr{m.Prefix.Addr()})
		}
	case rules.InInterface:
		n.ins = unique(n.ins, []string{string(m)})
	case rules.OutInterface:
		if m != loopback {
			n.outs = unique(n.outs, []string{string(m)})
		}
	case rules.CTState, rules.ConnMark:
		n.tracking = true
	}
}

func (n *named) port(protocol string, port uint16) {
	if protocol == rules.UDP {
		n.udp = unique(n.udp, []uint16{port})
	} else {
		n.tcp = unique(n.tcp, []uint16{port})
	}
}
