// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// arrival is a connection or a datagram that a listener got.
type arrival struct {
	protocol string
	listener uint16         // the port it listens on
	source   netip.AddrPort // the caller
	local    netip.AddrPort // what the connection's own end says it is
	original netip.AddrPort // what SO_ORIGINAL_DST says; invalid where it says nothing
	payload  string
	fd       int // of a connection; -1 of a datagram
	by       int // the socket of the listener
}

// listeners of a stack take everything that is sent to some ports, whatever the address.
type listeners struct {
	stack   *stack
	options []option
	all     []listener
	has     map[uint16]bool
}

type listener struct {
	fd, family int
	protocol   string
	port       uint16
}

func newListeners(s *stack, options ...option) *listeners {
	return &listeners{stack: s, options: options, has: map[uint16]bool{}}
}

func (l *listeners) close() {
	for _, one := range l.all {
		_ = unix.Close(one.fd)
	}
}

// ensure listens on the ports, by TCP and UDP and in both families.
func (l *listeners) ensure(ports ...uint16) error {
	return l.stack.do(func() error {
		for _, port := range ports {
			if port == 0 || l.has[port] {
				continue
			}
			l.has[port] = true
			for _, family := range []int{unix.AF_INET, unix.AF_INET6} {
				for _, protocol := range []string{rules.TCP, rules.UDP} {
					if err := l.listen(family, protocol, port); err != nil {
						return fmt.Errorf("listen on %s port %d: %w", protocol, port, err)
					}
				}
			}
		}
		return nil
	})
}

func (l *listeners) listen(family int, protocol string, port uint16) error {
	options := slices.Concat(transparent(family), l.options, []option{{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1}})
	kind := unix.SOCK_STREAM
	if protocol == rules.UDP {
		kind = unix.SOCK_DGRAM
		info := option{unix.SOL_IP, unix.IP_PKTINFO, 1}
		if family == unix.AF_INET6 {
			info = option{unix.SOL_IPV6, unix.IPV6_RECVPKTINFO, 1}
		}
		options = append(options, info)
	}
	fd, err := open(family, kind, 0, options...)
	if err != nil {
		return err
	}
	l.all = append(l.all, listener{fd, family, protocol, port})
	any := netip.IPv4Unspecified()
	if family == unix.AF_INET6 {
		any = netip.IPv6Unspecified()
	}
	if err := unix.Bind(fd, sockaddr(netip.AddrPortFrom(any, port), 0)); err != nil {
		return err
	}
	if protocol == rules.TCP {
		return unix.Listen(fd, 4096)
	}
	return nil
}

// take returns what has arrived since.
func (l *listeners) take() ([]arrival, error) {
	var all []arrival
	for _, one := range l.all {
		for {
			a, err := one.take()
			if errors.Is(err, unix.EAGAIN) {
				break
			}
			if err != nil {
				return nil, fmt.Errorf("take from %s port %d: %w", one.protocol, one.port, err)
			}
			all = append(all, a)
		}
	}
	return all, nil
}

// wait returns when a connection has arrived, or fails after the limit.
func (l *listeners) wait(milliseconds int) error {
	var fds []unix.PollFd
	for _, one := range l.all {
		fds = append(fds, unix.PollFd{Fd: int32(one.fd), Events: unix.POLLIN})
	}
	return poll(fds, milliseconds)
}

func (l listener) take() (arrival, error) {
	if l.protocol == rules.UDP {
		data, control := make([]byte, 2048), make([]byte, 128)
		n, c, _, from, err := unix.Recvmsg(l.fd, data, control, 0)
		if err != nil {
			return arrival{}, err
		}
		_, to := packetInfo(control[:c])
		return arrival{protocol: rules.UDP, listener: l.port, source: addrPort(from), local: netip.AddrPortFrom(to, l.port),
			payload: string(data[:n]), fd: -1, by: l.fd}, nil
	}
	fd, from, err := unix.Accept4(l.fd, unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC)
	if err != nil {
		return arrival{}, err
	}
	local, err := unix.Getsockname(fd)
	if err != nil {
		_ = unix.Close(fd)
		return arrival{}, fmt.Errorf("getsockname: %w", err)
	}
	return arrival{protocol: rules.TCP, listener: l.port, source: addrPort(from), local: addrPort(local), original: originalDst(fd, l.family), fd: fd, by: l.fd}, nil
}

// originalDst asks where a connection was meant to go (SO_ORIGINAL_DST, and IP6T_SO_ORIGINAL_DST of the same
// number). There is no answer for one that is not tracked.
func originalDst(fd, family int) netip.AddrPort {
	const name = 80
	var four unix.RawSockaddrInet4
	var six unix.RawSockaddrInet6
	level, value, size := unix.SOL_IP, unsafe.Pointer(&four), uint32(unix.SizeofSockaddrInet4)
	if family == unix.AF_INET6 {
		level, value, size = unix.SOL_IPV6, unsafe.Pointer(&six), unix.SizeofSockaddrInet6
	}
	if _, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(fd), uintptr(level), name, uintptr(value), uintptr(unsafe.Pointer(&size)), 0); errno != 0 {
		return netip.AddrPort{}
	}
	if family == unix.AF_INET6 {
		return netip.AddrPortFrom(netip.AddrFrom16(six.Addr), networkOrder(six.Port))
	}
	return netip.AddrPortFrom(netip.AddrFrom4(four.Addr), networkOrder(four.Port))
}

// answer answers a datagram from the address that it was sent to.
func (a arrival) answer() error {
	var control []byte
	if addr := a.local.Addr(); addr.Is6() {
		control = unix.PktInfo6(&unix.Inet6Pktinfo{Addr: addr.As16()})
	} else {
		control = unix.PktInfo4(&unix.Inet4Pktinfo{Spec_dst: addr.As4()})
	}
	if err := unix.Sendmsg(a.by, []byte("answer"), control, sockaddr(a.source, 0), 0); err != nil {
		return fmt.Errorf("answer %s: %w", a.source, err)
	}
	return nil
}
