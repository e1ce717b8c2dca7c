// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"
)

// Widest returns a plan with every kind of rule that a pod can get, of the disabled meshes too: a reload may switch them on.
// Whoever can write it can write the rules of any pod.
func (n Node) Widest() Plan {
	var v4, v6 Builder
	for _, mesh := range n.all() {
		for _, plan := range mesh.Widest() {
			v4.add(plan.V4)
			v6.add(plan.V6)
		}
	}
	p := Plan{V4: v4.Ruleset(IPv4), V6: v6.Ruleset(IPv6), Footprint: n.Footprint(), Listens: []PortRange{{1, 1}, {7000, 7010}}}
	if len(n.Lockdowns) > 0 {
		for i, l := range widestLockdowns() {
			p = lock{l, i, Proxy{UID: 1, GID: 2}, n.Addresses}.down(p, Network{})
		}
	}
	return p
}

// widestLockdowns close all that can be closed, in each way.
func widestLockdowns() (all []Lockdown) {
	var peers []Peer
	var servers []netip.Addr
	for _, prefix := range []string{"192.0.2.0/24", "2001:db8::/32"} {
		for _, protocol := range []string{TCP, UDP} {
			peers = append(peers, Peer{netip.MustParsePrefix(prefix), PortRange{7000, 7010}, protocol})
		}
		servers = append(servers, netip.MustParsePrefix(prefix).Addr())
	}
	for _, udp := range []LockedUDP{UDPLookups, UDPNoQUIC, UDPNone} {
		all = append(all, Lockdown{Enforce: udp != UDPNoQUIC, Drop: udp == UDPNone, UDP: udp, DNSServers: servers, ICMP: true, Others: true, Egress: true,
			ProxyEgress: peers, Inbound: true, Allow: peers, Admit: peers, LocalPorts: []PortRange{{22, 22}, {7000, 7010}}, LocalRoot: true})
	}
	return all
}

// add appends another set's rules, of each kind in a chain two: some dialects write neighbours as one.
func (b *Builder) add(rs Ruleset) {
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			known := map[string]int{}
			for _, r := range b.chain(table.Name, c.Name).Rules {
				known[r.shape()]++
			}
			for _, r := range c.Rules {
				if shape := r.shape(); known[shape] < 2 {
					known[shape]++
					b.Append(table.Name, c.Name, r.Why, r.Target, r.Match...)
				}
			}
		}
	}
}

// shape is the rule without its values.
func (r Rule) shape() string {
	return strings.Join(slices.DeleteFunc(strings.Fields(r.String()), func(word string) bool { return strings.ContainsAny(word, "0123456789") }), " ")
}

// ManyPorts is a list for widest plans: some of its ports are merged to a range, and one is that of lookups.
func ManyPorts() []uint16 {
	ports := []uint16{22, 53}
	for port := uint16(7000); len(ports) <= asWritten; port++ {
		ports = append(ports, port)
	}
	return ports
}
