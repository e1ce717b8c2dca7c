// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

const (
	arrivalTime = 200 * time.Millisecond // for a packet to come to its listener
	allPatience = time.Second            // for a whole run; a busy kernel is late for a few packets only
	leastTime   = 5 * time.Millisecond   // for a packet once that is used up
	lookPause   = time.Millisecond
)

// run is one visit to a namespace.
type run struct {
	scene
	plan     rules.Plan
	tracer   *effect.Tracer
	users    users
	counting bool
	injector *injector
	arrives  error // why nothing can be made to arrive
	told     bool  // whether that was reported
	patience time.Duration
}

func newRun(ns *netns.Namespace, plan rules.Plan, counting bool) (*run, error) {
	s, err := look()
	if err != nil {
		return nil, err
	}
	r := &run{scene: s, plan: plan, tracer: effect.NewTracer(plan, s.interfaces), counting: counting, patience: allPatience}
	if r.users, err = usersOf(ns); err != nil {
		return nil, err
	}
	r.injector, r.arrives = openInjector()
	return r, nil
}

func (r *run) close() {
	if r.injector != nil {
		r.injector.Close()
	}
}

// check sends one packet; fresh is false where there is nothing to say, or only what was said already.
func (r *run) check(p probe) (c Check, fresh bool) {
	c, err := Check{About: p.about, Packet: p.packet}, p.err
	if err == nil {
		c.Rules, err = r.tracer.Trace(p.packet)
	}
	if p.packet.Direction == rules.Inbound && c.Rules.End.Kind == rules.Leaves {
		return Check{}, false // the pod would forward it, to somebody else
	}
	if err == nil {
		err = r.try(&c)
	}
	if err == nil {
		return c, true
	}
	fresh = true
	if p.packet.Direction == rules.Inbound && r.arrives != nil {
		fresh, r.told = !r.told, true
	}
	return Check{About: p.about, Verdict: Unproven, Note: err.Error()}, fresh
}

// try sends the packet and looks until it is where it should be, or no more can come.
func (r *run) try(c *Check) error {
	n := names(r.plan.V4)
	if c.Packet.Family() == rules.IPv6 {
		n = names(r.plan.V6)
	}
	zones := unique([]uint16{c.Rules.End.Zone, 0}, n.zones)
	before, err := r.waiting()
	if err != nil {
		return err
	}
	out, err := r.send(&c.Packet, c.Rules.End, zones)
	if err != nil {
		return err
	}
	defer out.release()
	c.Rules.Packet, c.Rules.End.Original = c.Packet, c.Packet.Destination
	s := sighting{refused: out.refused, local: r.local}
	began, limit := time.Now(), max(min(arrivalTime, r.patience), leastTime)
	for ; ; time.Sleep(lookPause) {
		if s.listeners, err = r.waiting(); err != nil {
			return err
		}
		s.given = counted(before, s.listeners)
		if s.entry, err = conntrack.Find(c.Packet, zones); err != nil {
			return err
		}
		c.Seen, c.Verdict, c.Note = judge(c.Packet, c.Rules.End, s, abilities{tracking: n.tracking, counting: r.counting})
		if c.Verdict == Right || s.final(c.Packet, c.Rules.End) || time.Since(began) > limit {
			break
		}
	}
	if c.Verdict != Right {
		r.patience -= time.Since(began)
	}
	if err := r.takeBack(c.Packet, out.sequence, s.entry); err != nil {
		c.Note = err.Error()
	}
	return nil
}

// tracks reports whether the kernel tracks connections of a family here, which one over loopback shows.
func (r *run) tracks(f rules.Family) bool {
	home := netip.AddrPortFrom(f.Loopback(), 0)
	p := rules.Packet{Protocol: rules.TCP, Source: home, Destination: netip.AddrPortFrom(f.Loopback(), firstQuiet)}
	removed := false
	found, err := shows(&p, func() (bool, error) {
		e, err := conntrack.Find(p, []uint16{0})
		if e != nil {
			removed = conntrack.Forget(p, 0) == nil
		}
		return e != nil, err
	})
	return err == nil && found && removed
}

// takeBack removes all traces of a packet. Where this kernel ignores signatures a listener may have answered it: a reset,
// which goes the same way as long as the connection is tracked, ends that.
func (r *run) takeBack(p rules.Packet, sequence uint32, e *conntrack.Entry) error {
	if p.Direction == rules.Inbound && !r.counting {
		if err := r.give(p, form{flags: flagRST, sequence: sequence + 1, hops: anyHop, unsigned: true}); err != nil {
			return err
		}
	}
	if e == nil {
		return nil
	}
	return conntrack.Forget(p, e.Zone)
}

// waiting returns the pod's listeners, where this kernel shows what they are given.
func (r *run) waiting() ([]listener, error) {
	if !r.counting {
		return nil, nil
	}
	return readListeners()
}

// sent is a packet on its way.
type sent struct {
	sequence uint32
	refused  bool   // it was answered with a reset
	release  func() // gives its source port up
}

// send sends the packet, and fills in its source port.
func (r *run) send(p *rules.Packet, want rules.End, zones []uint16) (out sent, err error) {
	out = sent{sequence: rand.Uint32(), release: func() {}}
	if p.Direction == rules.Inbound {
		return out, r.arrive(p, out.sequence, zones)
	}
	uid, gid, err := r.users.outside(p.UID, p.GID)
	if err != nil {
		return out, err
	}
	if want.Kind == rules.Refused {
		began := time.Now()
		if out.refused, out.release, err = connect(p, uid, gid, max(answerTime, r.patience)); !out.refused {
			r.patience -= time.Since(began)
		}
		return out, err
	}
	if out.release, err = reserve(p); err != nil {
		return out, err
	}
	packet := encode(*p, form{flags: flagSYN, sequence: out.sequence, hops: firstHop,
		spoilt: want.Kind == rules.Leaves || p.Protocol == rules.UDP})
	if err := sendRaw(*p, uid, gid, packet); err != nil {
		out.release()
		return out, fmt.Errorf("send %s: %w", *p, err)
	}
	return out, nil
}

// arrive lets the packet arrive by its interface, from a port of which the kernel knows no connection.
func (r *run) arrive(p *rules.Packet, sequence uint32, zones []uint16) error {
	if r.arrives != nil {
		return r.arrives
	}
	for {
		p.Source = netip.AddrPortFrom(p.Source.Addr(), uint16(anyPort+rand.IntN(20000)))
		known, err := conntrack.Find(*p, zones)
		if err != nil {
			return err
		}
		if known == nil {
			break
		}
	}
	r.arrives = r.give(*p, form{flags: flagSYN, sequence: sequence, hops: anyHop})
	return r.arrives
}

func (r *run) give(p rules.Packet, f form) error {
	l := r.links[p.In]
	return r.injector.inject(l.index, frame(l.mac, p, encode(p, f)))
}
