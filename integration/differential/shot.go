// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// way is how a packet is sent.
type way int

const (
	byConnect  way = iota // the first packet of a TCP connection, by a socket that connects
	byDatagram            // the first of UDP, by a socket
	byData                // one of a connection that was there before the rules
	byForgery             // a packet that no socket would send as it is: raw, or put on the cable
	byTunnel              // a datagram of the kernel's own
	byReset               // a TCP segment of the kernel's own
)

// listened reports whether a socket waits for what becomes of the packet, and a listener is asked for it.
func (w way) listened() bool { return w < byForgery }

// shot is a packet to be sent, and what became of it.
type shot struct {
	packet rules.Packet
	path   rules.Path // what the tracer says
	want   outcome

	way      way
	id       string // in the payload, where there is one
	fd       int    // of what sends it; -1 is none
	server   int    // of byData, the other end; -1 is none
	accepted bool   // of byData: it has another end
	cannot   string // why it was not sent

	got  outcome
	seen []fmt.Stringer // on which that rests
}

// wayOf tells how a packet can be sent through a plan, or why it cannot.
func (w *world) wayOf(plan rules.Plan, p rules.Packet) (way, string) {
	src, dst := p.Source.Addr(), p.Destination.Addr()
	inbound := p.Direction == rules.Inbound
	noWayBack := inbound && (inLoopback(src) || inLoopback(dst) || linkLocal6(dst)) // for answers
	fromLoopback := !inbound && src.IsLoopback() && !w.has(dst)
	onLo := src.IsLoopback() || p.State != rules.StateEstablished && // a plan's addresses come with its rules
		slices.ContainsFunc(plan.Loopback, func(a netip.Prefix) bool { return a.Addr() == src })
	_, in := number(p.In)
	_, out := number(p.Out)
	switch {
	case inbound && !in || p.Out != "" && !out:
		return 0, "no such interface"
	case !ordinary(src) || !ordinary(dst):
		return 0, "to or from an address that is not of one host"
	case p.Source.Port() == 0 || p.Destination.Port() == 0:
		return 0, "port 0"
	case p.State == rules.StateRelated:
		return 0, "related: a connection of TCP or UDP is that by a helper only"
	case !inbound && inLoopback(src) && !onLo:
		return 0, "from an address that is not on lo, or not yet"
	case noWayBack && p.State == rules.StateEstablished:
		return 0, "a connection from outside by a loopback or link-local address"
	case fromLoopback && (p.State == rules.StateEstablished || src.Is4()):
		return 0, "from a loopback address to outside"
	case !inbound && !p.Socket:
		return w.ownWay(p)
	case p.Protocol != rules.TCP && p.Protocol != rules.UDP:
		if p.State == rules.StateEstablished || p.Protocol == raw && p.State == rules.StateInvalid {
			return 0, "no connection is, or none is not"
		}
		return byForgery, ""
	case p.State == rules.StateEstablished:
		return byData, ""
	case p.State == rules.StateInvalid || p.State == rules.StateUntracked || noWayBack:
		return byForgery, ""
	case p.Protocol == rules.TCP:
		return byConnect, ""
	}
	return byDatagram, ""
}

// ordinary reports whether an address can be that of a host: 0.0.0.0 is the pod itself when it is connected to,
// and many and all are elsewhere.
func ordinary(addr netip.Addr) bool {
	first := addr.AsSlice()[0]
	return !addr.IsUnspecified() && !addr.IsMulticast() && (addr.Is6() || first != 0 && first < 224)
}

// open makes the socket that sends; it is called in the stack it is for.
func (w *world) open(s *shot) error {
	p := s.packet
	family, kind := familyOf(p.Source.Addr()), unix.SOCK_STREAM
	options := []option{}
	if p.Protocol == rules.UDP {
		kind = unix.SOCK_DGRAM
		options = append(options, option{unix.SOL_SOCKET, unix.SO_REUSEADDR, 1})
	}
	index := 0
	if p.Direction == rules.Inbound {
		n, _ := number(p.In)
		index = w.index[p.In]
		options = append(append(options, transparent(family)...), option{unix.SOL_SOCKET, unix.SO_MARK, n})
	} else if p.Mark != 0 {
		options = append(options, option{unix.SOL_SOCKET, unix.SO_MARK, int(p.Mark)})
	}
	err := owned(p.UID, p.GID, func() (err error) {
		s.fd, err = open(family, kind, 0, options...)
		return err
	})
	if err != nil {
		return err
	}
	if err := unix.Bind(s.fd, sockaddr(p.Source, index)); err != nil {
		return fmt.Errorf("bind: %w", err)
	}
	err = unix.Connect(s.fd, sockaddr(p.Destination, index))
	if err == nil || errors.Is(err, unix.EINPROGRESS) || errors.Is(err, unix.ECONNREFUSED) || errors.Is(err, unix.EPERM) {
		return nil
	}
	return fmt.Errorf("connect: %w", err)
}

