// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// discard is the port that markers are sent to.
const discard = 9

var (
	markerSource = netip.MustParseAddrPort("198.18.0.1:0")
	markerInPod  = netip.MustParseAddrPort("10.244.1.7:9")
	markerInPeer = netip.MustParseAddrPort("198.18.0.2:9")
)

// openMarkers makes the sockets that markers are sent by. They belong to no connection, so that nat leaves
// them alone, whatever the rules.
func (g *gallery) openMarkers() error {
	apart := option{unix.SOL_IP, unix.IP_TOS, untracked << 2}
	err := g.pod.do(func() (err error) {
		g.markers[""], err = open(unix.AF_INET, unix.SOCK_DGRAM, 0, apart)
		return err
	})
	if err != nil {
		return err
	}
	return g.peer.do(func() error {
		for i, c := range cables {
			fd, err := open(unix.AF_INET, unix.SOCK_DGRAM, 0, append(transparent(unix.AF_INET), apart, option{unix.SOL_SOCKET, unix.SO_MARK, i + 1})...)
			if err != nil {
				return err
			}
			g.markers[c.name] = fd
			if err := unix.Bind(fd, sockaddr(markerSource, 0)); err != nil {
				return fmt.Errorf("bind marker: %w", err)
			}
		}
		return nil
	})
}

// evidence is everything that was seen of the packets of a round.
type evidence struct {
	gallery  *gallery
	pod      []sighting
	peer     []sighting
	arrivals []arrival // in the pod
	table    map[connectionKey][]connection
	err      error
}

