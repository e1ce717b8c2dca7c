// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// between finds what one lockdown opens for nobody, since another one that is for each of its namespaces closes it: a packet has to
// pass both.
func between(l rules.Lockdown, earlier []rules.Lockdown) map[string]string {
	problems := map[string]string{}
	for _, other := range earlier {
		if key, entry := opensInVain(l, other); key != "" {
			problems[key] = fmt.Sprintf("%s is closed all the same by %s, which is for each of these namespaces and lets none of it pass", entry, other)
		}
		if key, entry := opensInVain(other, l); key != "" {
			problems[""] = fmt.Sprintf("closes %s, which %s of %s opens for no other namespaces", entry, key, other)
		}
	}
	return problems
}

// opensInVain returns a key and an entry of a lockdown of which nothing passes another one.
func opensInVain(l, by rules.Lockdown) (key, entry string) {
	elsewhere := func(namespace string) bool { return !slices.Contains(by.Namespaces, namespace) }
	if !by.Enforce || len(by.Namespaces) > 0 && (len(l.Namespaces) == 0 || slices.ContainsFunc(l.Namespaces, elsewhere)) {
		return "", ""
	}
	lookups := slices.Concat(lookupsAt(by.DNSServers, rules.UDP), lookupsAt(by.DNSServers, rules.TCP))
	for _, o := range []struct {
		key     string
		class   rules.Class
		entries []rules.Peer
		open    []rules.Peer // by the other one
	}{
		{"dns_servers", rules.ClassUDP, lookupsAt(l.DNSServers, rules.UDP), slices.Concat(by.Allow, lookups)},
		{"allow", rules.ClassUDP, l.Allow, slices.Concat(by.Allow, lookups)},
		{"proxy_egress", rules.ClassProxy, l.ProxyEgress, slices.Concat(by.Allow, by.ProxyEgress, lookups)},
		{"allow_inbound", rules.ClassInbound, l.Admit, by.Admit},
	} {
		for _, p := range o.entries {
			lacking, _ := by.Lacks(rules.Seen{Class: o.class, Protocol: p.Protocol, Peer: p.Prefix.Addr(), Port: p.Ports.First})
			apart := by.UDP == rules.UDPNoQUIC && p.Ports.First != p.Ports.Last // some of the ports are open
			if lacking != "" && !apart && !slices.ContainsFunc(o.open, func(q rules.Peer) bool { return overlap(p, q) }) {
				return o.key, p.String()
			}
		}
	}
	return "", ""
}

func lookupsAt(servers []netip.Addr, protocol string) (all []rules.Peer) {
	for _, addr := range servers {
		all = append(all, rules.Peer{Prefix: rules.Host(addr), Ports: rules.PortRange{First: 53, Last: 53}, Protocol: protocol})
	}
	return all
}

func overlap(p, q rules.Peer) bool {
	return p.Protocol == q.Protocol && p.Prefix.Overlaps(q.Prefix) && p.Ports.First <= q.Ports.Last && q.Ports.First <= p.Ports.Last
}
