// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"iter"

	"github.com/meshnetd/meshnetd/rules"
)

// flow is packets that are at the same point of their way, and in the same state. Its boxes have no packet in common, unless
// something unknown was met.
type flow struct {
	state
	boxes  []box
	joined bool  // no two of them can be one
	next   *flow // in the only list that has it
}

// flows is a list. What takes flows from one list and adds them to others changes them where they are.
type flows struct {
	first, last *flow
	n           int // of their boxes
}

// add appends a flow if there is one.
func (l *flows) add(f *flow) {
	if f == nil {
		return
	}
	f.next = nil
	l.take(only(f))
}

func only(f *flow) flows { return flows{first: f, last: f, n: len(f.boxes)} }

// take appends all of another list.
func (l *flows) take(other flows) {
	switch {
	case other.n == 0:
	case l.n == 0:
		*l = other
	default:
		l.last.next = other.first
		*l = flows{l.first, other.last, l.n + other.n}
	}
}

// all returns the flows one by one. Each may go to another list.
func (l flows) all() iter.Seq[*flow] {
	return func(yield func(*flow) bool) {
		for f := l.first; f != nil; {
			next := f.next
			if !yield(f) {
				return
			}
			f = next
		}
	}
}

// walker sends flows through the chains of one side.
type walker struct {
	side  *Side
	pod   *Pod
	ended flows
	doors doors // where a proxy listens for transparent connections; nil is wherever the rules lead
	way   *way  // of the only packet, where one is traced
	// decides returns the step that stands for a rule which decides; nil where nobody asks.
	decides func(*rules.Step) *rules.Step
	*memo
}

// memo is what walks share: many boxes are cut by the same sets.
type memo struct {
	merger
	cuts map[[2]Set][2]Set
}

func newMemo() memo {
	return memo{merger{same: map[uint64]*flow{}, known: map[uint64]Set{}, unions: map[[2]Set]Set{}}, map[[2]Set][2]Set{}}
}

// another returns a flow in the same state, with these of its boxes.
func (m *memo) another(f *flow, boxes []box) *flow {
	other := m.free
	if other == nil {
		other = &flow{}
	} else {
		m.free = other.next
	}
	*other = flow{f.state, append(other.boxes[:0], boxes...), f.joined, nil}
	return other
}

func (w *walker) over() bool { return w.work > maxWork || w.way.failed() }

// deepest is how deep the kernel lets jumps nest (NFT_JUMP_STACK_SIZE).
const deepest = 16

// chain returns the flows that leave a chain by its end or a return, and those for which the whole base chain is over.
func (w *walker) chain(in flows, c *Chain, hook Hook, depth int) (on, stopped flows) {
	if c == nil || depth > deepest {
		w.endAll(in, unknown)
		return on, stopped
	}
	most := 2 * in.n
	for i := range c.Rules {
		if in.n == 0 || w.over() {
			break
		}
		var out outcome
		if in, out = w.rule(in, &c.Rules[i], hook, depth); in.n > most {
			in = w.merge(in)
			most = 2 * in.n
		}
		on.take(out.returned)
		stopped.take(out.stopped)
	}
	on.take(in)
	return on, stopped
}

// outcome is what becomes of flows at a rule, except for those that end.
type outcome struct{ next, returned, stopped flows }

// rule returns the flows that come to the next rule.
func (w *walker) rule(in flows, r *Rule, hook Hook, depth int) (rest flows, out outcome) {
	w.way.asks(r, hook)
	var hits flows
	for f := range in.all() {
		if f.masked && w.foreign(r.Conditions) {
			rest.add(f)
			continue
		}
		known := f.known(r.Conditions, hook)
		hit, miss := w.ask(f, known)
		if rest.add(miss); hit == nil {
			continue
		}
		if r.Unknown != "" || len(known) < len(r.Conditions) { // it holds, or it does not
			hit.maybe = true
			rest.add(w.another(hit, hit.boxes))
		}
		hits.add(hit)
	}
	if hits.n == 0 {
		return rest, out
	}
	if w.decides != nil {
		if by := w.decides(r.step); by != nil {
			for f := range hits.all() {
				f.by = by
			}
		}
	}
	one := hits.first
	step := w.way.meets(r, one, hook, depth)
	out = w.act(hits, r.Actions, hook, depth)
	w.way.came(step, one)
	rest.take(out.next)
	return rest, out
}

