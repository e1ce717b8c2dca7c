// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// NoID stands for no user or group, as in the kernel.
const NoID = 1<<32 - 1

// Contains reports whether a port is one of them.
func (r PortRange) Contains(port uint16) bool { return r.First <= port && port <= r.Last }

// String returns the port, or "FIRST-LAST".
func (r PortRange) String() string { return r.with("-") }

func (r PortRange) with(between string) string {
	if r.First == r.Last {
		return strconv.Itoa(int(r.First))
	}
	return strconv.Itoa(int(r.First)) + between + strconv.Itoa(int(r.Last))
}

// ParsePorts reads a comma-separated list of ports and ranges "FIRST-LAST" without blanks. problem says what is
// wrong with the first item that is neither; it is "" where all are right. An empty list is no port.
func ParsePorts(list string) (ports []PortRange, problem string) {
	if list == "" {
		return nil, ""
	}
	for i, item := range strings.Split(list, ",") {
		r, ok := ParsePortRange(item)
		if !ok {
			return nil, fmt.Sprintf("item %d, %q, is not a port or a range such as 8000-8010 (0 to 65535, no blanks around it, no names)", i+1, item)
		}
		ports = append(ports, r)
	}
	return ports, ""
}

// ParsePrefixes is ParsePorts for CIDRs. Host bits are kept.
func ParsePrefixes(list string) (prefixes []netip.Prefix, problem string) {
	if list == "" {
		return nil, ""
	}
	for i, item := range strings.Split(list, ",") {
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			return nil, fmt.Sprintf("item %d, %q, is not a CIDR such as 10.0.0.0/8 (no blanks around it)", i+1, item)
		}
		prefixes = append(prefixes, prefix)
	}
	return prefixes, ""
}

// ParseID reads the number of a user or group that is neither root nor NoID; problem as of ParsePorts.
func ParseID(text string) (id uint32, problem string) {
	n, err := strconv.ParseUint(text, 10, 32)
	if err != nil || n == 0 || n == NoID {
		return 0, fmt.Sprintf("not a number from 1 to %d", uint32(NoID-1))
	}
	return uint32(n), ""
}

// ParsePort reads a port that something can listen on; problem as of ParsePorts.
func ParsePort(text string) (port uint16, problem string) {
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil || n == 0 {
		return 0, "not a port from 1 to 65535"
	}
	return uint16(n), ""
}

// Host returns the prefix of one address.
func Host(addr netip.Addr) netip.Prefix { return netip.PrefixFrom(addr, addr.BitLen()) }

// OfFamily returns the prefixes that are of a family.
func OfFamily(prefixes []netip.Prefix, family Family) []netip.Prefix {
	return slices.DeleteFunc(slices.Clone(prefixes), func(p netip.Prefix) bool { return FamilyOf(p.Addr()) != family })
}
