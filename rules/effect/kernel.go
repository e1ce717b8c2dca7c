// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"net/netip"
	"slices"
)

// What the kernel does between chains and by targets. The order is that of package rules' tracer, but for base chains of
// any priority.

// Priorities between which the kernel does something of its own. Chains of nat run at nat's place whatever their priority
// is; it only orders them among each other.
const (
	lowest     = -1 << 31
	atTracking = -200
	atNat      = -100
	atNatLast  = 100
	highest    = 1 << 31
)

// set takes actions that change packets without ending their way.
func (w *walker) set(f flow, a *Action) []flow {
	switch a.Verb {
	case SetMark:
		f.mark = givenNumber(a.Value)
	case SaveMark, RestoreMark:
		in, out := w.cut(f, f.ct, tracked)
		for i := range in {
			if a.Verb == SaveMark {
				in[i].connMark, in[i].seenConnMark = in[i].mark, in[i].mark
			} else {
				in[i].mark = in[i].seenConnMark
			}
		}
		return append(in, out...)
	case Zone:
		if !f.trackable() { // chosen already, or tracked
			break
		}
		f.zoned = true
		in, out := w.cut(f, entered(CTState), Values(invalid, untracked)) // of no connection
		for i := range out {
			out[i].zone = uint16(a.Value.lo)
		}
		all := append(in, out...)
		for i := range all {
			all[i].ct = given(fresh) // from here on rules see the zone's template
		}
		return all
	case NoTrack:
		if f.trackable() {
			f.zoned, f.untracked, f.ct = true, true, given(untracked)
		}
	case Nothing, Accept, Drop, Return, Jump, Goto, Redirect, DNAT, TProxy, Reject, Unknown: // they are no changes
	}
	return []flow{f}
}

// trackable reports whether nothing is known of the packets' connections yet.
func (f *flow) trackable() bool { return !f.looped && !f.zoned && f.ct == given(invalid) }

// redirect sends packets to the loopback address, or arriving ones to the first address of their interface.
func (w *walker) redirect(f flow, port uint16, hook Hook) (all []flow) {
	f.redirected, f.dport = true, given(uint64(port))
	if hook == Output {
		f.dst = given(0x7f000001)
		if w.side.six {
			f.dst = given(1)
		}
		return []flow{f}
	}
	rest := []flow{f}
	for _, i := range w.pod.interfaces {
		var others []flow
		for _, f := range rest {
			in, out := w.cut(f, f.in, Single(N(i.number)))
			others = append(others, out...)
			for _, f := range in {
				all = append(all, w.primary(f, i)...)
			}
		}
		rest = others
	}
	w.endAll(rest, dropped)
	return all
}

var linkLocal6 = Prefix(netip.MustParsePrefix("fe80::/10"))

// primary gives packets the address of the interface that REDIRECT takes: of IPv6 one of the destination's scope where
// that is link-local, and otherwise a global one first.
func (w *walker) primary(f flow, i numbered) (all []flow) {
	local := func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
	global := func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }
	give := func(flows []flow, wants ...func(netip.Addr) bool) {
		k := -1
		for _, want := range wants {
			if k < 0 {
				k = slices.IndexFunc(i.addresses, want)
			}
		}
		if k < 0 {
			w.endAll(flows, dropped)
			return
		}
		for _, f := range flows {
			f.dst = givenNumber(Address(i.addresses[k]))
			all = append(all, f)
		}
	}
	if !w.side.six {
		give([]flow{f}, netip.Addr.Is4)
		return all
	}
	near, far := w.cut(f, f.dst, linkLocal6)
	give(near, local)
	give(far, global, local)
	return all
}

func translated(flows []flow, a *Action) []flow {
	for i := range flows {
		f := &flows[i]
		f.redirected, f.dst = true, givenNumber(a.Value)
		if a.Port != 0 {
			f.dport = given(uint64(a.Port))
		}
	}
	return flows
}

// tproxy gives packets to a listener. A packet of an existing connection goes to that connection's socket: a transparent
// one is the proxy's, any other loses the packet. Where nobody listens, iptables drops new connections; in nft the rule
// does not match then, and the packet goes on.
func (w *walker) tproxy(flows []flow, a *Action) (taken, passed []flow) {
	for _, f := range flows {
		existing, begins := w.cut(f, entered(CTState), Single(N(established)))
		for _, e := range existing {
			own, other := w.cut(e, entered(Transparent), Single(N(1)))
			w.endAll(other, dropped)
			taken = append(taken, held(own, a, 0)...)
		}
		switch {
		case !w.away:
			taken = append(taken, held(begins, a, a.Port)...)
		case a.Stops:
			w.endAll(begins, dropped)
		default:
			passed = append(passed, begins...)
		}
	}
	return taken, passed
}

func held(flows []flow, a *Action, listener uint16) []flow {
	for i := range flows {
		f := &flows[i]
		if f.held = true; listener != 0 {
			f.listener = listener
		}
		if a.Stops {
			f.mark = givenNumber(a.Value)
		}
	}
	return flows
}

// nat runs once per connection for its destination, at prerouting or output, and once for its source, at input or
// postrouting. What it decides for the first packet, even if it is nothing, holds for the rest.
func (w *walker) nat(flows []flow, hook Hook) []flow {
	ofSource := hook == Input || hook == Postrouting
	var begin, rest []flow
	for _, f := range flows {
		if settled := ofSource && f.natSrc || !ofSource && f.natDst; settled || f.untracked {
			rest = append(rest, f)
			continue
		}
		in, out := w.cut(f, entered(CTState), first)
		rest = append(rest, out...)
		for _, f := range in {
			f.natSrc, f.natDst = f.natSrc || ofSource, f.natDst || !ofSource
			begin = append(begin, f)
		}
	}
	for _, b := range w.side.hooks[hook] {
		if b.Kind != NAT || len(begin) == 0 {
			continue
		}
		var open []flow
		for _, f := range w.base(begin, b) {
			if f.redirected && !ofSource { // the connection has its destination: no other chain is asked
				rest = append(rest, f)
			} else {
				open = append(open, f)
			}
		}
		begin = open
	}
	return merge(append(rest, begin...))
}

