// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// walker sends flows through the chains of one side. A flow is in one list at a time, and is changed where it is.
type walker struct {
	side  *Side
	pod   *Pod
	limit int // of work
	work  int
	ended []*flow
	way   *way // of the only packet, where one is traced
}

func (w *walker) over() bool { return w.work > w.limit || w.way.failed() }

// cut divides a flow by a condition on what its packets have now. Either part is nil where no packet is in it.
func (w *walker) cut(f *flow, r ref, s Set) (hit, miss *flow) {
	w.work++
	if r.isGiven() {
		if s.has(r.c) {
			return f, nil
		}
		return nil, f
	}
	inside := f.box[r.from].And(s)
	w.work += len(inside.all()) / 8
	switch {
	case inside.Empty():
		return nil, f
	case inside.equal(f.box[r.from]):
		return f, nil
	}
	other := *f
	other.box[r.from] = f.box[r.from].Without(s)
	f.box[r.from] = inside
	return f, &other
}

// cutAll divides flows by what each has now of something.
func (w *walker) cutAll(flows []*flow, of func(*flow) ref, s Set) (hits, misses []*flow) {
	for _, f := range flows {
		hit, miss := w.cut(f, of(f), s)
		hits, misses = add(hits, hit), add(misses, miss)
	}
	return hits, misses
}

// add appends a flow if there is one.
func add(flows []*flow, f *flow) []*flow {
	if f == nil {
		return flows
	}
	return append(flows, f)
}

// now returns the current value of what a condition asks for.
func (f *flow) now(x Field) ref {
	switch x {
	case In:
		return f.in
	case Out:
		return f.out
	case Mark:
		return f.mark
	case ConnMark:
		return f.seenConnMark
	case Destination:
		return f.dst
	case DestinationPort:
		return f.dport
	case CTState:
		return f.ct
	case Protocol, Source, SourcePort, UID, GID, Transparent, Listening, fields, constant:
	}
	return entered(x)
}

// ownerless reports whether a condition asks for the owner of packets that have none.
func (f *flow) ownerless(c *Condition) bool { return (c.Field == UID || c.Field == GID) && !f.socket }

// misses reports whether the conditions hold for no packet of a flow, as is most often the case.
func (w *walker) misses(f *flow, conditions []Condition) bool {
	w.work++
	for i := range conditions {
		c := &conditions[i]
		if f.ownerless(c) {
			if !c.Bare {
				return true
			}
			continue
		}
		switch r := f.now(c.Field); {
		case r.isGiven():
			if !c.Set.has(r.c) {
				return true
			}
		case !f.box[r.from].meets(c.Set):
			return true
		}
	}
	return false
}

// ask divides a flow by all conditions of a rule, and adds what misses one of them.
func (w *walker) ask(f *flow, conditions []Condition, misses []*flow) (hit *flow, missed []*flow) {
	for i := 0; i < len(conditions) && f != nil; i++ {
		c := &conditions[i]
		switch {
		case !f.ownerless(c):
			var miss *flow
			f, miss = w.cut(f, f.now(c.Field), c.Set)
			misses = add(misses, miss)
		case !c.Bare:
			f, misses = nil, append(misses, f)
		}
	}
	return f, misses
}

// deepest is how deep the kernel lets jumps nest (NFT_JUMP_STACK_SIZE).
const deepest = 16

// chain returns the flows that leave a chain by its end or a return, and those for which the whole base chain is over.
func (w *walker) chain(flows []*flow, c *Chain, hook Hook, depth int) (on, stopped []*flow) {
	if c == nil || depth > deepest {
		w.endAll(flows, unknown)
		return nil, nil
	}
	most := 2 * len(flows)
	for i := range c.Rules {
		if len(flows) == 0 || w.over() {
			break
		}
		var out outcome
		if flows, out = w.rule(flows, &c.Rules[i], hook, depth); len(flows) > most {
			flows = merge(flows)
			most = 2 * len(flows)
		}
		on, stopped = append(on, out.returned...), append(stopped, out.stopped...)
	}
	return append(on, flows...), stopped
}

// outcome is what becomes of flows at a rule, except for those that end.
type outcome struct{ next, returned, stopped []*flow }

