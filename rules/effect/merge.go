// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"math/bits"
	"slices"
)

// merger joins flows. Its lists are scratch pads: each has something of every flow.
type merger struct {
	list        []*flow
	sums, rests []uint64 // of a flow, and of all but one of its fields
	more        [][]Span // to be added to one field, sorted once at the end
	table       []int32  // the flow with a rest, counted from 1: a hash table with open addresses
	free        flows    // that are in others now, to be used again
}

// merge joins flows that are in the same state and differ in one field only, as long as there are any.
func (m *merger) merge(all flows) (merged flows) {
	if all.n < 2 || all.merged {
		return all
	}
	m.list, m.sums = m.list[:0], m.sums[:0]
	for f := range all.all() {
		m.list, m.sums = append(m.list, f), append(m.sums, f.sum())
	}
	size := 2 << bits.Len(uint(all.n))
	m.table, m.rests, m.more = resized(m.table, size), resized(m.rests, all.n), resized(m.more, all.n)
	for unchanged, x := 0, Field(0); unchanged < int(fields) && len(m.list) > 1; x = (x + 1) % fields {
		before := len(m.list)
		m.by(x)
		if unchanged++; len(m.list) < before {
			unchanged = 1
		}
	}
	for _, f := range m.list {
		merged.add(f)
	}
	merged.merged = true
	return merged
}

func resized[E any](list []E, size int) []E { return slices.Grow(list[:0], size)[:size] }

// by merges the flows that differ in the field x only.
func (m *merger) by(x Field) {
	first := m.list[0].box[x]
	if !slices.ContainsFunc(m.list, func(f *flow) bool { return !f.box[x].equal(first) }) {
		return
	}
	clear(m.table)
	k := 0
	for i, f := range m.list {
		rest := m.sums[i] ^ mixed(x, f.box[x].hash())
		j := m.find(x, rest, f)
		if *j > 0 {
			m.more[*j-1] = append(m.more[*j-1], f.box[x].all()...)
			m.free.add(f)
			continue
		}
		m.list[k], m.sums[k], m.rests[k], m.more[k] = f, m.sums[i], rest, m.more[k][:0]
		k++
		*j = int32(k)
	}
	m.list, m.sums = m.list[:k], m.sums[:k]
	for i, f := range m.list {
		if more := m.more[i]; len(more) > 0 {
			f.box[x] = Union(append(more, f.box[x].all()...)...)
			m.sums[i] = m.rests[i] ^ mixed(x, f.box[x].hash())
		}
	}
}

// find returns the place of a flow that is like f but for one field, or a free one.
func (m *merger) find(x Field, rest uint64, f *flow) *int32 {
	mask := uint64(len(m.table) - 1)
	for at := rest & mask; ; at = (at + 1) & mask {
		j := m.table[at]
		if j == 0 || m.rests[j-1] == rest && m.list[j-1].state == f.state && sameBut(x, &m.list[j-1].box, &f.box) {
			return &m.table[at]
		}
	}
}

func (f *flow) sum() uint64 {
	s := &f.state
	sum := uint64(s.listener)<<32 | uint64(s.zone)<<16 | uint64(len(s.kind))
	if s.by != nil {
		sum += uint64(s.by.Index) << 48
	}
	for _, yes := range [...]bool{s.inbound, s.socket, s.owned, s.zoned, s.looped, s.natSrc, s.redirected, s.held, s.untracked, s.maybe} {
		if sum <<= 1; yes {
			sum++
		}
	}
	for _, r := range [...]*ref{&s.in, &s.out, &s.route, &s.mark, &s.connMark, &s.dst, &s.dport, &s.ct, &s.seenConnMark, &s.before} {
		sum = (sum^r.c.hi^bits.RotateLeft64(r.c.lo, 32)^uint64(r.from))*0x9e3779b97f4a7c15 + sum>>29
	}
	for x, s := range f.box {
		sum ^= mixed(Field(x), s.hash())
	}
	return sum
}

func mixed(x Field, hash uint64) uint64 {
	hash = (hash + uint64(x+1)*0x9e3779b97f4a7c15) * 0xbf58476d1ce4e5b9
	return hash ^ hash>>29
}

func sameBut(x Field, a, b *box) bool {
	for y := range a {
		if Field(y) != x && !a[y].equal(b[y]) {
			return false
		}
	}
	return true
}