// gather sends markers on every way that packets went, and reads until it has seen them all. Whatever became
// of the packets before them has been seen then, and what was not seen is nowhere.
func (g *gallery) gather() (*evidence, error) {
	e := &evidence{gallery: g}
	g.shots++
	marker := fmt.Sprintf("marker-%d.", g.shots)
	err := g.pod.do(func() error {
		for _, to := range []netip.AddrPort{markerInPod, markerInPeer} {
			if err := unix.Sendto(g.markers[""], []byte(marker), 0, sockaddr(to, 0)); err != nil {
				return fmt.Errorf("send marker to %s: %w", to, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	err = g.peer.do(func() error {
		for _, c := range cables {
			if err := unix.Sendto(g.markers[c.name], []byte(marker), 0, sockaddr(markerInPod, 0)); err != nil {
				return fmt.Errorf("send marker by %s: %w", c.name, err)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	isMarker := func(s sighting) bool { return s.delivered && string(s.payload) == marker }
	if e.pod, err = g.podTaps.until(isMarker, 1+len(cables)); err != nil {
		return nil, fmt.Errorf("markers in the pod: %w", err)
	}
	if e.peer, err = g.peerTaps.until(isMarker, 1); err != nil {
		return nil, fmt.Errorf("marker in the peer: %w", err)
	}
	more, err := g.podTaps.read() // the taps are several, and the markers were seen by one
	if err != nil {
		return nil, err
	}
	e.pod = append(e.pod, more...)
	if more, err = g.peerTaps.read(); err != nil {
		return nil, err
	}
	e.peer = append(e.peer, more...)
	if e.arrivals, err = g.inPod.take(); err != nil {
		return nil, err
	}
	err = g.pod.do(func() (err error) {
		e.table, err = connections()
		return err
	})
	return e, err
}

// until reads until so many of what is waited for have come.
func (t *taps) until(wanted func(sighting) bool, count int) ([]sighting, error) {
	var all []sighting
	for {
		seen, err := t.read()
		if err != nil {
			return nil, err
		}
		for _, s := range seen {
			if wanted(s) {
				count--
			}
		}
		all = append(all, seen...)
		if count <= 0 {
			return all, nil
		}
		if err := t.wait(patience); err != nil {
			return nil, fmt.Errorf("%d are missing: %w", count, err)
		}
	}
}

// shows reports whether what was seen is the packet that was shot.
func (s *shot) shows(seen segment) bool {
	if s.way == byReset {
		return seen.protocol == rules.TCP && seen.source == s.packet.Source && seen.flags&tcpRST != 0
	}
	if s.way == byConnect {
		return seen.protocol == rules.TCP && seen.source == s.packet.Source && seen.flags&(tcpSYN|tcpACK) == tcpSYN
	}
	if types, ok := echoes[seen.protocol]; ok {
		asked := seen.flags == types[0] && s.packet.State != rules.StateInvalid || seen.flags == types[1] && s.packet.State == rules.StateInvalid
		return asked && seen.protocol == s.packet.Protocol && strings.Contains(string(seen.payload), s.id) // else an answer
	}
	return seen.protocol == s.packet.Protocol && strings.Contains(string(seen.payload), s.id)
}

// judge tells what became of a packet.
func (e *evidence) judge(s *shot) {
	var in, out *sighting
	for i, seen := range e.pod {
		if !s.shows(seen.segment) || strings.HasPrefix(seen.name, "vx") { // what a tunnel wraps is not the packet
			continue
		}
		s.seen = append(s.seen, seen)
		switch {
		case seen.source != s.packet.Source:
			s.got.kind = "its source was changed to " + seen.source.String()
			return
		case seen.delivered:
			in = &e.pod[i]
		case seen.name != "lo":
			out = &e.pod[i]
		}
	}
	switch {
	case in != nil && out != nil:
		s.got.kind = "delivered, and left as well"
	case in != nil:
		s.got = outcome{kind: delivered, to: in.destination}
		e.listener(s)
		e.connection(s)
	case out != nil:
		s.got = outcome{kind: left, to: out.destination, by: out.name}
		e.received(s)
		e.connection(s)
	case s.refused():
		s.got = outcome{kind: reset}
	default:
		s.got = outcome{kind: dropped}
	}
}

// connection adds what the table of connections tells.
func (e *evidence) connection(s *shot) {
	s.got.original = s.packet.Destination
	found := e.table[connectionKey{s.packet.Protocol, s.packet.Source, s.packet.Destination}]
	if s.way.listened() && len(found) == 0 && s.got.to != s.packet.Destination { // a reset ends what was forged
		s.got.kind += ", and nothing knows the original destination"
	}
	if s.packet.Protocol != rules.TCP && s.packet.Protocol != rules.UDP { // the table is read of no others
		s.want.connMark = 0
	}
	for _, c := range found {
		s.seen = append(s.seen, c)
		s.got.zone, s.got.connMark = c.zone, c.mark
		switch {
		case c.to != s.got.to:
			s.got.kind += fmt.Sprintf(", but the connection says to %s", c.to)
		case c.answers != s.packet.Source:
			s.got.kind += fmt.Sprintf(", but the connection says that it came from %s", c.answers)
		}
	}
}

// nobodys is the kind of a packet that arrives, and nobody is told.
const nobodys = "came through INPUT, and no listener has it"

// listener adds which listener of the pod has it.
func (e *evidence) listener(s *shot) {
	if !s.way.listened() {
		return
	}
	switch {
	case s.way != byData:
	case s.path.End.Kind == rules.TProxied && !s.packet.Transparent: // a connection of others: nobody is told of it but the sender, by a reset
		s.got.listener = s.want.listener
		return
	default: // its socket was there before
		s.got.listener = s.got.to.Port()
		return
	}
	a, ok := e.arrival(s)
	if !ok {
		s.got.kind = nobodys
		return
	}
	s.got.listener = a.listener
	told := s.packet.Destination
	if s.want.zone != 0 { // which the kernel does not ask on behalf of a socket
		told = netip.AddrPort{}
	}
	switch {
	case a.local != s.got.to:
		s.got.kind += fmt.Sprintf(", but the listener is told %s", a.local)
	case a.source != s.packet.Source:
		s.got.kind += fmt.Sprintf(", but the listener is told that it came from %s", a.source)
	case s.way == byConnect && a.original != told:
		s.got.kind += fmt.Sprintf(", but the original destination is told as %s", a.original)
	}
}

// arrival waits for what a listener of the pod got of the packet.
func (e *evidence) arrival(s *shot) (arrival, bool) {
	for {
		for _, a := range e.arrivals {
			if a.protocol == s.packet.Protocol && a.source == s.packet.Source && (a.fd >= 0 || a.payload == s.id) {
				return a, true
			}
		}
		if err := e.gallery.inPod.wait(e.gallery.wait); err != nil {
			return arrival{}, false
		}
		more, err := e.gallery.inPod.take()
		if err != nil {
			e.err = err
			return arrival{}, false
		}
		e.arrivals = append(e.arrivals, more...)
	}
}

// received makes sure that the peer got what left the pod. It does not take what comes from a loopback address.
func (e *evidence) received(s *shot) {
	if s.packet.Source.Addr().IsLoopback() {
		return
	}
	got := func(seen sighting) bool {
		return seen.delivered && s.shows(seen.segment) && seen.destination == s.got.to && seen.name == s.got.by
	}
	if i := slices.IndexFunc(e.peer, got); i < 0 {
		s.got.kind = "left, and did not come to the peer"
	}
}

// close ends the connections that listeners of the pod got.
func (e *evidence) close() {
	for _, a := range e.arrivals {
		if a.fd >= 0 {
			abort(a.fd)
		}
	}
}
