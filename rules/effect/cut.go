// SPDX-License-Identifier: Apache-2.0

package effect

import "slices"

// cut divides a flow by a condition on what its packets have now. Either part is nil where no packet is in it.
func (w *walker) cut(f *flow, r ref, s Set) (hit, miss *flow) {
	w.work++
	v, one := r.c, r.isGiven()
	if !one && len(f.boxes) == 1 {
		v, one = f.boxes[0][r.from].single()
	}
	if one {
		if s.has(v) {
			return f, nil
		}
		return nil, f
	}
	k, cut := 0, false
	for i := range f.boxes {
		b := &f.boxes[i]
		in, out := w.divide(b[r.from], s)
		if !out.Empty() {
			if miss == nil {
				miss = w.another(f, nil)
			}
			miss.boxes = append(miss.boxes, *b)
			miss.boxes[len(miss.boxes)-1][r.from] = out
			cut = cut || !in.Empty()
		}
		if !in.Empty() {
			if k != i {
				f.boxes[k] = *b
			}
			f.boxes[k][r.from] = in
			k++
		}
	}
	f.boxes = f.boxes[:k]
	switch {
	case miss == nil:
		return f, nil
	case k == 0:
		f.boxes, miss.boxes = miss.boxes, f.boxes
		w.drop(miss)
		return nil, f
	}
	f.joined = f.joined && !cut
	miss.joined = f.joined
	return f, miss
}

// divide returns what a set has of another and what not.
func (w *walker) divide(a, s Set) (in, out Set) {
	parts, known := w.cuts[[2]Set{a, s}]
	if !known {
		parts = [2]Set{w.one(a.And(s)), w.one(a.Without(s))}
		w.cuts[[2]Set{a, s}] = parts
		w.work += len(parts[1].all()) / 8
	}
	w.work += 1 + len(parts[0].all())/8
	return parts[0], parts[1]
}

// cutAll divides flows by what each has now of something.
func (w *walker) cutAll(all flows, of func(*flow) ref, s Set) (hits, misses flows) {
	for f := range all.all() {
		hit, miss := w.cut(f, of(f), s)
		hits.add(hit)
		misses.add(miss)
	}
	return hits, misses
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

// known returns the conditions of which it can be told whether they hold.
func (f *flow) known(all []Condition, hook Hook) []Condition {
	if !f.zoned && !f.sourced && !f.held && (!f.inbound || hook != Input) {
		return all
	}
	hidden := func(c Condition) bool { return f.hidden(c.Field, hook) }
	if !slices.ContainsFunc(all, hidden) {
		return all
	}
	return slices.DeleteFunc(slices.Clone(all), hidden)
}

// hidden reports whether nobody can tell what rules see there.
func (f *flow) hidden(x Field, hook Hook) bool {
	switch x {
	case ConnMark: // that of the zone's template
		return f.zoned
	case UID, GID: // those of the socket that early demux has found for an arriving packet, or of TPROXY's listener
		return f.held || f.inbound && hook == Input
	case Source, SourcePort: // that which the connection was given
		return f.sourced
	case Protocol, Destination, DestinationPort, In, Out, Mark, CTState, Transparent, Listening, fields, constant:
	}
	return false
}

// foreign reports whether conditions ask for a source that no masqueraded packet has.
func (w *walker) foreign(all []Condition) bool {
	return slices.ContainsFunc(all, func(c Condition) bool { return c.Field == Source && !c.Set.meets(w.side.masks) })
}

// ask divides a flow by all conditions of a rule.
func (w *walker) ask(f *flow, conditions []Condition) (hit, miss *flow) {
	w.work++
	for i := range conditions {
		c := &conditions[i]
		if f.ownerless(c) {
			if !c.Bare {
				return nil, f
			}
		} else if r := f.now(c.Field); r.isGiven() && !c.Set.has(r.c) {
			return nil, f
		}
	}
	hit, miss = w.sift(f, conditions)
	for i := 0; i < len(conditions) && hit != nil; i++ {
		c := &conditions[i]
		if f.ownerless(c) {
			continue
		}
		var out *flow
		if hit, out = w.cut(hit, f.now(c.Field), c.Set); miss == nil {
			miss = out
		} else if out != nil {
			w.absorb(miss, out)
		}
	}
	return hit, miss
}

// sift divides the boxes of a flow by whether any of their packets may meet all conditions: the others are not to be cut.
func (w *walker) sift(f *flow, conditions []Condition) (hit, miss *flow) {
	w.work += len(f.boxes)
	k := 0
	for i := range f.boxes {
		if f.mayMeet(&f.boxes[i], conditions) {
			if k != i {
				f.boxes[k], f.boxes[i] = f.boxes[i], f.boxes[k]
			}
			k++
		}
	}
	switch k {
	case 0:
		return nil, f
	case len(f.boxes):
		return f, nil
	}
	miss = w.another(f, f.boxes[k:])
	f.boxes = f.boxes[:k]
	return f, miss
}

func (f *flow) mayMeet(b *box, conditions []Condition) bool {
	for i := range conditions {
		c := &conditions[i]
		if r := f.now(c.Field); !r.isGiven() && !f.ownerless(c) && !b[r.from].meets(c.Set) {
			return false
		}
	}
	return true
}
