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
func (w *walker) set(f *flow, a *Action, changed *flows) {
	switch a.Verb {
	case SetMark:
		f.mark = givenNumber(a.Value)
	case SetConnMark, SaveMark, RestoreMark:
		if f.zoned { // the mark would be that of the zone's template, which connections do not get
			if a.Verb == RestoreMark {
				w.end(f, unknown)
				return
			}
			break
		}
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
		changed.add(in)
		f = out
	case Zone:
		if !f.trackable() { // chosen already, or tracked
			if !f.looped { // what has no connection gets another one, or a part of one, by which way the zone is set
				var odd *flow
				odd, f = w.cut(f, f.ct, Values(invalid, untracked))
				w.end(odd, unknown)
			}
			break
		}
		f.zoned = true
		f.ct = given(fresh)                                               // from here on rules see the zone's template
		in, out := w.cut(f, entered(CTState), Values(invalid, untracked)) // of no connection
		if out != nil {
			out.zone = uint16(a.Value.lo)
		}
		changed.add(in)
		f = out
	case NoTrack:
		early := f.trackable()
		in, out := w.cut(f, f.ct, Single(N(invalid))) // what has a connection keeps it
		if in != nil {
			in.untracked, in.ct = in.untracked || early, given(untracked)
		}
		changed.add(in)
		f = out
	case Nothing, Accept, Drop, Return, Jump, Goto, Redirect, DNAT, SNAT, Masquerade, TProxy, Reject, Then, Unknown: // they are no changes
	}
	changed.add(f)
}

// trackable reports whether nothing is known of the packets' connections yet.
func (f *flow) trackable() bool { return !f.looped && !f.zoned && f.ct == given(invalid) }

// redirect sends packets to the loopback address, or arriving ones to the first address of their interface.
func (w *walker) redirect(f *flow, port uint16, hook Hook, all *flows) {
	f.redirected, f.dport = true, given(uint64(port))
	if hook == Output {
		f.dst = given(0x7f000001)
		if w.side.six {
			f.dst = given(1)
		}
		all.add(f)
		return
	}
	for _, i := range w.pod.interfaces {
		if f == nil {
			break
		}
		var in *flow
		in, f = w.cut(f, f.in, i.only)
		w.primary(in, i, all)
	}
	w.end(f, rules.Dropped)
}

var linkLocal6 = Prefix(netip.MustParsePrefix("fe80::/10"))

// primary gives packets the address of the interface that REDIRECT takes: of IPv6 one of the destination's scope where
// that is link-local, and otherwise a global one first.
func (w *walker) primary(f *flow, i numbered, all *flows) {
	local := func(a netip.Addr) bool { return a.Is6() && a.IsLinkLocalUnicast() }
	global := func(a netip.Addr) bool { return a.Is6() && !a.IsLinkLocalUnicast() }
	give := func(f *flow, wants ...func(netip.Addr) bool) {
		if f == nil {
			return
		}
		for _, want := range wants {
			if k := slices.IndexFunc(i.addresses, want); k >= 0 {
				f.dst = givenNumber(Address(i.addresses[k]))
				all.add(f)
				return
			}
		}
		w.end(f, rules.Dropped)
	}
	switch {
	case f == nil:
	case w.side.six:
		near, far := w.cut(f, f.dst, linkLocal6)
		give(near, local)
		give(far, global, local)
	default:
		give(f, netip.Addr.Is4)
	}
}

