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
	for r := range set.All() {
		n.tracking = n.tracking || r.Table == "nat"
		for _, m := range r.Match {
			n.match(m)
		}
		if zone, ok := r.Target.(rules.CTZone); ok {
			n.zones = unique(n.zones, []uint16{uint16(zone)})
		}
	}
	return n
}

func (n *named) match(m rules.Match) {
	n.tracking = n.tracking || m.Field == rules.FieldCTState || m.Field == rules.FieldConnMark
	switch v := m.Value.(type) {
	case rules.IDs:
		of := &n.uids
		if m.Field == rules.FieldGID {
			of = &n.gids
		}
		*of = unique(*of, []uint32{v.First, v.Last})
	case rules.Port:
		if m.Field == rules.FieldDestinationPort {
			n.port(v.Protocol, v.Number)
		}
	case rules.PortList:
		for _, r := range v.All() {
			n.tcp = unique(n.tcp, []uint16{r.First, r.Last})
		}
	case rules.Addresses:
		switch {
		case m.Field == rules.FieldSource && v.IsSingleIP():
			n.sources = unique(n.sources, []netip.Addr{v.Addr()})
		case m.Field == rules.FieldDestination && v.Bits() > 0 && !v.Addr().IsLoopback():
			n.ranges = unique(n.ranges, []netip.Prefix{v.Masked()})
		}
	case rules.Link:
		if m.Field == rules.FieldIn {
			n.ins = unique(n.ins, []string{string(v)})
		} else if v != loopback {
			n.outs = unique(n.outs, []string{string(v)})
		}
	}
}

func (n *named) port(protocol string, port uint16) {
	if protocol == rules.UDP {
		n.udp = unique(n.udp, []uint16{port})
	} else {
		n.tcp = unique(n.tcp, []uint16{port})
	}
}
