// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// answerTime is how long an answer made in the pod itself may take where no patience is left.
const answerTime = 300 * time.Millisecond

// reserve takes a port of the packet's source address, so that no connection of the pod can use it until release is
// called.
func reserve(p *rules.Packet) (release func(), err error) {
	kind := unix.SOCK_STREAM
	if p.Protocol == rules.UDP {
		kind = unix.SOCK_DGRAM
	}
	fd, err := unix.Socket(domain(*p), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("socket: %w", err)
	}
	if err = unix.Bind(fd, sockaddr(netip.AddrPortFrom(p.Source.Addr(), 0))); err == nil {
		p.Source, err = boundTo(fd)
	}
	if err != nil {
		_ = unix.Close(fd)
		return nil, fmt.Errorf("take a port of %s: %w", p.Source.Addr(), err)
	}
	return func() { _ = unix.Close(fd) }, nil
}

func boundTo(fd int) (netip.AddrPort, error) {
	name, err := unix.Getsockname(fd)
	if err != nil {
		return netip.AddrPort{}, err
	}
	switch a := name.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(a.Addr), uint16(a.Port)), nil
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(a.Addr), uint16(a.Port)), nil
	}
	return netip.AddrPort{}, errors.New("a socket of another family")
}

func domain(p rules.Packet) int { return int(netlink.Family(p.Family())) }

// sendRaw sends the bytes by a raw socket of the user and group. The owner match sees it as any other socket, and its packets
// go through the same hooks.
func sendRaw(p rules.Packet, uid, gid uint32, packet []byte) error {
	return as(uid, gid, func() error {
		fd, err := unix.Socket(domain(p), unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
		if err != nil {
			return fmt.Errorf("raw socket (CAP_NET_RAW is needed): %w", err)
		}
		defer func() { _ = unix.Close(fd) }()
		err = unix.Sendto(fd, packet, 0, sockaddr(netip.AddrPortFrom(p.Destination.Addr(), 0)))
		if errors.Is(err, unix.EPERM) {
			return nil // netfilter dropped it
		}
		return err
	})
}

// connect asks for a connection as the user and group, or sends a datagram, and gives it up when released. It is for
// packets that are to be refused: only a socket that waits for the answer shows that.
func connect(p *rules.Packet, uid, gid uint32, patience time.Duration) (refused bool, release func(), err error) {
	fd, kind, answered := none, unix.SOCK_STREAM, int16(unix.POLLOUT)
	if p.Protocol == rules.UDP {
		kind, answered = unix.SOCK_DGRAM, unix.POLLIN
	}
	err = as(uid, gid, func() (err error) {
		fd, err = unix.Socket(domain(*p), kind|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
		return err
	})
	if err != nil {
		return false, nil, fmt.Errorf("socket: %w", err)
	}
	release = func() { _ = unix.Close(fd) }
	if err := prepare(fd, p); err != nil {
		release()
		return false, nil, err
	}
	err = unix.Connect(fd, sockaddr(p.Destination))
	if err == nil && p.Protocol == rules.UDP {
		_, err = unix.Write(fd, []byte{0})
	}
	if errors.Is(err, unix.EINPROGRESS) || p.Protocol == rules.UDP && (err == nil || errors.Is(err, unix.EPERM)) { // which says what netfilter did, not what it answered
		err = answer(fd, answered, patience)
	}
	return errors.Is(err, unix.ECONNREFUSED), release, nil
}

// prepare makes sure that nothing goes further than the node, and that a listener who accepts the connection sees it end at
// once.
func prepare(fd int, p *rules.Packet) error {
	level, option := unix.IPPROTO_IP, unix.IP_TTL
	if p.Family() == rules.IPv6 {
		level, option = unix.IPPROTO_IPV6, unix.IPV6_UNICAST_HOPS
	}
	err := errors.Join(unix.SetsockoptInt(fd, level, option, firstHop),
		unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1}),
		unix.Bind(fd, sockaddr(netip.AddrPortFrom(p.Source.Addr(), 0))))
	if err != nil {
		return fmt.Errorf("prepare a connection from %s: %w", p.Source.Addr(), err)
	}
	p.Source, err = boundTo(fd)
	return err
}

// answer waits for what comes of a connection; nil is success, or nothing.
func answer(fd int, events int16, patience time.Duration) error {
	limit := time.Now().Add(patience)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: events}}, int(time.Until(limit).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR) && time.Now().Before(limit):
			continue
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		code, err := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR)
		if err != nil || code == 0 {
			return err
		}
		return unix.Errno(code)
	}
}
