// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
)

// Interface is an interface of the pod with its addresses, in the kernel's order: the first of a family is
// where REDIRECT sends what arrives by it.
type Interface struct {
	Name      string
	Addresses []netip.Addr
}

// loopback is there in every namespace, with the addresses that no list needs to name.
const loopback = "lo"

// UsualInterface is the one by which others reach a pod of whose interfaces nothing is known.
const UsualInterface = "eth0"

// Reached reports whether others can reach the pod by an interface.
func (i Interface) Reached() bool {
	return i.Name != loopback && slices.ContainsFunc(i.Addresses, Global)
}

// Leading returns the interface by which others reach a pod with these interfaces.
func Leading(interfaces []Interface) string {
	if k := slices.IndexFunc(interfaces, Interface.Reached); k >= 0 {
		return interfaces[k].Name
	}
	return UsualInterface
}

// Global reports whether an address is one that other hosts can reach.
func Global(addr netip.Addr) bool { return !addr.IsLoopback() && !addr.IsLinkLocalUnicast() }

// GlobalOf returns the addresses by which others reach a pod with these interfaces.
func GlobalOf(interfaces []Interface) []netip.Addr {
	var all []netip.Addr
	for _, i := range interfaces {
		for _, addr := range i.Addresses {
			if Global(addr) {
				all = append(all, addr)
			}
		}
	}
	return all
}

// Own returns the pod's address of a family, or the assumed one where none is known.
func Own(interfaces []Interface, family Family) (addr netip.Addr, known bool) {
	for _, addr := range GlobalOf(interfaces) {
		if FamilyOf(addr) == family {
			return addr, true
		}
	}
	return Assumed(family), false
}

// Assumed returns what stands for the pod's address of a family where none is known: of those for documentation (RFC 5737, RFC 3849).
func Assumed(family Family) netip.Addr {
	if family == IPv6 {
		return netip.MustParseAddr("2001:db8::2")
	}
	return netip.MustParseAddr("192.0.2.2")
}

// Local reports whether an address is one of a pod with these interfaces.
func Local(interfaces []Interface, addr netip.Addr) bool {
	return addr.IsLoopback() || slices.ContainsFunc(interfaces, func(i Interface) bool { return slices.Contains(i.Addresses, addr) })
}
