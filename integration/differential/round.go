// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// patience is how long something that is certain to come is waited for, in milliseconds.
const patience = 5000

// gallery has everything that sends and sees.
type gallery struct {
	*world
	firewall          kernel.Firewall
	ns                *netns.Namespace // the pod's, for the firewall
	podTaps, peerTaps *taps
	inPod, inPeer     *listeners
	port              uint16 // the last of its own that a connection was given
	shots             int
	wait              int            // for a listener that should have got something, in milliseconds
	markers           map[string]int // sockets by interface; "" is the pod's
}

func newGallery(t testing.TB, firewall kernel.Firewall) *gallery {
	t.Helper()
	w := newWorld(t)
	g := &gallery{world: w, firewall: firewall, port: firstPort, wait: patience, markers: map[string]int{}}
	var err error
	fail := func() {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	g.ns, err = netns.Open(w.path, nil)
	fail()
	g.podTaps, err = w.pod.openTaps()
	fail()
	g.peerTaps, err = w.peer.openTaps()
	fail()
	g.inPod, g.inPeer = newListeners(w.pod), newListeners(w.peer, option{unix.SOL_SOCKET, unix.SO_MARK, 1})
	err = errors.Join(g.inPod.ensure(discard), g.inPeer.ensure(discard), g.openMarkers())
	fail()
	t.Cleanup(func() {
		g.ns.Close()
		g.podTaps.close()
		g.peerTaps.close()
		g.inPod.close()
		g.inPeer.close()
		for _, fd := range g.markers {
			_ = unix.Close(fd)
		}
	})
	return g
}

// Connections get ports of their own from these, which no rule names: what is seen is known by its source.
const firstPort, lastPort = 30000, 60999

func (g *gallery) freshPort() uint16 {
	g.port++
	if g.port > lastPort {
		g.port = firstPort
	}
	return g.port
}

// write makes the pod's rules those of a plan.
func (g *gallery) write(ctx context.Context, plan rules.Plan) error {
	if _, err := g.firewall.Apply(ctx, g.ns, plan); err != nil {
		return fmt.Errorf("write the rules: %w", err)
	}
	return g.ns.Do(func() error {
		h := routing.Open()
		defer h.Close()
		if _, err := h.Apply(plan); err != nil {
			return err
		}
		return settled(plan.Loopback)
	})
}

// settled waits until the kernel routes to new addresses of IPv6: it thinks about them for a moment.
func settled(addresses []netip.Prefix) error {
	deadline := time.Now().Add(patience * time.Millisecond)
	for _, a := range addresses {
		for {
			routes, err := netlink.RouteGet(a.Addr().AsSlice())
			if err == nil && len(routes) == 1 && routes[0].Type == unix.RTN_LOCAL {
				break
			}
			if time.Now().After(deadline) {
				return fmt.Errorf("%s is not the pod's own: %v %w", a, routes, err)
			}
			runtime.Gosched()
		}
	}
	return nil
}

// fire asks the tracer about packets and a plan, writes rules, which are the plan's unless it shall be seen
// that they are not, sends the packets, and tells what became of each. Of packets that could not be told apart
// only the first is sent.
func (g *gallery) fire(ctx context.Context, plan, written rules.Plan, packets []rules.Packet) ([]*shot, error) {
	shots, err := g.aim(plan, packets)
	if err != nil {
		return nil, err
	}
	defer func() {
		for _, s := range shots {
			s.close()
		}
	}()
	if err := errors.Join(g.write(ctx, rules.Plan{Footprint: plan.Footprint}), g.leaveBy("eth0"), g.pod.do(forget)); err != nil {
		return nil, err
	}
	if err := g.establish(shots); err != nil {
		return nil, fmt.Errorf("connections before the rules: %w", err)
	}
	if err := g.write(ctx, written); err != nil {
		return nil, err
	}
	if err := g.clear(); err != nil {
		return nil, err
	}
	if err := g.sendAll(shots); err != nil {
		return nil, err
	}
	e, err := g.gather()
	if err != nil {
		return nil, err
	}
	defer e.close()
	for _, s := range shots {
		if s.cannot == "" {
			e.judge(s)
		}
	}
	return shots, e.err
}

// aim asks the tracer, and sees to it that there are listeners wherever a packet may be meant to go.
func (g *gallery) aim(plan rules.Plan, packets []rules.Packet) ([]*shot, error) {
	var shots []*shot
	var ports []uint16
	ends, tracer := endpoints{}, effect.NewTracer(plan, g.interfaces)
	for _, p := range packets {
		s := &shot{packet: p, fd: -1, server: -1}
		s.way, s.cannot = g.wayOf(plan, p)
		if s.way == byTunnel {
			s.packet.Source = tunnels[p.Source.Addr().Is6()].source
		} else if s.way != byDatagram || !namesPort(plan, p.Source.Port()) {
			s.packet.Source = netip.AddrPortFrom(p.Source.Addr(), g.freshPort())
		}
		g.shots++
		s.id = fmt.Sprintf("shot-%d.", g.shots)
		if s.packet.Source == s.packet.Destination {
			s.cannot = "to itself"
		}
		var err error
		if s.path, err = tracer.Trace(s.packet); err != nil {
			return nil, err
		}
		if s.way == byData && zoned(s.path) {
			s.cannot = alreadyZoned
		}
		s.want = wanted(s.path.End, s.way)
		if s.cannot == "" && !ends.free(s) {
			s.cannot = sameSource
		}
		ports = append(ports, p.Destination.Port(), s.path.End.Port)
		shots = append(shots, s)
	}
	return shots, errors.Join(g.inPod.ensure(ports...), g.inPeer.ensure(ports...))
}

// endpoints are addresses that packets of a round come from and go to.
type endpoints map[string]bool

// free reports whether nobody has the packet's source, as another source or by answering from it, and takes it.
func (e endpoints) free(s *shot) bool {
	key := func(role string, a netip.AddrPort) string { return s.packet.Protocol + role + a.String() }
	from := s.packet.Source
	if e[key("from", from)] || e[key("to", from)] || e[key("from", s.packet.Destination)] || e[key("from", s.path.End.To)] {
		return false
	}
	e[key("from", from)], e[key("to", s.packet.Destination)], e[key("to", s.path.End.To)] = true, true, true
	return true
}

// Why a packet of a round is not sent.
const (
	sameSource   = "another of the round has its source, or goes there"
	alreadyZoned = "established, and in a zone by a rule: there it is not"
)

// zoned reports whether a rule chose a zone, or would have if none were chosen yet.
func zoned(path rules.Path) bool {
	return slices.ContainsFunc(path.Steps, func(s rules.Step) bool { _, ok := s.Rule.Target.(rules.CTZone); return ok })
}

// namesPort reports whether a rule asks for a source port near this one.
func namesPort(plan rules.Plan, port uint16) bool {
	for _, rs := range plan.Rulesets() {
		for _, t := range rs.Tables {
			for _, c := range t.Chains {
				for _, r := range c.Rules {
					for _, m := range r.On(rules.FieldSourcePort) {
						if port-m.Ports()[0].First+1 <= 2 {
							return true
						}
					}
				}
			}
		}
	}
	return false
}

// clear throws away what was seen and has arrived so far.
func (g *gallery) clear() error {
	for _, t := range []*taps{g.podTaps, g.peerTaps} {
		if _, err := t.read(); err != nil {
			return err
		}
	}
	for _, l := range []*listeners{g.inPod, g.inPeer} {
		arrivals, err := l.take()
		if err != nil {
			return err
		}
		for _, a := range arrivals {
			if a.fd >= 0 {
				abort(a.fd)
			}
		}
	}
	return nil
}

// sendAll sends one packet after the other, those of one way out of the pod together.
func (g *gallery) sendAll(shots []*shot) error {
	ordered := slices.Clone(shots)
	slices.SortStableFunc(ordered, func(a, b *shot) int { return strings.Compare(a.packet.Out, b.packet.Out) })
	out := "eth0"
	for _, s := range ordered {
		if s.cannot != "" {
			continue
		}
		if s.packet.Out != "" && s.packet.Out != out {
			if err := g.leaveBy(s.packet.Out); err != nil {
				return err
			}
			out = s.packet.Out
		}
		if err := g.send(s); err != nil {
			return fmt.Errorf("%s: %w", s.packet, err)
		}
	}
	return nil
}
