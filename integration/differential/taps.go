// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

// sighting is a packet that a tap has seen.
type sighting struct {
	segment
	delivered bool   // it came through INPUT; else it was sent out, through POSTROUTING
	name      string // of the interface
}

func (s sighting) String() string {
	where := "out by"
	if s.delivered {
		where = "delivered, in by"
	}
	return fmt.Sprintf("%s %s: %s %s to %s flags %#x", where, s.name, s.protocol, s.source, s.destination, s.flags)
}

// taps see every packet of a stack that comes through INPUT (raw sockets are given a copy behind it) and
// every one that is handed to an interface.
type taps struct {
	raw    []rawTap
	packet int
	names  map[int]string // of interfaces
	buffer []byte
}

type rawTap struct {
	fd, family int
	protocol   uint8
}

// tapBuffer holds more than any batch can send.
const tapBuffer = 16 << 20

// requireTaps skips a test where a user's sockets cannot hold what a batch sends.
func requireTaps(t testing.TB) {
	t.Helper()
	const batch = 1 << 20
	fd, err := open(unix.AF_INET, unix.SOCK_DGRAM, 0, option{unix.SOL_SOCKET, unix.SO_RCVBUF, batch})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Close(fd) }()
	if room, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_RCVBUF); !nstest.Root() && (err != nil || room < batch) {
		nstest.Lack(t, "a kernel whose net.core.rmem_max is 1 MB")
	}
}

func (s *stack) openTaps() (*taps, error) {
	t := &taps{packet: -1, names: map[int]string{}, buffer: make([]byte, 65536)}
	err := s.do(func() (err error) {
		big := option{unix.SOL_SOCKET, unix.SO_RCVBUFFORCE, tapBuffer}
		if !nstest.Root() {
			big.name = unix.SO_RCVBUF // no more than net.core.rmem_max
		}
		for _, protocol := range numbers {
			for family, info := range map[int]option{unix.AF_INET: {unix.SOL_IP, unix.IP_PKTINFO, 1}, unix.AF_INET6: {unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}} {
				fd, err := open(family, unix.SOCK_RAW, int(protocol), big, info)
				if err != nil {
					return fmt.Errorf("tap: %w", err)
				}
				t.raw = append(t.raw, rawTap{fd, family, protocol})
			}
		}
		if t.packet, err = open(unix.AF_PACKET, unix.SOCK_DGRAM, int(networkOrder(unix.ETH_P_ALL)), big); err != nil {
			return fmt.Errorf("tap: %w", err)
		}
		return t.readNames()
	})
	return t, err
}

func (t *taps) close() {
	for _, r := range t.raw {
		_ = unix.Close(r.fd)
	}
	_ = unix.Close(t.packet)
}

// wait returns when something is to be read, or fails after the limit.
func (t *taps) wait(milliseconds int) error {
	fds := []unix.PollFd{{Fd: int32(t.packet), Events: unix.POLLIN}}
	for _, r := range t.raw {
		fds = append(fds, unix.PollFd{Fd: int32(r.fd), Events: unix.POLLIN})
	}
	return poll(fds, milliseconds)
}

func poll(fds []unix.PollFd, milliseconds int) error {
	for {
		n, err := unix.Poll(fds, milliseconds)
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("poll: %w", err)
		case n == 0:
			return errNothing
		default:
			return nil
		}
	}
}

var errNothing = errors.New("nothing comes")

// read returns what was seen since.
func (t *taps) read() ([]sighting, error) {
	var seen []sighting
	for _, r := range t.raw {
		if err := t.each(r.fd, func(n int, control []byte, from unix.Sockaddr) {
			if s, ok := t.parseRaw(r, t.buffer[:n], control, from); ok {
				seen = append(seen, s)
			}
		}); err != nil {
			return nil, err
		}
	}
	err := t.each(t.packet, func(n int, _ []byte, from unix.Sockaddr) {
		at, ok := from.(*unix.SockaddrLinklayer)
		if !ok || at.Pkttype != unix.PACKET_OUTGOING {
			return
		}
		if s, ok := parseIP(t.buffer[:n]); ok {
			s.payload = slices.Clone(s.payload)
			seen = append(seen, sighting{s, false, t.names[at.Ifindex]})
		}
	})
	if err != nil {
		return nil, err
	}
	return seen, t.lost()
}

// each calls fn for every message that waits.
func (t *taps) each(fd int, fn func(n int, control []byte, from unix.Sockaddr)) error {
	control := make([]byte, 128)
	for {
		n, c, _, from, err := unix.Recvmsg(fd, t.buffer, control, 0)
		switch {
		case errors.Is(err, unix.EAGAIN):
			return nil
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("read from tap: %w", err)
		default:
			fn(n, control[:c], from)
		}
	}
}

// lost fails where the kernel had no room for what it saw.
func (t *taps) lost() error {
	stats, err := unix.GetsockoptTpacketStats(t.packet, unix.SOL_PACKET, unix.PACKET_STATISTICS)
	if err != nil {
		return fmt.Errorf("statistics of tap: %w", err)
	}
	if stats.Drops > 0 {
		return fmt.Errorf("the tap lost %d packets", stats.Drops)
	}
	return nil
}

// parseRaw reads what a raw socket is given: of IPv4 the packet, of IPv6 what follows the header.
func (t *taps) parseRaw(r rawTap, data, control []byte, from unix.Sockaddr) (sighting, bool) {
	index, to := packetInfo(control)
	var s segment
	var ok bool
	if r.family == unix.AF_INET {
		s, ok = parseIP(data)
	} else {
		s, ok = parseTransport(r.protocol, addrPort(from).Addr(), to, data)
	}
	s.payload = slices.Clone(s.payload)
	return sighting{s, true, t.names[index]}, ok
}

// packetInfo returns the interface and the destination that the kernel tells beside a packet.
func packetInfo(control []byte) (index int, to netip.Addr) {
	messages, err := unix.ParseSocketControlMessage(control)
	if err != nil {
		return 0, netip.Addr{}
	}
	for _, m := range messages {
		switch {
		case m.Header.Level == unix.SOL_IP && m.Header.Type == unix.IP_PKTINFO && len(m.Data) >= 12:
			return int(binary.NativeEndian.Uint32(m.Data)), netip.AddrFrom4([4]byte(m.Data[8:]))
		case m.Header.Level == unix.SOL_IPV6 && m.Header.Type == unix.IPV6_PKTINFO && len(m.Data) >= 20:
			return int(binary.NativeEndian.Uint32(m.Data[16:])), netip.AddrFrom16([16]byte(m.Data))
		}
	}
	return 0, netip.Addr{}
}

func (t *taps) readNames() error {
	links, err := netlink.LinkList()
	if err != nil {
		return fmt.Errorf("interfaces: %w", err)
	}
	for _, l := range links {
		t.names[l.Attrs().Index] = l.Attrs().Name
	}
	return nil
}
