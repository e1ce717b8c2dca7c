// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// listener is a TCP socket that waits for connections in the namespace.
type listener struct {
	cookie uint64 // tells it from every other
	at     netip.AddrPort
	only6  bool
	drops  uint32 // segments it has been given and did not take
}

// The layout of inet_diag (include/uapi/linux/inet_diag.h).
const (
	diagRequestSize = 56
	diagMessageSize = 72
	diagMemory      = 7  // INET_DIAG_SKMEMINFO
	diagOnly6       = 11 // INET_DIAG_SKV6ONLY
	memoryDrops     = 8  // SK_MEMINFO_DROPS
	stateListen     = 10 // TCP_LISTEN
)

// readListeners returns every TCP listener of the calling thread's namespace.
func readListeners() ([]listener, error) {
	var all []listener
	for _, family := range []byte{unix.AF_INET, unix.AF_INET6} {
		req := nl.NewNetlinkRequest(unix.SOCK_DIAG_BY_FAMILY, unix.NLM_F_DUMP)
		body := make([]byte, diagRequestSize)
		body[0], body[1], body[2] = family, unix.IPPROTO_TCP, 1<<(diagMemory-1)
		binary.NativeEndian.PutUint32(body[4:], 1<<stateListen)
		req.AddRawData(body)
		messages, err := req.Execute(unix.NETLINK_SOCK_DIAG, unix.SOCK_DIAG_BY_FAMILY)
		if err != nil && !errors.Is(err, nl.ErrDumpInterrupted) {
			return nil, fmt.Errorf("list the sockets that wait for connections (tcp_diag is needed): %w", err)
		}
		for _, m := range messages {
			if l, ok := parseListener(m); ok {
				all = append(all, l)
			}
		}
	}
	return all, nil
}

func parseListener(m []byte) (listener, bool) {
	if len(m) < diagMessageSize {
		return listener{}, false
	}
	addr := netip.AddrFrom16([16]byte(m[8:24]))
	if m[0] == unix.AF_INET {
		addr = netip.AddrFrom4([4]byte(m[8:12]))
	}
	l := listener{at: netip.AddrPortFrom(addr, binary.BigEndian.Uint16(m[4:])), cookie: binary.NativeEndian.Uint64(m[44:])}
	if only := netlink.Attribute(m[diagMessageSize:], diagOnly6); len(only) > 0 {
		l.only6 = only[0] != 0
	}
	memory := netlink.Attribute(m[diagMessageSize:], diagMemory)
	if len(memory) < 4*(memoryDrops+1) {
		return listener{}, false // the kernel does not count
	}
	l.drops = binary.NativeEndian.Uint32(memory[4*memoryDrops:])
	return l, true
}

// hears reports whether the listener is the one for connections to an address.
func (l listener) hears(to netip.AddrPort) bool {
	switch {
	case l.at.Port() != to.Port():
		return false
	case l.at.Addr() == to.Addr():
		return true
	case l.at.Addr().Is4() || !to.Addr().Is4():
		return l.at.Addr().IsUnspecified() && l.at.Addr().Is4() == to.Addr().Is4()
	}
	return l.at.Addr().IsUnspecified() && !l.only6
}

// counted returns the listeners that were given something between two readings.
func counted(before, after []listener) []listener {
	drops := map[uint64]uint32{}
	for _, l := range before {
		drops[l.cookie] = l.drops
	}
	var more []listener
	for _, l := range after {
		if was, known := drops[l.cookie]; known && l.drops != was {
			more = append(more, l)
		}
	}
	return more
}
