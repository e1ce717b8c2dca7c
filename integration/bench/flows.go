// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/binary"
	"errors"
	"fmt"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	proxyPort = 15001
	dscp      = 10 // the class of service by which packets of a raw socket are known
)

// flows are sockets in one namespace, that of the thread which opened them.
type flows struct {
	raw      int // sends what has its IPv4 header
	listener int // of the proxy
	sent     uint32
}

func newFlows() (*flows, error) {
	raw, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return nil, fmt.Errorf("raw socket: %w", err)
	}
	listener, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err == nil {
		err = unix.Bind(listener, &unix.SockaddrInet4{Port: proxyPort})
	}
	if err == nil {
		err = unix.Listen(listener, 128)
	}
	if err == nil { // where rules do not lead to it, nobody waits for ever
		err = unix.SetsockoptTimeval(listener, unix.SOL_SOCKET, unix.SO_RCVTIMEO, &unix.Timeval{Sec: 1})
	}
	if err != nil {
		return nil, fmt.Errorf("listen at port %d: %w", proxyPort, err)
	}
	return &flows{raw: raw, listener: listener}, nil
}

func (f *flows) close() {
	_, _ = unix.Close(f.raw), unix.Close(f.listener)
}

// Offsets in a packet of an IPv4 header without options and a TCP header (RFC 791, RFC 9293).
const (
	ipTOS, ipLength, ipTTL, ipProtocol, ipSource, ipDestination = 1, 2, 8, 9, 12, 16
	tcpSource, tcpDestination, tcpOffset, tcpFlags, tcpWindow   = 20, 22, 32, 33, 34
	packetLength                                                = 40
)

// syns sends first packets of connections, each of another one, and expects every one to be dropped: a
// dropped packet leaves nothing in the table of connections.
func (f *flows) syns(n int) error {
	p := [packetLength]byte{0: 4<<4 | 5, ipTOS: dscp << 2, ipTTL: 64, ipProtocol: unix.IPPROTO_TCP,
		ipSource: 10, ipSource + 3: 1, ipDestination: 203, ipDestination + 2: 113,
		tcpDestination + 1: 80, tcpOffset: 5 << 4, tcpFlags: 2, tcpWindow: 255}
	binary.BigEndian.PutUint16(p[ipLength:], packetLength)
	to := unix.RawSockaddrInet4{Family: unix.AF_INET}
	for range n {
		f.sent++
		binary.BigEndian.PutUint16(p[tcpSource:], uint16(f.sent))
		p[ipDestination+3] = byte(f.sent >> 16)
		copy(to.Addr[:], p[ipDestination:])
		// Raw: the Go runtime's bookkeeping would be a part of what is measured.
		_, _, errno := unix.RawSyscall6(unix.SYS_SENDTO, uintptr(f.raw), uintptr(unsafe.Pointer(&p)), packetLength, 0,
			uintptr(unsafe.Pointer(&to)), unix.SizeofSockaddrInet4)
		if errno != unix.EPERM {
			return fmt.Errorf("a packet that is to be dropped was not: %w", errno)
		}
	}
	return nil
}

// connections are made one after the other to an address, accepted by the proxy's listener and reset. The
// calling thread must be in the namespace.
func (f *flows) connections(n int, target [4]byte, port uint16) error {
	for range n {
		if err := f.connection(&unix.SockaddrInet4{Addr: target, Port: int(port)}); err != nil {
			return err
		}
	}
	return nil
}

func (f *flows) connection(to unix.Sockaddr) (err error) {
	app, err := unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, reset(app)) }()
	if err := unix.Connect(app, to); err != nil {
		return fmt.Errorf("connect: %w", err)
	}
	proxy, _, err := unix.Accept4(f.listener, unix.SOCK_CLOEXEC)
	if err != nil {
		return fmt.Errorf("the proxy accepts no connection: %w", err)
	}
	return reset(proxy)
}

// reset closes a connection so that neither end waits for the other.
func reset(fd int) error {
	err := unix.SetsockoptLinger(fd, unix.SOL_SOCKET, unix.SO_LINGER, &unix.Linger{Onoff: 1})
	return errors.Join(err, unix.Close(fd))
}
