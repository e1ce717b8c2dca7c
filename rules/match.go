// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"
)

// Every Match reports whether it holds for a packet as it is at that point of its way, as the kernel does it:
// net/netfilter/xt_*.c, and net/ipv4/netfilter/ip_tables.c for addresses and interfaces. Without a value to
// compare, a condition fails, and a negated one of the owner holds.

func (m Protocol) holds(p Packet) bool { return p.Protocol == string(m) }

func (m Source) holds(p Packet) bool { return contains(m.Prefix, p.Source.Addr()) }

func (m Destination) holds(p Packet) bool { return contains(m.Prefix, p.Destination.Addr()) != m.Not }

// contains is true for a prefix of no bits whatever its family, which is how it is printed too.
func contains(prefix netip.Prefix, addr netip.Addr) bool {
	return prefix.Bits() == 0 || prefix.Contains(addr.WithZone(""))
}

func (m InInterface) holds(p Packet) bool { return interfaceMatches(string(m), p.In) }

func (m OutInterface) holds(p Packet) bool { return interfaceMatches(string(m), p.Out) }

// interfaceMatches compares names; one that ends in + stands for all that begin so. A packet that has no
// such interface, as what is sent has none that it came in by, has the empty name.
func interfaceMatches(pattern, name string) bool {
	if prefix, ok := strings.CutSuffix(pattern, "+"); ok {
		return strings.HasPrefix(name, prefix)
	}
	return pattern == name
}

func (m SourcePort) holds(p Packet) bool {
	return p.Protocol == m.Protocol && p.Source.Port() == m.Port
}

// The protocol must be the one named, negated or not.
func (m DestinationPort) holds(p Packet) bool {
	return p.Protocol == m.Protocol && (p.Destination.Port() == m.Port) != m.Not
}

func (m NotDestinationPorts) holds(p Packet) bool {
	return (p.Protocol == TCP || p.Protocol == UDP) && !slices.Contains(m, p.Destination.Port())
}

func (m DestinationPorts) holds(p Packet) bool {
	return (p.Protocol == TCP || p.Protocol == UDP) &&
		slices.ContainsFunc(m, func(r PortRange) bool { return r.Contains(p.Destination.Port()) })
}

func (m OwnerUID) holds(p Packet) bool { return (p.Socket && p.UID == m.ID) != m.Not }

func (m OwnerUIDs) holds(p Packet) bool { return p.Socket && m.First <= p.UID && p.UID <= m.Last }

func (m OwnerGID) holds(p Packet) bool { return (p.Socket && p.GID == m.ID) != m.Not }

func (m CTState) holds(p Packet) bool { return p.State&m != 0 }

func (m PacketMark) holds(p Packet) bool { return (p.Mark == m.Mark) != m.Not }

func (Comment) holds(Packet) bool { return true }

// A packet of no connection has no mark of one, not even 0.
func (m ConnMark) holds(p Packet) bool { return p.tracked() && p.ConnMark == m.Mark }
