// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"fmt"
	"net/netip"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// counts tries in a new namespace whether this kernel drops signed segments to a listener without a key, and reports the
// drops per listener (CONFIG_TCP_MD5SIG and tcp_diag).
func counts() (bool, error) {
	ns, err := netns.New()
	if err != nil {
		return false, err
	}
	defer ns.Close()
	counting := false
	err = ns.Do(func() (err error) {
		counting, err = countsHere()
		return err
	})
	return counting, err
}

// countsHere sends one packet to a listener of its own over loopback.
func countsHere() (bool, error) {
	lo, err := netlink.LinkByName(loopback)
	if err == nil {
		err = netlink.LinkSetUp(lo)
	}
	if err != nil {
		return false, fmt.Errorf("bring lo up: %w", err)
	}
	home := netip.AddrPortFrom(rules.IPv4.Loopback(), 0)
	p := rules.Packet{Protocol: rules.TCP, Source: home, Destination: home}
	fd, err := unix.Socket(domain(p), unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return false, fmt.Errorf("socket: %w", err)
	}
	defer func() { _ = unix.Close(fd) }()
	if err = unix.Bind(fd, sockaddr(home)); err == nil {
		err = unix.Listen(fd, 1)
	}
	if err == nil {
		p.Destination, err = boundTo(fd)
	}
	if err != nil {
		return false, fmt.Errorf("listen on loopback: %w", err)
	}
	before, err := readListeners()
	if err != nil {
		return false, nil //nolint:nilerr // it does not tell
	}
	return shows(&p, func() (bool, error) {
		after, err := readListeners()
		return len(counted(before, after)) > 0, err
	})
}

// shows sends the first packet of a connection as this thread, from a port that it gives it, and looks until something is seen of
// it; false where nothing is in time.
func shows(p *rules.Packet, seen func() (bool, error)) (bool, error) {
	release, err := reserve(p)
	if err != nil {
		return false, err
	}
	defer release()
	own, err := threadIDs()
	if err == nil {
		err = sendRaw(*p, uint32(own.uid), uint32(own.gid), encode(*p, form{flags: flagSYN, hops: anyHop}))
	}
	for limit := time.Now().Add(arrivalTime); err == nil && time.Now().Before(limit); time.Sleep(lookPause) {
		var is bool
		if is, err = seen(); is {
			return true, nil
		}
	}
	return false, err
}