// send sends the packet.
func (g *gallery) send(s *shot) error {
	from := g.from(s)
	switch s.way {
	case byConnect:
		return from.do(func() error { return g.open(s) })
	case byDatagram:
		return from.do(func() error {
			if err := g.open(s); err != nil {
				return err
			}
			return s.write()
		})
	case byData:
		return s.write()
	case byForgery:
		return from.do(func() error { return g.forge(s) })
	case byTunnel:
		return g.throughTunnel(s)
	case byReset:
		return g.provokeReset(s)
	}
	return fmt.Errorf("way %d is unknown", s.way)
}

// from returns where the packet is sent, or where what makes the kernel send it.
func (g *gallery) from(s *shot) *stack {
	if s.packet.Direction == rules.Inbound {
		return g.peer
	}
	return g.pod
}

func (s *shot) write() error {
	_, err := unix.Write(s.fd, []byte(s.id))
	if err != nil && !errors.Is(err, unix.EPERM) { // which says that it was dropped on its way out
		return fmt.Errorf("send: %w", err)
	}
	return nil
}

// forge sends a packet by a raw socket, or puts it on the cable.
func (w *world) forge(s *shot) error {
	p := s.packet
	// Conntrack begins a connection with an acknowledgement too, and listeners keep nothing of one.
	seg := segment{protocol: p.Protocol, source: p.Source, destination: p.Destination, flags: tcpACK, payload: []byte(s.id)}
	codePoint := uint8(0)
	if p.State == rules.StateInvalid {
		seg.flags = tcpRST // no connection begins so
	}
	if types, ok := echoes[p.Protocol]; ok {
		seg.flags = types[0]
		if p.State == rules.StateInvalid {
			seg.flags = types[1]
		}
	}
	if p.State == rules.StateUntracked {
		codePoint = untracked
	}
	data := seg.bytes(codePoint, p.State == rules.StateInvalid)
	family := familyOf(p.Source.Addr())
	if p.Direction == rules.Inbound {
		return w.put(p.In, p.Source.Addr(), data)
	}
	err := owned(p.UID, p.GID, func() (err error) {
		s.fd, err = open(family, unix.SOCK_RAW, unix.IPPROTO_RAW, option{unix.SOL_SOCKET, unix.SO_MARK, int(p.Mark)})
		return err
	})
	if err != nil {
		return err
	}
	err = unix.Sendto(s.fd, data, 0, sockaddr(netip.AddrPortFrom(p.Destination.Addr(), 0), 0))
	if err != nil && !errors.Is(err, unix.EPERM) { // which says that it was dropped on its way out
		return fmt.Errorf("send by raw socket: %w", err)
	}
	return nil
}

// put puts a packet of an address's family on a cable, at the peer's end.
func (w *world) put(name string, address netip.Addr, packet []byte) error {
	n, ok := number(name)
	if !ok {
		return fmt.Errorf("there is no cable %s", name)
	}
	protocol := uint16(unix.ETH_P_IP)
	if address.Is6() {
		protocol = unix.ETH_P_IPV6
	}
	to := &unix.SockaddrLinklayer{Protocol: networkOrder(protocol), Ifindex: w.index[name], Halen: 6, Addr: hardware(n)}
	if err := unix.Sendto(w.plug, packet, 0, to); err != nil {
		return fmt.Errorf("put on cable %s: %w", name, err)
	}
	return nil
}

// refused reports whether the sender was answered that nobody takes it.
func (s *shot) refused() bool {
	if !s.way.listened() {
		return false
	}
	value, err := unix.GetsockoptInt(s.fd, unix.SOL_SOCKET, unix.SO_ERROR)
	return err == nil && (value == int(unix.ECONNREFUSED) || value == int(unix.ECONNRESET))
}

func (s *shot) close() {
	for _, fd := range []int{s.fd, s.server} {
		if fd >= 0 {
			abort(fd)
		}
	}
	s.fd, s.server = -1, -1
}
