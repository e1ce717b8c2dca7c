// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"math/bits"
	"slices"
)

// merger joins flows, and the boxes of each.
type merger struct {
	work   int              // done so far
	free   *flow            // those that are in others now, to be used again
	same   map[uint64]*flow // of one merge, by the sums of their states
	known  map[uint64]Set   // by their hashes, so that equal sets are mostly the same one
	unions map[[2]Set]Set

	// Scratch pads: each has something of every box of a flow.
	boxes       []box
	sums, rests []uint64 // of a box, and of all but one of its fields
	more        [][]Set  // to be added to one field, all at once
	table       []int32  // the box with a rest, counted from 1: a hash table with open addresses
}

// one returns the set that stands for all that are equal.
func (m *merger) one(s Set) Set {
	if known, ok := m.known[s.hash()]; ok && known.equal(s) {
		return known
	}
	m.known[s.hash()] = s
	return s
}

// drop gives a flow up, to be used again.
func (m *merger) drop(f *flow) { f.next, m.free = m.free, f }

func (m *merger) dropAll(all flows) {
	for f := range all.all() {
		m.drop(f)
	}
}

// absorb adds the boxes of a flow in the same state to another.
func (m *merger) absorb(f, other *flow) {
	f.boxes, f.joined = append(f.boxes, other.boxes...), false
	m.drop(other)
}

// merge joins flows that are in the same state, and the boxes of each that differ in one field only, as long as there are any.
func (m *merger) merge(all flows) (merged flows) {
	if all.n < 2 {
		return all
	}
	clear(m.same)
	var apart flows
	for f := range all.all() {
		sum := f.sum()
		if same := m.same[sum]; same != nil && same.state == f.state {
			m.absorb(same, f)
		} else {
			m.same[sum] = f
			apart.add(f)
		}
	}
	for f := range apart.all() {
		m.join(f)
		merged.add(f)
	}
	return merged
}

// join makes one of boxes that differ in one field only, as long as there are any.
func (m *merger) join(f *flow) {
	if f.joined {
		return
	}
	m.sums = m.sums[:0]
	for i := range f.boxes {
		m.sums = append(m.sums, f.boxes[i].sum())
	}
	m.boxes = f.boxes
	m.table, m.rests, m.more = resized(m.table, 2<<bits.Len(uint(len(f.boxes)))), resized(m.rests, len(f.boxes)), resized(m.more, len(f.boxes))
	for unchanged, x := 0, Field(0); unchanged < int(fields) && len(m.boxes) > 1; x = (x + 1) % fields {
		before := len(m.boxes)
		m.by(x)
		if unchanged++; len(m.boxes) < before {
			unchanged = 1
		}
	}
	f.boxes, f.joined = m.boxes, true
}

func resized[E any](list []E, size int) []E { return slices.Grow(list[:0], size)[:size] }

// by joins the boxes that differ in the field x only.
func (m *merger) by(x Field) {
	if m.alike(x) {
		return
	}
	clear(m.table)
	k := 0
	for i := range m.boxes {
		b := &m.boxes[i]
		rest := m.sums[i] - b.weighed(x)
		j := m.find(x, rest, b)
		if *j > 0 {
			m.more[*j-1] = append(m.more[*j-1], b[x])
			continue
		}
		if k != i { // a copy is dear while the garbage collector runs
			m.boxes[k] = *b
		}
		m.sums[k], m.rests[k], m.more[k] = m.sums[i], rest, m.more[k][:0]
		k++
		*j = int32(k)
	}
	if k == len(m.boxes) {
		return
	}
	m.boxes, m.sums = m.boxes[:k], m.sums[:k]
	for i := range m.boxes {
		if more := m.more[i]; len(more) > 0 {
			b := &m.boxes[i]
			b[x] = m.union(b[x], more)
			m.sums[i] = m.rests[i] + b.weighed(x)
		}
	}
}

func (m *merger) alike(x Field) bool {
	for i := range m.boxes {
		if !m.boxes[i][x].equal(m.boxes[0][x]) {
			return false
		}
	}
	return true
}

// union returns what a set or others have. Of two, most often what was cut, it is asked again and again.
func (m *merger) union(s Set, others []Set) Set {
	pair := [2]Set{s, others[0]}
	if all, known := m.unions[pair]; known && len(others) == 1 {
		return all
	}
	spans := slices.Clone(s.all())
	for _, other := range others {
		spans = append(spans, other.all()...)
	}
	m.work += len(spans) / 8
	all := m.one(inOrder(sorted(spans)))
	if len(others) == 1 {
		m.unions[pair] = all
	}
	return all
}

// find returns the place of a box that is like b but for one field, or a free one.
func (m *merger) find(x Field, rest uint64, b *box) *int32 {
	mask := uint64(len(m.table) - 1)
	for at := rest >> 32 & mask; ; at = (at + 1) & mask {
		j := m.table[at]
		if j == 0 || m.rests[j-1] == rest && sameBut(x, &m.boxes[j-1], b) {
			return &m.table[at]
		}
	}
}

func (s *state) sum() uint64 {
	sum := uint64(s.listener)<<32 | uint64(s.zone)<<16 | uint64(len(s.kind))
	if s.by != nil {
		sum += uint64(s.by.Index) << 48
	}
	for _, yes := range [...]bool{s.inbound, s.socket, s.owned, s.zoned, s.looped, s.natSrc, s.redirected, s.sourced, s.masked, s.held, s.untracked, s.maybe} {
		if sum <<= 1; yes {
			sum++
		}
	}
	for _, r := range [...]*ref{&s.in, &s.out, &s.route, &s.mark, &s.connMark, &s.dst, &s.dport, &s.ct, &s.seenConnMark, &s.before} {
		sum = (sum^r.c.hi^bits.RotateLeft64(r.c.lo, 32)^uint64(r.from))*0x9e3779b97f4a7c15 + sum>>29
	}
	return sum
}

// weighed is a field's part in the sum of a box.
func (b *box) weighed(x Field) uint64 { return b[x].hash() * uint64(2*x+1) }

func (b *box) sum() (sum uint64) {
	for x := range fields {
		sum += b.weighed(x)
	}
	return sum
}

func sameBut(x Field, a, b *box) bool {
	for y := range a {
		if Field(y) != x && !a[y].equal(b[y]) {
			return false
		}
	}
	return true
}