// rule returns the flows that come to the next rule.
func (w *walker) rule(flows []*flow, r *Rule, hook Hook, depth int) (rest []*flow, out outcome) {
	w.way.asks(r, hook)
	first := slices.IndexFunc(flows, func(f *flow) bool { return !w.misses(f, r.Conditions) })
	if first < 0 {
		return flows, out
	}
	rest = append(make([]*flow, 0, len(flows)+2), flows[:first]...)
	var hits []*flow
	for i, f := range flows[first:] {
		if i > 0 && w.misses(f, r.Conditions) {
			rest = append(rest, f)
			continue
		}
		var hit *flow
		hit, rest = w.ask(f, r.Conditions, rest)
		hits = add(hits, hit)
	}
	if r.Unknown != "" { // it holds, or it does not
		for _, f := range hits {
			f.maybe = true
			other := *f
			rest = append(rest, &other)
		}
	}
	step := w.way.meets(r, hits, hook, depth)
	out = w.act(hits, r.Actions, hook, depth)
	w.way.came(step, hits)
	return append(rest, out.next...), out
}

// act does what a rule says to the flows that it matches.
func (w *walker) act(flows []*flow, actions []Action, hook Hook, depth int) (out outcome) {
	for i := range actions {
		if len(flows) == 0 {
			break
		}
		a := &actions[i]
		switch a.Verb {
		case Nothing:
		case Accept:
			out.stopped = append(out.stopped, flows...)
			return out
		case Return:
			out.returned = append(out.returned, flows...)
			return out
		case Drop:
			w.endAll(flows, rules.Dropped)
			return out
		case Reject:
			w.endAll(flows, rules.Refused)
			return out
		case Unknown:
			w.endAll(flows, unknown)
			return out
		case Goto:
			on, stopped := w.chain(flows, a.Chain, hook, depth+1)
			out.returned, out.stopped = append(out.returned, on...), append(out.stopped, stopped...)
			return out
		case Jump:
			on, stopped := w.chain(flows, a.Chain, hook, depth+1)
			flows, out.stopped = merge(on), append(out.stopped, stopped...)
		case Redirect:
			for _, f := range flows {
				out.stopped = append(out.stopped, w.redirect(f, a.Port, hook)...)
			}
			return out
		case DNAT:
			out.stopped = append(out.stopped, translated(flows, a)...)
			return out
		case TProxy:
			taken, passed := w.tproxy(flows, a)
			out.next = append(out.next, passed...)
			if flows = taken; a.Stops {
				out.stopped = append(out.stopped, taken...)
				return out
			}
		case Then:
			missed, of := w.rule(flows, a.Rest, hook, depth)
			out.next = append(out.next, missed...)
			out.returned, out.stopped = append(out.returned, of.returned...), append(out.stopped, of.stopped...)
			return out
		case SetMark, SetConnMark, SaveMark, RestoreMark, Zone, NoTrack:
			var changed []*flow
			for _, f := range flows {
				changed = append(changed, w.set(f, a)...)
			}
			flows = changed
		}
	}
	out.next = append(out.next, flows...)
	return out
}

func (w *walker) endAll(flows []*flow, k rules.EndKind) {
	for _, f := range flows {
		w.end(f, k)
	}
}

// end keeps only the part of a flow's state that is compared, so that more ends can be merged.
func (w *walker) end(f *flow, k rules.EndKind) {
	w.way.ends(f, k)
	last := state{inbound: f.inbound, owned: f.owned, maybe: f.maybe, kind: k}
	if k != rules.Dropped && k != rules.Refused && k != unknown {
		last.dst, last.dport, last.listener = f.dst, f.dport, f.listener
		last.connMark, last.zone, last.untracked = f.connMark, f.zone, f.untracked
	}
	if k == rules.Leaves {
		last.route = f.route
	}
	f.state = last
	w.ended = append(w.ended, f)
}

// base runs a base chain.
func (w *walker) base(flows []*flow, b Base) []*flow {
	on, stopped := w.chain(flows, b.Chain, b.Hook, 0)
	if b.Drop {
		w.endAll(on, rules.Dropped)
		on = nil
	}
	return merge(append(on, stopped...))
}

// pass runs the base chains of a hook with priorities from first up to last, except for those of nat.
func (w *walker) pass(flows []*flow, hook Hook, first, last int) []*flow {
	for _, b := range w.side.hooks[hook] {
		if b.Kind != NAT && b.Priority >= first && b.Priority < last && len(flows) > 0 && !w.over() {
			flows = w.base(flows, b)
		}
	}
	return flows
}
