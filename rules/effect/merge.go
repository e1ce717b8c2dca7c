// SPDX-License-Identifier: Apache-2.0

package effect

import "hash/maphash"

// merge joins flows that are in the same state and differ in one field only, as long as there are any.
func merge(flows []*flow) []*flow {
	if len(flows) < 2 {
		return flows
	}
	sums := make([]uint64, len(flows)) // of the state and all fields
	for i, f := range flows {
		sums[i] = maphash.Comparable(seed, f.state)
		for x := range f.box {
			sums[i] ^= mixed(x, f.box[x].hash())
		}
	}
	at := make(map[uint64]int, len(flows))
	for unchanged, x := 0, 0; unchanged < int(fields) && len(flows) > 1; x = (x + 1) % int(fields) {
		before := len(flows)
		flows, sums = mergedBy(Field(x), flows, sums, at)
		if unchanged++; len(flows) < before {
			unchanged = 1
		}
	}
	return flows
}

// mergedBy merges the flows that differ in the field x only, at being a map to be used.
func mergedBy(x Field, flows []*flow, sums []uint64, at map[uint64]int) ([]*flow, []uint64) {
	clear(at)
	var more map[int][]Span // to be added to a flow's field, sorted once at the end
	k := 0
	for i, f := range flows {
		rest := sums[i] ^ mixed(int(x), f.box[x].hash())
		if j, ok := at[rest]; ok && flows[j].state == f.state && sameBut(x, &flows[j].box, &f.box) {
			if more == nil {
				more = map[int][]Span{}
			}
			more[j] = append(more[j], f.box[x].all()...)
			continue
		}
		at[rest] = k
		flows[k], sums[k] = f, sums[i]
		k++
	}
	for i, spans := range more {
		f := flows[i]
		sums[i] ^= mixed(int(x), f.box[x].hash())
		f.box[x] = Union(append(spans, f.box[x].all()...)...)
		sums[i] ^= mixed(int(x), f.box[x].hash())
	}
	return flows[:k], sums[:k]
}

var seed = maphash.MakeSeed()

func mixed(x int, hash uint64) uint64 {
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
