// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
)

// mostNumbers is how many ports one rule has room for (xt_multiport); a range takes two.
const mostNumbers = 15

// PortList is some ports and ranges of ports. Unlike a slice, it can be compared.
type PortList struct {
	n      uint8
	ranges [mostNumbers]PortRange
}

// All returns the ports in the order in which they were given.
func (l PortList) All() []PortRange { return l.ranges[:l.n] }

// String returns the list as iptables prints it.
func (l PortList) String() string {
	var words []string
	for _, r := range l.All() {
		words = append(words, r.with(":"))
	}
	return strings.Join(words, ",")
}

// Contains reports whether a port is one of them.
func (l PortList) Contains(port uint16) bool {
	return slices.ContainsFunc(l.All(), func(r PortRange) bool { return r.Contains(port) })
}

// List makes a list of as many ports as one rule has room for.
func List(ports ...PortRange) (l PortList) {
	l.n = uint8(len(ports))
	copy(l.ranges[:len(ports)], ports)
	return l
}

// ToAny matches packets to any of the ports, which one rule has room for.
func ToAny(ports ...PortRange) Match {
	return Match{Field: FieldDestinationPorts, Value: List(ports...)}
}

// ToNone matches packets to none of the ports.
func ToNone(ports ...uint16) Match { return Not(ToAny(Ports(ports)...)) }

// PortLists divides ports into as few lists as can each stand in one rule.
func PortLists(ports []PortRange) (all []Match) {
	var list []PortRange
	room := mostNumbers
	for _, r := range ports {
		numbers := 1
		if r.First != r.Last {
			numbers = 2
		}
		if room < numbers {
			all, list, room = append(all, ToAny(list...)), nil, mostNumbers
		}
		list = append(list, r)
		room -= numbers
	}
	if len(list) > 0 {
		all = append(all, ToAny(list...))
	}
	return all
}

// asWritten is the longest list that stays as the mesh writes it, without repetitions. In a longer one, ports and ranges
// that overlap or follow each other are merged. That changes nothing for packets: all of them lead to the same target.
const asWritten = 15

// MergePorts returns the ports of a list in as few ranges as asWritten asks for, each at the place of its first part.
func MergePorts(list []PortRange) []PortRange {
	return merged(Unique(list), func(a, b PortRange) int { return cmp.Compare(a.First, b.First) },
		func(a, b PortRange) (PortRange, bool) {
			return PortRange{a.First, max(a.Last, b.Last)}, int(b.First) <= int(a.Last)+1
		})
}

// MergePrefixes is MergePorts for prefixes: one within another is dropped, and two halves become one.
func MergePrefixes(list []netip.Prefix) []netip.Prefix {
	return merged(Unique(list), func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	}, onePrefix)
}

// onePrefix joins a prefix with one within it, or with its other half.
func onePrefix(a, b netip.Prefix) (netip.Prefix, bool) {
	if a.Contains(b.Addr()) { // also where only bits differ that do not count
		return a, true
	}
	whole := netip.PrefixFrom(a.Addr(), a.Bits()-1)
	return whole.Masked(), a.Bits() == b.Bits() && whole.IsValid() && whole.Contains(b.Addr())
}

// merged joins neighbours in a list longer than asWritten.
func merged[T any](list []T, order func(a, b T) int, join func(a, b T) (T, bool)) []T {
	if len(list) <= asWritten {
		return list
	}
	return joined(list, order, join)
}

// joined joins neighbours, in order.
func joined[T any](list []T, order func(a, b T) int, join func(a, b T) (T, bool)) []T {
	type part struct {
		of    T
		place int
	}
	parts := make([]part, len(list))
	for i, of := range list {
		parts[i] = part{of, i}
	}
	slices.SortStableFunc(parts, func(a, b part) int { return order(a.of, b.of) })
	var done []part
	for _, p := range parts {
		for len(done) > 0 {
			last := done[len(done)-1]
			of, ok := join(last.of, p.of)
			if !ok {
				break
			}
			p, done = part{of, min(last.place, p.place)}, done[:len(done)-1]
		}
		done = append(done, p)
	}
	slices.SortFunc(done, func(a, b part) int { return cmp.Compare(a.place, b.place) })
	all := make([]T, len(done))
	for i, p := range done {
		all[i] = p.of
	}
	return all
}

// Unique returns a list without repetitions.
func Unique[T comparable](list []T) []T {
	seen := make(map[T]bool, len(list))
	return slices.DeleteFunc(slices.Clone(list), func(item T) bool {
		twice := seen[item]
		seen[item] = true
		return twice
	})
}

// Ports returns single ports as ranges.
func Ports(list []uint16) []PortRange {
	all := make([]PortRange, len(list))
	for i, port := range list {
		all[i] = PortRange{port, port}
	}
	return all
}

// ToPorts matches packets of a protocol to ports; what names the protocol itself stands in the rule as well.
func ToPorts(protocol string, r PortRange) Match {
	if r.First == r.Last {
		return DestinationPort(protocol, r.First)
	}
	return ToAny(r)
}