// track runs the chains before connection tracking, and then looks up the connection.
func (w *walker) track(flows []flow, hook Hook) []flow {
	for i := range flows {
		flows[i].ct, flows[i].seenConnMark = given(invalid), given(0)
	}
	flows = w.pass(flows, hook, lowest, atTracking)
	for i := range flows {
		f := &flows[i]
		if f.untracked {
			f.ct = given(untracked)
			continue
		}
		f.ct, f.seenConnMark = entered(CTState), f.connMark
	}
	return flows
}

// routed sets the interface that leads to where packets go now.
func (w *walker) routed(flows []flow) (all []flow) {
	for _, f := range flows {
		here, away := w.cut(f, f.dst, w.side.local)
		for _, f := range away {
			marked, plain := w.cut(f, f.mark, w.side.marks)
			here = append(here, marked...)
			for _, f := range plain {
				f.route = entered(Out)
				all = append(all, f)
			}
		}
		for _, f := range here {
			f.route = given(loopback)
			all = append(all, f)
		}
	}
	return all
}

func (w *walker) outbound(flows []flow) {
	flows = w.routed(flows)
	for i := range flows {
		flows[i].in, flows[i].out = given(none), flows[i].route
	}
	flows = w.track(flows, Output)
	flows = w.rerouting(flows, atTracking, atNat)
	flows = w.nat(flows, Output)
	flows = w.routedIf(flows, func(f *flow) bool { return f.dst.isGiven() })
	flows = w.rerouting(flows, atNat, highest)
	for i := range flows {
		flows[i].out = flows[i].route
	}
	for _, f := range w.postrouting(flows) {
		back, away := w.cut(f, f.route, Single(N(loopback)))
		w.endAll(away, leaves)
		// They keep their mark, connection and route: they are neither tracked nor routed a second time, and nat has
		// settled their connections.
		for i := range back {
			b := &back[i]
			b.looped, b.in, b.out, b.socket = true, given(loopback), given(none), false
		}
		w.deliver(w.pass(back, Prerouting, lowest, highest))
	}
}

func (w *walker) postrouting(flows []flow) []flow {
	flows = w.nat(w.pass(flows, Postrouting, lowest, atNatLast), Postrouting)
	return w.pass(flows, Postrouting, atNatLast, highest)
}

// rerouting runs base chains. After one of kind route that changed the mark, packets are routed again.
func (w *walker) rerouting(flows []flow, first, last int) []flow {
	for _, b := range w.side.hooks[Output] {
		if b.Kind == NAT || b.Priority < first || b.Priority >= last {
			continue
		}
		for i := range flows {
			flows[i].before = flows[i].mark
		}
		flows = w.base(flows, b)
		if b.Kind == Route {
			flows = w.routedIf(flows, func(f *flow) bool { return f.mark != f.before })
		}
		for i := range flows {
			flows[i].before = ref{}
		}
	}
	return flows
}

func (w *walker) routedIf(flows []flow, which func(*flow) bool) (all []flow) {
	for i := range flows {
		if which(&flows[i]) {
			all = append(all, w.routed(flows[i:i+1])...)
		} else {
			all = append(all, flows[i])
		}
	}
	return merge(all)
}

func (w *walker) inbound(flows []flow) {
	for i := range flows {
		flows[i].in, flows[i].out = entered(In), given(none)
	}
	if w.side.six {
		flows = w.martian(flows, loopback6)
	}
	flows = w.track(flows, Prerouting)
	flows = w.pass(flows, Prerouting, atTracking, atNat)
	flows = w.nat(flows, Prerouting)
	flows = w.pass(flows, Prerouting, atNat, highest)
	if !w.side.six {
		flows = w.martian(flows, loopback4)
	}
	for _, f := range w.routed(flows) {
		here, away := w.cut(f, f.route, Single(N(loopback)))
		w.deliver(here)
		w.forward(away)
	}
}

// forward sends on what is not for the pod. What TPROXY gave to a socket that no route leads to is dropped.
func (w *walker) forward(flows []flow) {
	for _, f := range flows {
		if f.held {
			w.end(f, dropped)
			continue
		}
		f.out = entered(Out)
		through := w.pass([]flow{f}, Forward, lowest, highest)
		for i := range through {
			through[i].in = given(none)
		}
		w.endAll(w.postrouting(through), leaves)
	}
}

// martian drops packets with a loopback address that did not come by lo.
func (w *walker) martian(flows []flow, own Set) (all []flow) {
	for _, f := range flows {
		bad, good := w.cut(f, entered(Source), own)
		for _, f := range good {
			worse, fine := w.cut(f, f.dst, own)
			bad, all = append(bad, worse...), append(all, fine...)
		}
		w.endAll(bad, dropped)
	}
	return all
}

func (w *walker) deliver(flows []flow) {
	flows = w.nat(w.pass(flows, Input, lowest, atNatLast), Input)
	for _, f := range w.pass(flows, Input, atNatLast, highest) {
		switch {
		case f.listener != 0: // the socket that TPROXY chose stays with the packet, whatever nat did after it
			w.end(f, tproxied)
		case f.redirected:
			w.end(f, redirected)
		default:
			w.end(f, delivered)
		}
	}
}
