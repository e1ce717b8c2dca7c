// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"errors"
	"fmt"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// mostAddresses bounds how many of a family are returned: they are remembered, and a pod with NET_ADMIN can have any
// number.
const mostAddresses = 32

// Network reads what a plan has to know of the namespace, with the addresses of all interfaces in the order in which
// the kernel lists them: IPv4 before IPv6. Istio's proxy looks at the same list.
func (h *Handle) Network() (rules.Network, error) {
	if err := h.readAddresses(); err != nil {
		return rules.Network{}, err
	}
	n := rules.Network{Addresses: []netip.Addr{}, NoIPv6OnLo: true}
	kept := map[bool]int{}
	for _, a := range h.addrs {
		ip := a.Addr().Unmap()
		if six := ip.Is6(); kept[six] < mostAddresses {
			n.Addresses = append(n.Addresses, ip)
			kept[six]++
		}
		if ip.Is6() && a.link == lo {
			n.NoIPv6OnLo = false
		}
	}
	has, err := h.hasIPv6()
	n.NoIPv6 = !has
	return n, err
}

// Interfaces returns the interfaces with their addresses, in the kernel's order. They are for a look, not to be remembered.
func Interfaces() ([]rules.Interface, error) {
	h := Open()
	defer h.Close()
	return h.Interfaces()
}

// Interfaces is Interfaces by this socket.
func (h *Handle) Interfaces() ([]rules.Interface, error) {
	if err := h.readAddresses(); err != nil {
		return nil, err
	}
	links, err := h.asker.listLinks()
	if err != nil {
		return nil, fmt.Errorf("list the pod's interfaces: %w", err)
	}
	at := map[int]int{}
	var all []rules.Interface
	for _, l := range links {
		at[l.index] = len(all)
		all = append(all, rules.Interface{Name: l.name})
	}
	for _, a := range h.addrs {
		if i, known := at[a.link]; known {
			all[i].Addresses = append(all[i].Addresses, a.Addr().Unmap())
		}
	}
	return all, nil
}

// What linux/netconf.h has for the settings of a whole family.
const (
	netconfIndex = 1  // NETCONFA_IFINDEX
	netconfAll   = -1 // NETCONFA_IFINDEX_ALL
)

// hasIPv6 asks the kernel for its IPv6 settings, which only a kernel without IPv6 does not have. Whether interfaces have it
// switched off (disable_ipv6) does not count, since that can change at any time. Opening an IPv6 socket would tell as
// well, but the service's unit forbids that.
func (h *Handle) hasIPv6() (bool, error) {
	all := int32(netconfAll)
	request := netlink.AppendNumber(about(unix.AF_INET6, 4), netconfIndex, uint32(all)) // struct netconfmsg, padded as netlink wants it
	err := h.asker.ask(unix.RTM_GETNETCONF, 0, request, func([]byte) error { return nil })
	switch {
	case err == nil:
		return true, nil
	case errors.Is(err, unix.EOPNOTSUPP), errors.Is(err, unix.EAFNOSUPPORT):
		return false, nil
	}
	return false, fmt.Errorf("ask the kernel whether it has IPv6: %w", err)
}