// tproxy gives packets to a listener. A packet of an existing connection goes to that connection's socket, which must be a
// transparent one, as the proxy's are; one to somebody else has none here, and goes to the listener. Where no socket takes a
// packet, iptables drops it; in nft the rule does not match then, and the packet goes on.
func (w *walker) tproxy(in flows, a *Action) (taken, passed flows) {
	of := func(x Field) func(*flow) ref { return func(*flow) ref { return entered(x) } }
	existing, begins := w.cutAll(in, of(CTState), Single(N(established)))
	own, other := w.cutAll(existing, of(Transparent), Single(N(1)))
	passed, through := w.cutAll(other, func(f *flow) ref { return f.dst }, w.side.local)
	begins.take(through)
	doors, elsewhere := w.knocks(begins, a.Port)
	listened, missed := w.cutAll(doors, of(Listening), Single(N(1)))
	for f := range elsewhere.all() { // whether anybody listens there is not the proxy's to say
		missed.add(w.another(f, f.boxes))
		listened.add(f)
	}
	if passed.take(missed); a.Stops {
		w.endAll(passed, rules.Dropped)
		passed = flows{}
	}
	for f := range listened.all() {
		f.listener = a.Port
	}
	own.take(listened)
	for f := range own.all() {
		if f.held = true; a.Stops {
			f.mark = givenNumber(a.Value)
		}
	}
	return own, passed
}

// nat runs once per connection for its destination, at prerouting or output, and once for its source, at input or
// postrouting. What it decides for the first packet, even if it is nothing, holds for the rest.
func (w *walker) nat(in flows, hook Hook) (rest flows) {
	ofSource := hook == Input || hook == Postrouting
	var begin flows
	for f := range in.all() {
		if f.untracked || ofSource && f.natSrc {
			rest.add(f)
			continue
		}
		begins, goesOn := w.cut(f, entered(CTState), first)
		if rest.add(goesOn); begins != nil {
			begins.natSrc = begins.natSrc || ofSource
			begin.add(begins)
		}
	}
	for _, b := range w.side.hooks[hook] {
		if b.Kind != NAT || begin.n == 0 {
			continue
		}
		var open flows
		for f := range w.base(begin, b).all() {
			if f.redirected && !ofSource || f.sourced && ofSource { // the connection has what it is asked for: no other chain is
				rest.add(f)
			} else {
				open.add(f)
			}
		}
		begin = open
	}
	rest.take(begin)
	return rest
}

// track runs the chains before connection tracking, and then looks up the connection.
func (w *walker) track(in flows, hook Hook) flows {
	for f := range in.all() {
		f.ct, f.seenConnMark = given(invalid), given(0)
	}
	in = w.pass(in, hook, lowest, atTracking)
	for f := range in.all() {
		if f.zoned = false; f.untracked {
			f.ct = given(untracked)
		} else {
			f.ct, f.seenConnMark = entered(CTState), f.connMark
		}
	}
	return w.merge(in)
}

// routed sets the interface that leads to where packets go now.
func (w *walker) routed(all flows) flows {
	here, away := w.cutAll(all, func(f *flow) ref { return f.dst }, w.side.local)
	marked, away := w.cutAll(away, func(f *flow) ref { return f.mark }, w.side.marks)
	for f := range marked.all() {
		if f.inbound {
			w.way.note("routed to the pod itself by mark %#x", f.value(f.mark).lo)
		}
	}
	here.take(marked)
	for f := range here.all() {
		f.route = given(loopback)
	}
	for f := range away.all() {
		f.route = entered(Out)
	}
	here.take(away)
	return here
}

// led divides flows by whether their route leads to the pod itself.
func (w *walker) led(all flows) (here, away flows) {
	return w.cutAll(all, func(f *flow) ref { return f.route }, ownInterface)
}

func (w *walker) outbound(all flows) {
	all = w.routed(all)
	for f := range all.all() {
		f.in, f.out = given(none), f.route
	}
	all = w.track(all, Output)
	all = w.pass(all, Output, atTracking, atNat)
	all = w.readdressed(w.nat(all, Output))
	all = w.pass(all, Output, atNat, highest)
	for f := range all.all() {
		if f.value(f.out) != f.value(f.route) {
			w.way.note("routed again: now by %s", w.pod.names[f.value(f.route).lo])
		}
		f.out = f.route
	}
	back, away := w.led(w.postrouting(all))
	w.endAll(away, rules.Leaves)
	// They keep their mark, connection and route: they are neither tracked nor routed a second time, and nat has settled
	// their connections.
	for f := range back.all() {
		w.way.note("comes back in by lo")
		f.looped, f.in, f.out, f.socket = true, given(loopback), given(none), false
	}
	w.deliver(w.pass(w.merge(back), Prerouting, lowest, highest))
}

