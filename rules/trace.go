// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
)

// Trace walks a packet through the plan in a pod that has these interfaces (lo needs no mention), and tells
// what becomes of it. It assumes that the listeners are there, and that chains of others let pass what the
// plan does not stop. A rule of somebody else on the way, a rule that the kernel would refuse where it
// stands, and a packet that cannot exist are errors: nothing is guessed.
//
// The order is the kernel's (include/uapi/linux/netfilter_ipv4.h; the IPv6 hooks are the same): raw,
// connection tracking, mangle, nat of the destination, filter, nat of the source.
func (p Plan) Trace(packet Packet, interfaces []Interface) (Path, error) {
	if packet.State == 0 {
		packet.State = StateNew
	}
	if err := packet.check(); err != nil {
		return Path{}, fmt.Errorf("trace %s: %w", packet, err)
	}
	t := trace{plan: p, rules: p.V4, interfaces: interfaces, packet: packet, state: packet.State, connMark: packet.ConnMark,
		path: Path{Packet: packet}}
	if packet.Family() == IPv6 {
		t.rules = p.V6
	}
	walk := t.outbound
	if packet.Direction == Inbound {
		walk = t.inbound
	}
	if err := walk(); err != nil {
		return t.path, fmt.Errorf("trace %s: %w", packet, err)
	}
	return t.path, nil
}

// trace is a packet on its way.
type trace struct {
	plan       Plan
	rules      Ruleset
	interfaces []Interface
	packet     Packet // as it is now
	path       Path

	state    CTState // of the connection, which the packet shows only once it is tracked
	connMark uint32

	zoned       bool // a rule of raw has chosen the zone
	looped      bool // it was received on lo
	destination bool // nat has settled the connection's destination
	source      bool // and its source
	redirected  bool
	held        bool   // by a socket that TPROXY gave it to
	listener    uint16 // that TPROXY has chosen
	done        bool
}

// outbound is __ip_local_out and ip_output (net/ipv4/ip_output.c).
func (t *trace) outbound() error {
	out, err := t.route()
	if err != nil {
		return err
	}
	t.packet.In, t.packet.Out = "", out
	if err := t.track("OUTPUT"); err != nil || t.done {
		return err
	}
	mark, dst := t.packet.Mark, t.packet.Destination.Addr()
	if err := t.table("mangle", "OUTPUT"); err != nil || t.done {
		return err
	}
	// A changed mark or address is routed again (net/ipv4/netfilter/iptable_mangle.c, net/netfilter/nf_nat_proto.c),
	// but the rules of OUTPUT go on seeing the first interface.
	if t.packet.Mark != mark {
		if out, err = t.route(); err != nil {
			return err
		}
	}
	if err := t.nat("OUTPUT"); err != nil || t.done {
		return err
	}
	if t.packet.Destination.Addr() != dst {
		if out, err = t.route(); err != nil {
			return err
		}
	}
	if err := t.table("filter", "OUTPUT"); err != nil || t.done {
		return err
	}
	if out != t.packet.Out {
		t.note("routed again: now by " + out)
	}
	t.packet.Out = out
	if err := t.postrouting(); err != nil || t.done {
		return err
	}
	if out == loopback {
		return t.loop()
	}
	t.leave()
	return nil
}

func (t *trace) postrouting() error {
	if err := t.table("mangle", "POSTROUTING"); err != nil || t.done {
		return err
	}
	return t.nat("POSTROUTING")
}

// loop receives a packet on lo that was sent on lo. It keeps its mark, its connection and its route
// (drivers/net/loopback.c): it is neither tracked nor routed again, and nat, which was applied when it was sent, does not
// run again.
func (t *trace) loop() error {
	t.note("comes back in by lo")
	t.looped = true
	t.packet.In, t.packet.Out = loopback, ""
	if err := t.tables("PREROUTING", "raw", "mangle"); err != nil || t.done {
		return err
	}
	return t.deliver()
}

