// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
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
func (w *walker) set(f *flow, a *Action) []*flow {
	switch a.Verb {
	case SetMark:
		f.mark = givenNumber(a.Value)
	case SetConnMark, SaveMark, RestoreMark:
		in, out := w.cut(f, f.ct, tracked)
		switch {
		case in == nil:
		case a.Verb == SetConnMark:
			in.connMark, in.seenConnMark = givenNumber(a.Value), givenNumber(a.Value)
		case a.Verb == SaveMark:
			in.connMark, in.seenConnMark = in.mark, in.mark
		default:
			in.mark = in.seenConnMark
		}
		return add(add(nil, in), out)
	case Zone:
		if !f.trackable() { // chosen already, or tracked
			break
		}
		f.zoned = true
		f.ct = given(fresh)                                               // from here on rules see the zone's template
		in, out := w.cut(f, entered(CTState), Values(invalid, untracked)) // of no connection
		if out != nil {
			out.zone = uint16(a.Value.lo)
		}
		return add(add(nil, in), out)
	case NoTrack:
		if f.trackable() {
			f.zoned, f.untracked, f.ct = true, true, given(untracked)
		}
	case Nothing, Accept, Drop, Return, Jump, Goto, Redirect, DNAT, TProxy, Reject, Then, Unknown: // they are no changes
	}
	return []*flow{f}
}

// trackable reports whether nothing is known of the packets' connections yet.
func (f *flow) trackable() bool { return !f.looped && !f.zoned && f.ct == given(invalid) }

// redirect sends packets to the loopback address, or arriving ones to the first address of their interface.
func (w *walker) redirect(f *flow, port uint16, hook Hook) (all []*flow) {
	f.redirected, f.dport = true, given(uint64(port))
	if hook == Output {
		f.dst = given(0x7f000001)
		if w.side.six {
			f.dst = given(1)
		}
		return []*flow{f}
	}
	for _, i := range w.pod.interfaces {
		if f == nil {
			break
		}
		var in *flow
		if in, f = w.cut(f, f.in, Single(N(i.number))); in != nil {
			all = append(all, w.primary(in, i)...)
		}
	}
	w.endAll(add(nil, f), rules.Dropped)
	return all
}

var linkLocal6 = Prefix(netip.MustParsePrefix("fe80::/10"))

// primary gives packets the address of the interface that REDIRECT takes: of IPv6 one of the destination's scope where
// that is link-local, and otherwise a global one first.
func (w *walker) primary(f *flow, i numbered) (all []*flow) {
	local := func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
	global := func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }
	give := func(f *flow, wants ...func(netip.Addr) bool) {
		if f == nil {
			return
		}
		for _, want := range wants {
			if k := slices.IndexFunc(i.addresses, want); k >= 0 {
				f.dst = givenNumber(Address(i.addresses[k]))
				all = append(all, f)
				return
			}
		}
		w.end(f, rules.Dropped)
	}
	if !w.side.six {
		give(f, netip.Addr.Is4)
		return all
	}
	near, far := w.cut(f, f.dst, linkLocal6)
	give(near, local)
	give(far, global, local)
	return all
}