// act does what a rule says to the flows that it matches.
func (w *walker) act(in flows, actions []Action, hook Hook, depth int) (out outcome) {
	for i := range actions {
		if in.n == 0 {
			break
		}
		a := &actions[i]
		switch a.Verb {
		case Nothing:
		case Accept:
			out.stopped.take(in)
			return out
		case Return:
			out.returned.take(in)
			return out
		case Drop:
			w.endAll(in, rules.Dropped)
			return out
		case Reject:
			w.endAll(in, rules.Refused)
			return out
		case Unknown:
			w.endAll(in, unknown)
			return out
		case Goto, Jump:
			on, stopped := w.chain(in, a.Chain, hook, depth+1)
			if out.stopped.take(stopped); a.Verb == Goto {
				out.returned.take(on)
				return out
			}
			in = w.merge(on)
		case Redirect:
			for f := range in.all() {
				w.redirect(f, a.Port, hook, &out.stopped)
			}
			return out
		case DNAT:
			for f := range in.all() {
				f.redirected, f.dst = true, givenNumber(a.Value)
				if a.Port != 0 {
					f.dport = given(uint64(a.Port))
				}
			}
			out.stopped.take(in)
			return out
		case SNAT, Masquerade:
			for f := range in.all() {
				f.sourced, f.masked = true, a.Verb == Masquerade
			}
			out.stopped.take(in)
			return out
		case TProxy:
			taken, passed := w.tproxy(in, a)
			out.next.take(passed)
			if in = taken; a.Stops {
				out.stopped.take(taken)
				return out
			}
		case Then:
			missed, of := w.rule(in, a.Rest, hook, depth)
			out.next.take(missed)
			out.returned.take(of.returned)
			out.stopped.take(of.stopped)
			return out
		case SetMark, SetConnMark, SaveMark, RestoreMark, Zone, NoTrack:
			var changed flows
			for f := range in.all() {
				w.set(f, a, &changed)
			}
			in = changed
		}
	}
	out.next.take(in)
	return out
}

func (w *walker) endAll(all flows, k rules.EndKind) {
	for f := range all.all() {
		w.end(f, k)
	}
}

// end keeps only the part of a flow's state that is compared, so that more ends can be merged.
func (w *walker) end(f *flow, k rules.EndKind) {
	if f == nil {
		return
	}
	w.way.ends(f, k)
	if f.martian { // by whatever rule, which only a plan is asked for
		k = rules.Dropped
	}
	last := state{inbound: f.inbound, owned: f.owned, maybe: f.maybe, astray: f.astray, kind: k}
	switch {
	case k == rules.Dropped || k == rules.Refused || k == unknown:
	case w.decides != nil:
		last.by = f.by
	default:
		last.dst, last.dport, last.listener = f.dst, f.dport, f.listener
		last.connMark, last.zone, last.untracked = f.connMark, f.zone, f.untracked
		if k == rules.Leaves {
			last.route = f.route
		}
	}
	f.state = last
	w.ended.add(f)
}

// base runs a base chain.
func (w *walker) base(in flows, b Base) flows {
	on, stopped := w.chain(in, b.Chain, b.Hook, 0)
	if b.Drop {
		w.endAll(on, rules.Dropped)
		on = flows{}
	}
	on.take(stopped)
	return w.merge(on)
}

// pass runs the base chains of a hook with priorities from first up to last, except for those of nat.
func (w *walker) pass(in flows, hook Hook, first, last int) flows {
	for _, b := range w.side.hooks[hook] {
		switch {
		case b.Kind == NAT || b.Priority < first || b.Priority >= last || in.n == 0 || w.over():
		case b.Kind == Route:
			in = w.rerouting(in, b)
		default:
			in = w.base(in, b)
		}
	}
	return in
}
