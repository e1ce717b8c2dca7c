// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"encoding/binary"
	"net/netip"
	"slices"
	"sort"
)

// Number is a value of any field: an address of either family, a port, an id, a mark, the number of an interface.
type Number struct{ hi, lo uint64 }

// N returns a number of up to 64 bits.
func N(v uint64) Number { return Number{lo: v} }

// Wide returns a number of 128 bits.
func Wide(hi, lo uint64) Number { return Number{hi, lo} }

// Filled returns the number with so many of its lowest bits set.
func (a Number) Filled(bits int) Number {
	if bits >= 64 {
		return Number{a.hi | (1<<(bits-64) - 1), ^uint64(0)}
	}
	return Number{a.hi, a.lo | (1<<bits - 1)}
}

// Everything returns all numbers of so many bytes.
func Everything(bytes int) Set { return inOrder([]Span{{Number{}, Number{}.Filled(8 * bytes)}}) }

// Address returns the number that an address is within its family.
func Address(a netip.Addr) Number {
	if a.Is4() {
		b := a.As4()
		return N(uint64(binary.BigEndian.Uint32(b[:])))
	}
	b := a.As16()
	return Number{binary.BigEndian.Uint64(b[:8]), binary.BigEndian.Uint64(b[8:])}
}

func (a Number) address(six bool) netip.Addr {
	if !six {
		return netip.AddrFrom4([4]byte(binary.BigEndian.AppendUint32(nil, uint32(a.lo))))
	}
	return netip.AddrFrom16([16]byte(binary.BigEndian.AppendUint64(binary.BigEndian.AppendUint64(nil, a.hi), a.lo)))
}

func (a Number) compare(b Number) int {
	switch {
	case a == b:
		return 0
	case a.less(b):
		return -1
	}
	return 1
}

func (a Number) less(b Number) bool { return a.hi < b.hi || a.hi == b.hi && a.lo < b.lo }

func (a Number) next() Number {
	if a.lo++; a.lo == 0 {
		a.hi++
	}
	return a
}

func (a Number) previous() Number {
	if a.lo == 0 {
		a.hi--
	}
	a.lo--
	return a
}

// Span is all numbers from First to Last.
type Span struct{ First, Last Number }

// Set is an immutable set of values of one field: sorted spans with gaps between them. The hash makes comparisons cheap.
type Set struct {
	spans []Span
	hash  uint64
}

// inOrder makes a set of sorted spans with gaps between them.
func inOrder(spans []Span) Set {
	h := uint64(14695981039346656037) // FNV-1a, a number at a time
	for _, s := range spans {
		for _, v := range [...]uint64{s.First.hi, s.First.lo, s.Last.hi, s.Last.lo} {
			h = (h ^ v) * 1099511628211
			h ^= h >> 29
		}
	}
	return Set{spans, h}
}

// Union returns the set of all values of spans in any order.
func Union(spans ...Span) Set {
	all := slices.Clone(spans)
	slices.SortFunc(all, func(a, b Span) int { return a.First.compare(b.First) })
	var out []Span
	for _, s := range all {
		if k := len(out) - 1; k >= 0 && (!out[k].Last.less(s.First) || s.First == out[k].Last.next()) {
			if out[k].Last.less(s.Last) {
				out[k].Last = s.Last
			}
			continue
		}
		out = append(out, s)
	}
	return inOrder(out)
}

// Single returns the set of one value.
func Single(v Number) Set { return inOrder([]Span{{v, v}}) }

// Between returns the set of all values from first to last.
func Between(first, last uint64) Set { return inOrder([]Span{{N(first), N(last)}}) }

// Values returns the set of these values.
func Values(values ...uint64) Set {
	all := make([]Span, len(values))
	for i, v := range values {
		all[i] = Span{N(v), N(v)}
	}
	return Union(all...)
}

// Prefix returns the addresses of a prefix.
func Prefix(p netip.Prefix) Set {
	first := p.Masked().Addr()
	last := first.AsSlice()
	for bit := p.Bits(); bit < first.BitLen(); bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return inOrder([]Span{{Address(first), Address(end)}})
}

// Empty reports whether the set has no value.
func (s Set) Empty() bool { return len(s.spans) == 0 }

func (s Set) equal(t Set) bool { return s.hash == t.hash && slices.Equal(s.spans, t.spans) }

// from returns the index of the first span that does not end before v.
func (s Set) from(v Number) int {
	return sort.Search(len(s.spans), func(i int) bool { return !s.spans[i].Last.less(v) })
}

func (s Set) has(v Number) bool {
	i := s.from(v)
	return i < len(s.spans) && !v.less(s.spans[i].First)
}

// meets reports whether the sets have a value in common.
func (s Set) meets(t Set) bool {
	if len(t.spans) > len(s.spans) {
		s, t = t, s
	}
	return slices.ContainsFunc(t.spans, func(b Span) bool {
		i := s.from(b.First)
		return i < len(s.spans) && !b.Last.less(s.spans[i].First)
	})
}

// And returns what both sets have, in time proportional to the smaller one and the result.
func (s Set) And(t Set) Set {
	if len(t.spans) > len(s.spans) {
		s, t = t, s
	}
	var out []Span
	for _, b := range t.spans {
		for i := s.from(b.First); i < len(s.spans) && !b.Last.less(s.spans[i].First); i++ {
			x := s.spans[i]
			if x.First.less(b.First) {
				x.First = b.First
			}
			if b.Last.less(x.Last) {
				x.Last = b.Last
			}
			out = append(out, x)
		}
	}
	return inOrder(out)
}

// Without returns what s has and t has not.
func (s Set) Without(t Set) Set {
	var out []Span
	j := 0
	for _, a := range s.spans {
		for j < len(t.spans) && t.spans[j].Last.less(a.First) {
			j++
		}
		open := true
		for k := j; k < len(t.spans) && !a.Last.less(t.spans[k].First); k++ {
			b := t.spans[k]
			if a.First.less(b.First) {
				out = append(out, Span{a.First, b.First.previous()})
			}
			if !b.Last.less(a.Last) {
				open = false
				break
			}
			a.First = b.Last.next()
		}
		if open {
			out = append(out, a)
		}
	}
	return inOrder(out)
}

// Or returns what either set has.
func (s Set) Or(t Set) Set { return Union(slices.Concat(s.spans, t.spans)...) }