func (w *walker) postrouting(all flows) flows {
	all = w.nat(w.pass(all, Postrouting, lowest, atNatLast), Postrouting)
	return w.pass(all, Postrouting, atNatLast, highest)
}

// rerouting runs a base chain of kind route. Packets whose mark it changed are routed again.
func (w *walker) rerouting(all flows, b Base) (rest flows) {
	for f := range all.all() {
		f.before = f.mark
	}
	var again flows
	for f := range w.base(all, b).all() {
		if f.mark != f.before {
			again.add(f)
		} else {
			rest.add(f)
		}
	}
	rest.take(w.routed(again))
	for f := range rest.all() {
		f.before = ref{}
	}
	return rest
}

// readdressed routes packets again that nat gave another destination than they had. Another port is not enough.
func (w *walker) readdressed(all flows) (rest flows) {
	var again flows
	for f := range all.all() {
		switch {
		case !f.dst.isGiven():
			rest.add(f)
		case w.side.local.has(f.dst.c): // which both ways lead to
			again.add(f)
		default:
			same, other := w.cut(f, entered(Destination), Single(f.dst.c))
			rest.add(same)
			again.add(other)
		}
	}
	rest.take(w.routed(again))
	return rest
}

func (w *walker) inbound(all flows) {
	for f := range all.all() {
		f.in, f.out = entered(In), given(none)
	}
	if w.side.six {
		all = w.martian(all, loopback6)
	}
	all = w.track(all, Prerouting)
	all = w.pass(all, Prerouting, atTracking, atNat)
	all = w.nat(all, Prerouting)
	all = w.pass(all, Prerouting, atNat, highest)
	if !w.side.six {
		all = w.martian(all, loopback4)
	}
	here, away := w.led(w.routed(all))
	w.deliver(here)
	w.forward(away)
}

// forward sends on what is not for the pod. What TPROXY gave to a socket that no route leads to is dropped.
func (w *walker) forward(all flows) {
	var through flows
	for f := range all.all() {
		if f.held {
			w.end(f, rules.Dropped)
			continue
		}
		f.out = entered(Out)
		through.add(f)
	}
	through = w.pass(through, Forward, lowest, highest)
	for f := range through.all() {
		f.in = given(none)
	}
	w.endAll(w.postrouting(through), rules.Leaves)
}

// martian drops packets with a loopback address that did not come by lo.
func (w *walker) martian(all flows, own Set) (fine flows) {
	from, others := w.cutAll(all, func(*flow) ref { return entered(Source) }, own)
	to, fine := w.cutAll(others, func(f *flow) ref { return f.dst }, own)
	for f := range to.all() {
		// A plan that lets such packets be but for that has nothing against another address for them.
		if w.doors == nil && w.way == nil && !w.side.six && !f.held {
			f.martian = true
			fine.add(f)
			continue
		}
		from.add(f)
	}
	for f := range from.all() {
		w.way.note("a loopback address cannot come by %s", w.pod.names[f.value(f.in).lo])
		w.end(f, rules.Dropped)
	}
	return fine
}

func (w *walker) deliver(all flows) {
	all = w.nat(w.pass(all, Input, lowest, atNatLast), Input)
	for f := range w.pass(all, Input, atNatLast, highest).all() {
		switch {
		case f.martian:
			f.astray = true
			w.end(f, rules.Delivered)
		case f.listener != 0: // the socket that TPROXY chose stays with the packet, whatever nat did after it
			w.end(f, rules.TProxied)
		case f.redirected:
			w.end(f, rules.Redirected)
		default:
			w.end(f, rules.Delivered)
		}
	}
}
