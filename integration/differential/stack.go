// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package differential holds the tracer of package rules against the kernel: it sends packets for real
// through a pod's plan, and compares where each one ended with what the tracer says.
package differential

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// stack is a network namespace with a thread in it, on which sockets are made and packets are sent.
type stack struct {
	ns   *netns.Namespace
	work chan func()
}

// newStack starts the thread. It stays on one processor, and so does what the kernel does with the packets
// it sends: they queue up in the order in which they were sent, whatever way they take.
func newStack(t testing.TB, path string) *stack {
	t.Helper()
	ns, err := netns.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	s := &stack{ns: ns, work: make(chan func())}
	ready, ended := make(chan error), make(chan struct{})
	go func() {
		defer close(ended)
		err := ns.Do(func() error {
			leave, err := stayOnOneProcessor()
			if err != nil {
				return err
			}
			defer leave()
			ready <- nil
			for f := range s.work {
				f()
			}
			return nil
		})
		if err != nil {
			ready <- err
		}
	}()
	if err := <-ready; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		close(s.work)
		<-ended
		ns.Close()
	})
	return s
}

// stayOnOneProcessor keeps the thread on the last processor that it may use, which every stack so finds.
func stayOnOneProcessor() (leave func(), err error) {
	var all, one unix.CPUSet
	if err := unix.SchedGetaffinity(0, &all); err != nil {
		return nil, fmt.Errorf("which processors may be used: %w", err)
	}
	for cpu, left := 0, all.Count(); left > 0; cpu++ {
		if all.IsSet(cpu) {
			one.Zero()
			one.Set(cpu)
			left--
		}
	}
	if err := unix.SchedSetaffinity(0, &one); err != nil {
		return nil, fmt.Errorf("stay on one processor: %w", err)
	}
	return func() { _ = unix.SchedSetaffinity(0, &all) }, nil
}

// do calls fn on the thread in the namespace.
func (s *stack) do(fn func() error) error {
	result := make(chan error)
	s.work <- func() { result <- fn() }
	return <-result
}

// set writes network settings of the namespace, such as "ipv4/ip_forward".
func (s *stack) set(t testing.TB, values map[string]string) {
	t.Helper()
	err := s.do(func() (err error) {
		for name, value := range values {
			err = errors.Join(err, os.WriteFile(filepath.Join("/proc/sys/net", name), []byte(value), 0o644))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// owned calls fn with the user and the group of the thread changed, as far as they own what it opens: that is
// what an owner match asks a socket for.
func owned(uid, gid uint32, fn func() error) error {
	become := func(uid, gid uint32) error {
		_, _ = unix.SetfsgidRetGid(int(gid))
		_, _ = unix.SetfsuidRetUid(int(uid)) // the capabilities for the network stay
		isUID, _ := unix.SetfsuidRetUid(-1)
		isGID, _ := unix.SetfsgidRetGid(-1)
		if uint32(isUID) != uid || uint32(isGID) != gid {
			return fmt.Errorf("become user %d and group %d: still user %d and group %d", uid, gid, isUID, isGID)
		}
		return nil
	}
	if err := become(uid, gid); err != nil {
		return errors.Join(err, become(0, 0))
	}
	return errors.Join(fn(), become(0, 0))
}

// options are of a socket, level and name to value.
type option struct{ level, name, value int }

// open makes a socket that does not block, with options.
func open(family, kind, protocol int, options ...option) (int, error) {
	fd, err := unix.Socket(family, kind|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, protocol)
	if err != nil {
		return -1, fmt.Errorf("socket of family %d, kind %d: %w", family, kind, err)
	}
	for _, o := range options {
		if err := unix.SetsockoptInt(fd, o.level, o.name, o.value); err != nil {
			_ = unix.Close(fd)
			return -1, fmt.Errorf("set option %d of level %d: %w", o.name, o.level, err)
		}
	}
	return fd, nil
}

func familyOf(addr netip.Addr) int {
	if addr.Is6() {
		return unix.AF_INET6
	}
	return unix.AF_INET
}

// transparent lets a socket have any address and be what TPROXY chooses; of IPv6, it is for IPv6 only.
func transparent(family int) []option {
	if family == unix.AF_INET6 {
		return []option{{unix.SOL_IPV6, unix.IPV6_V6ONLY, 1}, {unix.SOL_IPV6, unix.IPV6_TRANSPARENT, 1}}
	}
	return []option{{unix.SOL_IP, unix.IP_TRANSPARENT, 1}}
}

// sockaddr turns an address into the kernel's form; a link-local one is of the interface with that index.
func sockaddr(a netip.AddrPort, index int) unix.Sockaddr {
	if a.Addr().Is6() {
		sa := &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
		if linkLocal6(a.Addr()) {
			sa.ZoneId = uint32(index)
		}
		return sa
	}
	return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
}

func addrPort(sa unix.Sockaddr) netip.AddrPort {
	switch sa := sa.(type) {
	case *unix.SockaddrInet4:
		return netip.AddrPortFrom(netip.AddrFrom4(sa.Addr), uint16(sa.Port))
	case *unix.SockaddrInet6:
		return netip.AddrPortFrom(netip.AddrFrom16(sa.Addr).Unmap(), uint16(sa.Port))
	}
	return netip.AddrPort{}
}

// abort closes a socket; a connection ends with a reset, so that nothing of it waits.
func abort(fd int) {
	_ = unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	_ = unix.Close(fd)
}

// networkOrder puts a number of 16 bits as the network orders them.
func networkOrder(n uint16) uint16 {
	return binary.BigEndian.Uint16(binary.NativeEndian.AppendUint16(nil, n))
}
