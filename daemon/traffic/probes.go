// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// probe is a packet that shows something. Its source port is chosen when it is sent.
type probe struct {
	about  string
	packet rules.Packet
	err    error // why it cannot be sent; then there is no packet
}

const (
	firstQuiet    = 62000 // beyond the ports that the kernel gives to clients
	mostListeners = 64    // of a pod whose ports are tried
	anyPort       = 40000 // stands for the source port that is not chosen yet
)

// usual are ports that any redirection is likely to cover.
var usual = []uint16{80, 443}

// probes returns what to send in a pod: a packet for each owner, address, range and port that the rules name, and for ones
// that they do not. The tracer tells what should become of each.
func probes(plan rules.Plan, s scene) []probe {
	var all []probe
	for _, set := range plan.Rulesets() {
		if set.Empty() {
			continue
		}
		f := newFamily(set, s)
		f.routed = slices.ContainsFunc(plan.Routes, func(r rules.PolicyRoute) bool { return r.Family == set.Family })
		f.outbound()
		f.inbound()
		all = append(all, f.probes...)
	}
	return all
}

// family collects the probes of one family.
type family struct {
	scene
	named
	kind    rules.Family
	outside netip.Addr
	quiet   uint16 // a port that the rules do not name and nobody listens on
	app     owner
	routed  bool // the plan has a route of its own
	probes  []probe
}

type owner struct {
	name     string
	uid, gid uint32
}

func newFamily(set rules.Ruleset, s scene) *family {
	f := &family{scene: s, named: names(set), kind: set.Family}
	f.outside = s.outside(set.Family, f.ranges)
	f.app = owner{"the app", stranger(f.uids), stranger(f.gids)}
	f.quiet = firstQuiet
	for slices.Contains(f.tcp, f.quiet) || slices.Contains(f.udp, f.quiet) ||
		slices.ContainsFunc(s.listeners, func(l listener) bool { return l.at.Port() == f.quiet }) {
		f.quiet++
	}
	return f
}

// stranger returns the id of an ordinary user whom the rules do not name.
func stranger(ids []uint32) uint32 {
	id := uint32(1000)
	for slices.Contains(ids, id) {
		id++
	}
	return id
}

// others returns the owners whom the rules name.
func (f *family) others() []owner {
	var all []owner
	for _, uid := range f.uids {
		all = append(all, owner{fmt.Sprintf("user %d", uid), uid, f.app.gid})
	}
	for _, gid := range f.gids {
		all = append(all, owner{fmt.Sprintf("group %d", gid), f.app.uid, gid})
	}
	return all
}

func (f *family) outbound() {
	for _, port := range unique([]uint16{f.quiet}, usual, f.tcp) {
		f.send("out of the pod", f.app, rules.TCP, f.outside, port)
	}
	for _, port := range unique([]uint16{f.quiet}, f.udp) {
		f.send("out of the pod", f.app, rules.UDP, f.outside, port)
	}
	for _, o := range f.others() {
		f.send("out of the pod", o, rules.TCP, f.outside, f.quiet)
		for _, port := range f.udp {
			f.send("out of the pod", o, rules.UDP, f.outside, port)
		}
	}
	for _, prefix := range f.ranges {
		if to := within(prefix); !f.local(to) {
			f.send("to "+prefix.String(), f.app, rules.TCP, to, f.quiet)
		}
	}
	for _, name := range f.outs {
		f.cannot("out by "+name, fmt.Errorf("no packet is sent by %s: nobody is known behind it", name))
	}
	f.inside()
}

// inside adds packets that stay in the pod.
func (f *family) inside() {
	if w, err := f.route(f.outside); err == nil {
		if err := f.inUse(w.source); err != nil {
			f.cannot("to the pod's own address", err)
		} else {
			for _, o := range append([]owner{f.app}, f.others()...) {
				f.send("to the pod's own address", o, rules.TCP, w.source, f.quiet)
			}
		}
	}
	lo := f.kind.Loopback()
	f.sendFrom("over loopback", f.app, rules.TCP, way{loopback, lo, true}, lo, f.quiet)
	for _, special := range f.sources {
		if !f.local(special) {
			continue
		}
		if err := f.inUse(special); err != nil {
			f.cannot("over loopback by "+special.String(), err)
			continue
		}
		for _, o := range f.others() {
			f.sendFrom("over loopback", o, rules.TCP, way{loopback, special, true}, lo, f.quiet)
			f.sendFrom("over loopback", o, rules.TCP, way{loopback, lo, true}, special, f.quiet)
		}
	}
}