// inbound is ip_rcv (net/ipv4/ip_input.c) and ipv6_rcv.
func (t *trace) inbound() error {
	t.packet.Out, t.packet.UID, t.packet.GID = "", 0, 0
	if t.packet.Family() == IPv6 && t.fromOutsideLoopback() {
		t.end(Dropped, "a loopback address cannot come by "+t.packet.In)
		return nil
	}
	if err := t.track("PREROUTING"); err != nil || t.done {
		return err
	}
	if err := t.table("mangle", "PREROUTING"); err != nil || t.done {
		return err
	}
	if err := t.nat("PREROUTING"); err != nil || t.done {
		return err
	}
	if t.fromOutsideLoopback() { // ip_route_input_slow in net/ipv4/route.c
		t.end(Dropped, "a loopback address cannot come by "+t.packet.In)
		return nil
	}
	switch {
	case t.local():
		return t.deliver()
	case t.routedHere():
		t.note(fmt.Sprintf("routed to the pod itself by mark %#x", t.packet.Mark))
		return t.deliver()
	}
	return t.forward()
}

func (t *trace) deliver() error {
	if err := t.tables("INPUT", "mangle", "filter"); err != nil || t.done {
		return err
	}
	if err := t.nat("INPUT"); err != nil || t.done {
		return err
	}
	switch {
	case t.listener != 0: // the socket that TPROXY chose stays with the packet, whatever nat did after it
		t.end(TProxied, "")
		t.path.End.Port = t.listener
	case t.redirected:
		t.end(Redirected, "")
		t.path.End.Port = t.packet.Destination.Port()
	default:
		t.end(Delivered, "")
		t.path.End.Port = t.packet.Destination.Port()
	}
	return nil
}

// forward is ip_forward: packets to others' addresses, where the pod forwards. A packet that TPROXY gave to a socket,
// and that no route delivers, is dropped.
func (t *trace) forward() error {
	if t.held {
		t.end(Dropped, "what a socket of the pod has is not forwarded")
		return nil
	}
	t.packet.Out = t.path.Packet.Out
	if err := t.tables("FORWARD", "mangle", "filter"); err != nil || t.done {
		return err
	}
	t.packet.In = ""
	if err := t.postrouting(); err != nil || t.done {
		return err
	}
	t.leave()
	return nil
}

func (t *trace) leave() {
	t.end(Leaves, "")
	t.path.End.Interface = t.packet.Out
}

func (t *trace) end(kind EndKind, note string) {
	if note != "" {
		t.note(note)
	}
	t.done = true
	t.path.End = End{Kind: kind, To: t.packet.Destination, Original: t.path.Packet.Destination,
		Zone: t.path.End.Zone, ConnMark: t.connMark}
}

func (t *trace) note(text string) { t.path.Steps = append(t.path.Steps, Step{Note: text}) }

// route returns the interface that leads to the destination: lo for the pod's own addresses and where a
// route of the plan follows from the mark (fib_rules ask the local table first, then by mark, then main).
func (t *trace) route() (string, error) {
	if t.local() || t.routedHere() {
		return loopback, nil
	}
	if out := t.path.Packet.Out; out != "" {
		return out, nil
	}
	return "", fmt.Errorf("no interface leads to %s: name one, or give the pod that address", t.packet.Destination.Addr())
}

// local reports whether the destination is an address of the pod. All of 127.0.0.0/8 is, of ::/96 only what
// is an address of lo.
func (t *trace) local() bool {
	dst := t.packet.Destination.Addr().WithZone("")
	return dst.IsLoopback() ||
		slices.ContainsFunc(t.interfaces, func(i Interface) bool { return slices.Contains(i.Addresses, dst) }) ||
		slices.ContainsFunc(t.plan.Loopback, func(p netip.Prefix) bool { return p.Addr() == dst })
}

func (t *trace) routedHere() bool {
	return slices.ContainsFunc(t.plan.Routes, func(r PolicyRoute) bool {
		return r.Family == t.packet.Family() && r.Mark == t.packet.Mark
	})
}

// fromOutsideLoopback reports whether a packet that did not come by lo has an address that only lo may have.
func (t *trace) fromOutsideLoopback() bool {
	return t.packet.Source.Addr().IsLoopback() || t.packet.Destination.Addr().IsLoopback()
}
