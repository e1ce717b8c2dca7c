// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// namespaces are network namespaces that end with this process. They are kept until a measurement is over:
// the kernel takes long to take one away, and would do it beside the next sample.
type namespaces struct{ files []*os.File }

// open makes a namespace with lo, and with these addresses on eth0 and a default route by it. Nothing is at
// the other end. It returns a path that is valid in this process and its children until end.
func (n *namespaces) open(addresses ...string) (path string, err error) {
	ns, err := netns.New()
	if err != nil {
		return "", err
	}
	defer ns.Close()
	err = ns.Do(func() error {
		file, err := os.Open("/proc/thread-self/ns/net")
		if err != nil {
			return err
		}
		n.files = append(n.files, file)
		path = fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), file.Fd())
		return furnish(addresses)
	})
	if err != nil {
		return "", fmt.Errorf("furnish a network namespace: %w", err)
	}
	return path, nil
}

// end gives all namespaces up.
func (n *namespaces) end() {
	for _, file := range n.files {
		_ = file.Close()
	}
	n.files = nil
}

func furnish(addresses []string) error {
	nl, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer nl.Close()
	const lo, eth = 1, 3 // the pair's other end is made first
	// A number is asked for, so that none has to be looked up.
	pair := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0", Index: eth}, PeerName: "other0"}
	if err := nl.LinkAdd(pair); err != nil {
		return fmt.Errorf("ip link add eth0: %w", err)
	}
	for _, index := range []int{lo, eth} {
		if err := nl.LinkSetUp(&netlink.Dummy{LinkAttrs: netlink.LinkAttrs{Index: index}}); err != nil {
			return fmt.Errorf("ip link set %d up: %w", index, err)
		}
	}
	for _, text := range addresses {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		address := &netlink.Addr{Flags: unix.IFA_F_NODAD, IPNet: &net.IPNet{
			IP: prefix.Addr().AsSlice(), Mask: net.CIDRMask(prefix.Bits(), prefix.Addr().BitLen())}}
		if err := nl.AddrAdd(pair, address); err != nil {
			return fmt.Errorf("ip addr add %s: %w", text, err)
		}
		any := net.IPNet{IP: make(net.IP, prefix.Addr().BitLen()/8), Mask: net.CIDRMask(0, prefix.Addr().BitLen())}
		if err := nl.RouteAdd(&netlink.Route{Dst: &any, LinkIndex: eth, Scope: netlink.SCOPE_LINK}); err != nil {
			return fmt.Errorf("ip route add default dev eth0: %w", err)
		}
	}
	return nil
}
