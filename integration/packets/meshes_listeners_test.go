// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// lobby has dummy listeners in several namespaces. Whoever sends says a number, and the listener that is told it tells
// the sender where that was: no answer is needed, so that UDP is as good as TCP.
type lobby struct {
	mu      sync.Mutex
	waiting map[string]chan<- string
}

// listen opens the ports in a namespace, for both families and protocols, under its name.
func (l *lobby) listen(t *testing.T, ns *netns.Namespace, name string, ports ...uint16) {
	t.Helper()
	err := ns.Do(func() error {
		for _, port := range ports {
			for _, digit := range []string{"4", "6"} {
				addr := map[string]string{"4": "0.0.0.0", "6": "[::]"}[digit] + fmt.Sprintf(":%d", port)
				where := fmt.Sprintf("%s %d", name, port)
				tcp, err := new(net.ListenConfig).Listen(t.Context(), "tcp"+digit, addr)
				if err != nil {
					return err
				}
				udp, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp"+digit, addr)
				if err != nil {
					return err
				}
				t.Cleanup(func() { _ = tcp.Close(); _ = udp.Close() })
				go l.accept(tcp, where)
				go l.receive(udp, where)
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func (l *lobby) accept(ln net.Listener, where string) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			var said [numberLength]byte
			if _, err := io.ReadFull(conn, said[:]); err == nil {
				l.tell(string(said[:]), where)
			}
		}()
	}
}

func (l *lobby) receive(pc net.PacketConn, where string) {
	said := make([]byte, numberLength)
	for {
		n, _, err := pc.ReadFrom(said)
		if err != nil {
			return
		}
		if n == len(said) {
			l.tell(string(said), where)
		}
	}
}

func (l *lobby) tell(number string, where string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if heard := l.waiting[number]; heard != nil {
		heard <- where
		delete(l.waiting, number)
	}
}

const numberLength = 16 // in hexadecimal digits

// sendLimit is how long a packet may take to a listener.
const sendLimit = 3 * time.Second

// send sends a packet from a namespace as its user, and returns where it was heard, or why nowhere.
func (l *lobby) send(ctx context.Context, from *netns.Namespace, p rules.Packet) string {
	number, heard := fmt.Sprintf("%0*x", numberLength, rand.Uint64()), make(chan string, 1)
	l.mu.Lock()
	if l.waiting == nil {
		l.waiting = map[string]chan<- string{}
	}
	l.waiting[number] = heard
	l.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, sendLimit)
	defer cancel()
	if err := from.Do(func() error { return say(p, number) }); err != nil {
		return reason(err)
	}
	select {
	case where := <-heard:
		return where
	case <-ctx.Done():
		return "nobody heard it"
	}
}

func reason(err error) string {
	if errors.Is(err, unix.ECONNREFUSED) {
		return "refused"
	}
	return err.Error()
}

// say opens a socket of the packet's user on the calling thread, since that is how the kernel knows its owner.
func say(p rules.Packet, number string) error {
	if _, err := unix.SetfsuidRetUid(int(p.UID)); err != nil {
		return err
	}
	kind, domain := unix.SOCK_STREAM, unix.AF_INET
	if p.Protocol == rules.UDP {
		kind = unix.SOCK_DGRAM
	}
	if p.Family() == rules.IPv6 {
		domain = unix.AF_INET6
	}
	fd, err := unix.Socket(domain, kind|unix.SOCK_CLOEXEC, 0)
	if _, back := unix.SetfsuidRetUid(0); err != nil || back != nil {
		return errors.Join(err, back)
	}
	defer func() { _ = unix.Close(fd) }()
	limit := unix.NsecToTimeval(int64(sendLimit))
	if err := unix.SetsockoptTimeval(fd, unix.SOL_SOCKET, unix.SO_SNDTIMEO, &limit); err != nil {
		return err
	}
	if err := unix.Bind(fd, endpoint(netip.AddrPortFrom(p.Source.Addr(), 0))); err != nil {
		return fmt.Errorf("bind to %s: %w", p.Source.Addr(), err)
	}
	if err := unix.Connect(fd, endpoint(p.Destination)); err != nil {
		return fmt.Errorf("connect to %s: %w", p.Destination, err)
	}
	if _, err = unix.Write(fd, []byte(number)); errors.Is(err, unix.EPERM) { // netfilter's; the socket knows the answer
		if code, told := unix.GetsockoptInt(fd, unix.SOL_SOCKET, unix.SO_ERROR); told == nil && code != 0 {
			return unix.Errno(code)
		}
	}
	return err
}

func endpoint(a netip.AddrPort) unix.Sockaddr {
	if a.Addr().Is4() {
		return &unix.SockaddrInet4{Port: int(a.Port()), Addr: a.Addr().As4()}
	}
	return &unix.SockaddrInet6{Port: int(a.Port()), Addr: a.Addr().As16()}
}

// heardAt says where a packet with that end is heard: in the pod, or at its peer.
func heardAt(end string) string {
	kind, port, _ := strings.Cut(end, " ")
	switch rules.EndKind(kind) {
	case rules.Leaves:
		return "peer " + port
	case rules.Redirected, rules.Delivered, rules.TProxied:
		return "pod " + port
	case rules.Dropped, rules.Refused:
	}
	return end
}
