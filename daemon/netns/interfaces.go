// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// Interfaces reads those of the calling thread's namespace, in the kernel's order.
func Interfaces() ([]rules.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the pod's interfaces: %w", err)
	}
	var all []rules.Interface
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of the pod's %s: %w", link.Name, err)
		}
		all = append(all, rules.Interface{Name: link.Name, Addresses: addresses(addrs)})
	}
	return all, nil
}

func addresses(found []net.Addr) []netip.Addr {
	var all []netip.Addr
	for _, f := range found {
		if prefix, err := netip.ParsePrefix(f.String()); err == nil {
			all = append(all, prefix.Addr().Unmap().WithZone(""))
		}
	}
	return all
}