func (f *family) send(about string, o owner, protocol string, to netip.Addr, port uint16) {
	w, err := f.route(to)
	if err != nil {
		f.cannot(fmt.Sprintf("%s, %s", o.name, about), err)
		return
	}
	f.sendFrom(about, o, protocol, w, to, port)
}

func (f *family) sendFrom(about string, o owner, protocol string, w way, to netip.Addr, port uint16) {
	f.add(fmt.Sprintf("%s, %s", o.name, about), rules.Packet{Direction: rules.Outbound, Protocol: protocol,
		Source: netip.AddrPortFrom(w.source, anyPort), Destination: netip.AddrPortFrom(to, port),
		Out: w.out, Socket: true, UID: o.uid, GID: o.gid})
}

func (f *family) inbound() {
	names := slices.Clone(f.ins)
	if w, err := f.route(f.outside); err == nil && !slices.Contains(names, w.out) {
		names = append([]string{w.out}, names...)
	}
	for _, name := range names {
		own := f.own(name, f.kind)
		switch {
		case name == loopback:
		case f.links[name].mac == nil || !own.IsValid():
			f.cannot("into the pod by "+name, cannotArrive(name))
		case f.inUse(own) != nil:
			f.cannot("into the pod by "+name, f.inUse(own))
		default:
			for _, port := range unique([]uint16{f.quiet}, usual, f.tcp, f.listening(own)) {
				f.arrive("into the pod", name, netip.AddrPortFrom(own, port))
			}
			if f.routed { // only a packet for somebody else needs the route that brings it to the proxy
				others := slices.DeleteFunc(slices.Clone(documentation[f.kind]), func(a netip.Addr) bool { return a == f.outside })
				f.arrive("through the pod", name, netip.AddrPortFrom(others[0], f.quiet))
			}
		}
	}
}

func (f *family) arrive(about, name string, to netip.AddrPort) {
	f.add(about, rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, In: name,
		Source: netip.AddrPortFrom(f.neighbour(name, f.kind, f.outside), anyPort), Destination: to})
}

// listening returns the ports of the pod's own listeners on an address.
func (f *family) listening(own netip.Addr) []uint16 {
	var ports []uint16
	for _, l := range f.listeners {
		if port := l.at.Port(); l.hears(netip.AddrPortFrom(own, port)) && len(ports) < mostListeners {
			ports = append(ports, port)
		}
	}
	return ports
}

func (f *family) add(about string, p rules.Packet) {
	f.probes = append(f.probes, probe{about: about, packet: p})
}

// cannot adds a probe that reports an error instead of sending a packet, once for each error.
func (f *family) cannot(about string, err error) {
	if !slices.ContainsFunc(f.probes, func(p probe) bool { return p.about == about && p.err != nil }) {
		f.probes = append(f.probes, probe{about: about, err: err})
	}
}

// sendable is the probe for a packet that somebody else has thought of.
func (s scene) sendable(p rules.Packet) probe {
	to := p.Destination.Addr()
	switch {
	case p.Protocol != rules.TCP && p.Protocol != rules.UDP:
		return probe{err: fmt.Errorf("nothing of %s is sent here", p.Protocol)}
	case p.Direction == rules.Outbound:
		w, err := s.route(to)
		if err == nil && s.local(to) {
			err = s.inUse(to)
		}
		if err != nil {
			return probe{err: err}
		}
		if p.Out = w.out; !s.local(p.Source.Addr()) {
			p.Source = netip.AddrPortFrom(w.source, anyPort)
		}
	case p.Protocol != rules.TCP:
		return probe{err: errors.New("only TCP can be made to arrive so that no app takes it")}
	case s.links[p.In].mac == nil:
		return probe{err: cannotArrive(p.In)}
	default:
		p.Source = netip.AddrPortFrom(s.neighbour(p.In, p.Family(), p.Source.Addr()), anyPort)
	}
	return probe{packet: p}
}

func cannotArrive(name string) error {
	return fmt.Errorf("no packet can arrive by %s: it is not there, not up, no Ethernet, or without an address of this family", name)
}

// within returns an address of a range, the first that can be a host's.
func within(prefix netip.Prefix) netip.Addr {
	first := prefix.Masked().Addr()
	if next := first.Next(); prefix.Bits() < first.BitLen()-1 && prefix.Contains(next) {
		return next
	}
	return first
}

func unique[T comparable](lists ...[]T) []T { return rules.Unique(slices.Concat(lists...)) }
