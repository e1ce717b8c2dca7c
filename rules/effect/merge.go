// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"hash/maphash"
	"slices"
)

// merge joins flows that are in the same state and differ in one field only, as long as there are any.
func merge(flows []*flow) []*flow {
	if len(flows) < 2 {
		return flows
	}
	m := merger{flows: flows, sums: make([]uint64, len(flows)), rests: make([]uint64, len(flows))}
	for i, f := range flows {
		m.sums[i] = f.sum()
	}
	for unchanged, x := 0, Field(0); unchanged < int(fields) && len(m.flows) > 1; x = (x + 1) % fields {
		before := len(m.flows)
		m.by(x)
		if unchanged++; len(m.flows) < before {
			unchanged = 1
		}
	}
	return m.flows
}

// merger has flows with the sums of their states and all their fields. The other lists are its scratch pad.
type merger struct {
	flows       []*flow
	sums, rests []uint64
	at          map[uint64]int
}

// by merges the flows that differ in the field x only.
func (m *merger) by(x Field) {
	first := m.flows[0].box[x]
	if !slices.ContainsFunc(m.flows, func(f *flow) bool { return !f.box[x].equal(first) }) {
		return
	}
	var more map[int][]Span // to be added to a flow's field, sorted once at the end
	k := 0
	clear(m.at)
	for i, f := range m.flows {
		rest := m.sums[i] ^ mixed(x, f.box[x].hash())
		if j, ok := m.find(rest, k); ok && m.flows[j].state == f.state && sameBut(x, &m.flows[j].box, &f.box) {
			if more == nil {
				more = map[int][]Span{}
			}
			more[j] = append(more[j], f.box[x].all()...)
			continue
		}
		m.flows[k], m.sums[k], m.rests[k] = f, m.sums[i], rest
		k++
	}
	m.flows, m.sums, m.rests = m.flows[:k], m.sums[:k], m.rests[:k]
	for i, spans := range more {
		f := m.flows[i]
		f.box[x] = Union(append(spans, f.box[x].all()...)...)
		m.sums[i] = m.rests[i] ^ mixed(x, f.box[x].hash())
	}
}

// find returns the flow with that rest among the first k. Few are faster searched than noted.
func (m *merger) find(rest uint64, k int) (int, bool) {
	const few = 128
	if len(m.flows) <= few {
		j := slices.Index(m.rests[:k], rest)
		return j, j >= 0
	}
	if m.at == nil {
		m.at = make(map[uint64]int, len(m.flows))
	}
	j, ok := m.at[rest]
	if !ok {
		m.at[rest] = k
	}
	return j, ok
}

var seed = maphash.MakeSeed()

func (f *flow) sum() uint64 {
	sum := maphash.Comparable(seed, f.state)
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
