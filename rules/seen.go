// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"fmt"
	"net/netip"
	"slices"
	"strconv"
)

// Seen is a connection that a lockdown counted and let go, as far as a lockdown's keys can tell one from another.
type Seen struct {
	Class    Class
	Protocol string     // as of a Packet
	Peer     netip.Addr // that it went to; for ClassInbound, that it came from
	Port     uint16     // that it went to; 0 where the protocol has none
}

// String says it in a sentence's part.
func (s Seen) String() string {
	switch {
	case s.Class == ClassInbound && s.Port == 0:
		return s.Protocol + " from " + s.Peer.String()
	case s.Class == ClassInbound:
		return fmt.Sprintf("%s from %s to port %d", s.Protocol, s.Peer, s.Port)
	case s.Port == 0:
		return s.Protocol + " to " + s.Peer.String()
	}
	return s.Protocol + " to " + netip.AddrPortFrom(s.Peer, s.Port).String()
}

// lockAny is the word of keys that close nothing.
const lockAny = "any"

// peer returns the entry that lets it pass, and nothing else.
func (s Seen) peer() Peer {
	return Peer{Host(s.Peer), PortRange{s.Port, s.Port}, s.Protocol}
}

// Lacks says which key of the lockdown would let pass what was seen, and which value the key would need: an entry of a list; of
// `icmp` and `other_protocols` the word; of `local_ports` what is to be taken out. No key is that the lockdown lets it pass, or
// that none of its keys can.
func (l Lockdown) Lacks(s Seen) (key, value string) {
	peer := s.peer()
	in := func(list []Peer) bool { return slices.ContainsFunc(list, func(p Peer) bool { return p.Covers(peer) }) }
	lookup := l.UDP == UDPLookups && s.Port == 53
	ported := s.Protocol == TCP || s.Protocol == UDP
	switch s.Class {
	case ClassUDP, ClassEgress, ClassProxy:
		closed := s.Protocol == TCP && l.Egress || s.Protocol == UDP && (l.UDP == UDPLookups || l.UDP == UDPNone || l.UDP == UDPNoQUIC && (s.Port == 80 || s.Port == 443))
		switch {
		case !closed || in(l.Allow) || lookup && slices.Contains(l.DNSServers, s.Peer):
		case s.Class == ClassProxy && (l.ProxyEgress == nil || in(l.ProxyEgress)):
		case s.Class == ClassProxy:
			return "proxy_egress", peer.String()
		case lookup:
			return "dns_servers", s.Peer.String()
		default:
			return "allow", peer.String()
		}
	case ClassInbound:
		switch {
		case !l.Inbound:
		case ported && !in(l.Admit):
			return "allow_inbound", peer.String()
		case l.ICMP && (s.Protocol == ICMP || s.Protocol == ICMPv6):
			return "icmp", lockAny
		}
	case ClassICMP:
		if l.ICMP {
			return "icmp", lockAny
		}
	case ClassOther:
		if l.Others {
			return "other_protocols", lockAny
		}
	case ClassLocal:
		if slices.ContainsFunc(l.LocalPorts, func(r PortRange) bool { return r.Contains(s.Port) }) {
			return "local_ports", strconv.Itoa(int(s.Port))
		}
	case ClassInvalid:
	}
	return "", ""
}

// MergePeers returns the same peers in fewer entries: ports that follow each other at the same addresses are a range, and
// addresses that are all of a prefix are that.
func MergePeers(list []Peer) []Peer {
	first := func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Protocol, b.Protocol), a.Prefix.Addr().Compare(b.Prefix.Addr()), cmp.Compare(a.Prefix.Bits(), b.Prefix.Bits()))
	}
	ports := func(a, b Peer) int {
		return cmp.Or(cmp.Compare(a.Ports.First, b.Ports.First), cmp.Compare(a.Ports.Last, b.Ports.Last))
	}
	for before := len(list) + 1; len(list) < before; {
		before = len(list)
		list = joined(list, func(a, b Peer) int { return cmp.Or(first(a, b), ports(a, b)) }, func(a, b Peer) (Peer, bool) {
			a.Ports.Last = max(a.Ports.Last, b.Ports.Last)
			return a, a.Protocol == b.Protocol && a.Prefix == b.Prefix && int(b.Ports.First) <= int(a.Ports.Last)+1
		})
		list = joined(list, func(a, b Peer) int { return cmp.Or(ports(a, b), first(a, b)) }, func(a, b Peer) (Peer, bool) {
			whole, one := onePrefix(a.Prefix, b.Prefix)
			return Peer{whole, a.Ports, a.Protocol}, one && a.Protocol == b.Protocol && a.Ports == b.Ports
		})
	}
	return list
}

// NamesNoServer reports whether lookups alone may leave, and none is named where they may go: they then depend on the mesh's capture.
func (l Lockdown) NamesNoServer() bool { return l.UDP == UDPLookups && len(l.DNSServers) == 0 }

// controlPlanes are the ports of the meshes' own control planes: Istio's, Consul's, Kuma's and Linkerd's.
var controlPlanes = []uint16{15010, 15012, 8502, 5678, 8080, 8086, 8090}

// NamesNoControlPlane reports whether the proxy may reach some places, none of which has the port of a control plane.
func (l Lockdown) NamesNoControlPlane() bool {
	leads := func(p Peer) bool { return p.Protocol == TCP && slices.ContainsFunc(controlPlanes, p.Ports.Contains) }
	return l.ProxyEgress != nil && !slices.ContainsFunc(slices.Concat(l.ProxyEgress, l.Allow), leads)
}