func translated(flows []*flow, a *Action) []*flow {
	for _, f := range flows {
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
func (w *walker) tproxy(flows []*flow, a *Action) (taken, passed []*flow) {
	of := func(x Field) func(*flow) ref { return func(*flow) ref { return entered(x) } }
	existing, begins := w.cutAll(flows, of(CTState), Single(N(established)))
	own, other := w.cutAll(existing, of(Transparent), Single(N(1)))
	listened, passed := w.cutAll(begins, of(Listening), Single(N(1)))
	if a.Stops {
		other, passed = append(other, passed...), nil
	}
	w.endAll(other, rules.Dropped)
	return append(held(own, a, 0), held(listened, a, a.Port)...), passed
}

func held(flows []*flow, a *Action, listener uint16) []*flow {
	for _, f := range flows {
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
func (w *walker) nat(flows []*flow, hook Hook) []*flow {
	ofSource := hook == Input || hook == Postrouting
	var begin, rest []*flow
	for _, f := range flows {
		if f.untracked || ofSource && f.natSrc {
			rest = append(rest, f)
			continue
		}
		in, out := w.cut(f, entered(CTState), first)
		if rest = add(rest, out); in != nil {
			in.natSrc = in.natSrc || ofSource
			begin = append(begin, in)
		}
	}
	for _, b := range w.side.hooks[hook] {
		if b.Kind != NAT || len(begin) == 0 {
			continue
		}
		var open []*flow
		for _, f := range w.base(begin, b) {
			if f.redirected && !ofSource { // the connection has its destination: no other chain is asked
				rest = append(rest, f)
			} else {
				open = append(open, f)
			}
		}
		begin = open
	}
	return append(rest, begin...)
}

// track runs the chains before connection tracking, and then looks up the connection.
func (w *walker) track(flows []*flow, hook Hook) []*flow {
	for _, f := range flows {
		f.ct, f.seenConnMark = given(invalid), given(0)
	}
	flows = w.pass(flows, hook, lowest, atTracking)
	for _, f := range flows {
		if f.zoned = false; f.untracked {
			f.ct = given(untracked)
		} else {
			f.ct, f.seenConnMark = entered(CTState), f.connMark
		}
	}
	return merge(flows)
}

// routed sets the interface that leads to where packets go now.
func (w *walker) routed(flows []*flow) []*flow {
	here, away := w.cutAll(flows, func(f *flow) ref { return f.dst }, w.side.local)
	marked, away := w.cutAll(away, func(f *flow) ref { return f.mark }, w.side.marks)
	for _, f := range marked {
		if f.inbound {
			w.way.note("routed to the pod itself by mark %#x", f.value(f.mark).lo)
		}
	}
	here = append(here, marked...)
	for _, f := range here {
		f.route = given(loopback)
	}
	for _, f := range away {
		f.route = entered(Out)
	}
	return append(here, away...)
}

// led divides flows by whether their route leads to the pod itself.
func (w *walker) led(flows []*flow) (here, away []*flow) {
	return w.cutAll(flows, func(f *flow) ref { return f.route }, Single(N(loopback)))
}

func (w *walker) outbound(flows []*flow) {
	flows = w.routed(flows)
	for _, f := range flows {
		f.in, f.out = given(none), f.route
	}
	flows = w.track(flows, Output)
	flows = w.rerouting(flows, atTracking, atNat)
	flows = w.nat(flows, Output)
	flows = w.routedIf(flows, func(f *flow) bool { return f.dst.isGiven() })
	flows = w.rerouting(flows, atNat, highest)
	for _, f := range flows {
		if f.value(f.out) != f.value(f.route) {
			w.way.note("routed again: now by %s", w.pod.names[f.value(f.route).lo])
		}
		f.out = f.route
	}
	back, away := w.led(w.postrouting(flows))
	w.endAll(away, rules.Leaves)
	// They keep their mark, connection and route: they are neither tracked nor routed a second time, and nat has settled
	// their connections.
	for _, f := range back {
		w.way.note("comes back in by lo")
		f.looped, f.in, f.out, f.socket = true, given(loopback), given(none), false
	}
	w.deliver(w.pass(merge(back), Prerouting, lowest, highest))
}

func (w *walker) postrouting(flows []*flow) []*flow {
	flows = w.nat(w.pass(flows, Postrouting, lowest, atNatLast), Postrouting)
	return w.pass(flows, Postrouting, atNatLast, highest)
}

// rerouting runs base chains. After one of kind route that changed the mark, packets are routed again.
func (w *walker) rerouting(flows []*flow, first, last int) []*flow {
	for _, b := range w.side.hooks[Output] {
		if b.Kind == NAT || b.Priority < first || b.Priority >= last {
			continue
		}
		for _, f := range flows {
			f.before = f.mark
		}
		flows = w.base(flows, b)
		if b.Kind == Route {
			flows = w.routedIf(flows, func(f *flow) bool { return f.mark != f.before })
		}
		for _, f := range flows {
			f.before = ref{}
		}
	}
	return flows
}

func (w *walker) routedIf(flows []*flow, which func(*flow) bool) (all []*flow) {
	var again []*flow
	for _, f := range flows {
		if which(f) {
			again = append(again, f)
		} else {
			all = append(all, f)
		}
	}
	if len(again) == 0 {
		return all
	}
	return merge(append(all, w.routed(again)...))
}

func (w *walker) inbound(flows []*flow) {
	for _, f := range flows {
		f.in, f.out = entered(In), given(none)
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
	here, away := w.led(w.routed(flows))
	w.deliver(here)
	w.forward(away)
}

// forward sends on what is not for the pod. What TPROXY gave to a socket that no route leads to is dropped.
func (w *walker) forward(flows []*flow) {
	var through []*flow
	for _, f := range flows {
		if f.held {
			w.end(f, rules.Dropped)
			continue
		}
		f.out = entered(Out)
		through = append(through, f)
	}
	through = w.pass(through, Forward, lowest, highest)
	for _, f := range through {
		f.in = given(none)
	}
	w.endAll(w.postrouting(through), rules.Leaves)
}

// martian drops packets with a loopback address that did not come by lo.
func (w *walker) martian(flows []*flow, own Set) []*flow {
	from, others := w.cutAll(flows, func(*flow) ref { return entered(Source) }, own)
	to, fine := w.cutAll(others, func(f *flow) ref { return f.dst }, own)
	for _, f := range append(from, to...) {
		w.way.note("a loopback address cannot come by %s", w.pod.names[f.value(f.in).lo])
		w.end(f, rules.Dropped)
	}
	return fine
}

func (w *walker) deliver(flows []*flow) {
	flows = w.nat(w.pass(flows, Input, lowest, atNatLast), Input)
	for _, f := range w.pass(flows, Input, atNatLast, highest) {
		switch {
		case f.listener != 0: // the socket that TPROXY chose stays with the packet, whatever nat did after it
			w.end(f, rules.TProxied)
		case f.redirected:
			w.end(f, rules.Redirected)
		default:
			w.end(f, rules.Delivered)
		}
	}
}
