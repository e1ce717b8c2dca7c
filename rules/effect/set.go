// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"cmp"
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
	return cmp.Or(cmp.Compare(a.hi, b.hi), cmp.Compare(a.lo, b.lo))
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

// Set is an immutable set of values of one field. It is a pointer, since boxes of sets are copied all the time.
type Set struct{ of *values }

// values are sorted spans with gaps between them. The hash makes comparisons cheap.
type values struct {
	spans []Span
	hash  uint64
}

func (s Set) all() []Span {
	if s.of == nil {
		return nil
	}
	return s.of.spans
}

func (s Set) hash() uint64 {
	if s.of == nil {
		return 0
	}
	return s.of.hash
}

// inOrder makes a set of sorted spans with gaps between them.
func inOrder(spans []Span) Set {
	if len(spans) == 0 {
		return Set{}
	}
	h := uint64(14695981039346656037) // FNV-1a, a number at a time
	for _, s := range spans {
		for _, v := range [...]uint64{s.First.hi, s.First.lo, s.Last.hi, s.Last.lo} {
			h = (h ^ v) * 1099511628211
			h ^= h >> 29
		}
	}
	return Set{&values{spans, h}}
}

// Union returns the set of all values of spans in any order.
func Union(spans ...Span) Set { return inOrder(sorted(slices.Clone(spans))) }

// sorted sorts spans in any order, in their place, and joins those without a gap between them. One that ends before it begins,
// as whoever has NET_ADMIN in a pod can have the kernel ask for it, has no value.
func sorted(all []Span) []Span {
	all = slices.DeleteFunc(all, func(s Span) bool { return s.Last.less(s.First) })
	slices.SortFunc(all, func(a, b Span) int { return a.First.compare(b.First) })
	k := 0
	for _, s := range all {
		switch {
		case k == 0 || all[k-1].Last.less(s.First) && s.First != all[k-1].Last.next():
			all[k] = s
			k++
		case all[k-1].Last.less(s.Last):
			all[k-1].Last = s.Last
		}
	}
	return all[:k]
}

// Single returns the set of one value.
func Single(v Number) Set { return inOrder([]Span{{v, v}}) }

// Between returns the set of all values from first to last.
func Between(first, last uint64) Set { return Union(Span{N(first), N(last)}) }

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
	first := Address(p.Masked().Addr())
	return inOrder([]Span{{first, first.Filled(p.Addr().BitLen() - p.Bits())}})
}

// Empty reports whether the set has no value.
func (s Set) Empty() bool { return s.of == nil }

// single returns the only value of a set, if there is only one.
func (s Set) single() (v Number, one bool) {
	if s.of == nil || len(s.of.spans) != 1 {
		return v, false
	}
	only := &s.of.spans[0]
	return only.First, only.First == only.Last
}

func (s Set) equal(t Set) bool {
	return s.of == t.of || s.hash() == t.hash() && slices.Equal(s.all(), t.all())
}

func (s Set) has(v Number) bool {
	i := from(s.all(), v)
	return i < len(s.all()) && !v.less(s.all()[i].First)
}

// from returns the index of the first span that does not end before v.
func from(spans []Span, v Number) int {
	if len(spans) < 8 {
		i := 0
		for i < len(spans) && spans[i].Last.less(v) {
			i++
		}
		return i
	}
	return sort.Search(len(spans), func(i int) bool { return !spans[i].Last.less(v) })
}

// meets reports whether the sets have a value in common.
func (s Set) meets(t Set) bool {
	if s.of == t.of {
		return s.of != nil
	}
	few, many := s.all(), t.all()
	if len(few) > len(many) {
		few, many = many, few
	}
	for _, a := range few {
		if i := from(many, a.First); i < len(many) && !a.Last.less(many[i].First) {
			return true
		}
	}
	return false
}

// And returns what both sets have, in time proportional to the smaller one and the result.
func (s Set) And(t Set) Set {
	if s.equal(t) {
		return s
	}
	if len(t.all()) > len(s.all()) {
		s, t = t, s
	}
	few, many := t.all(), s.all()
	out := make([]Span, 0, len(few))
	for _, a := range few {
		for i := from(many, a.First); i < len(many) && !a.Last.less(many[i].First); i++ {
			out = append(out, Span{later(a.First, many[i].First), earlier(a.Last, many[i].Last)})
		}
	}
	for _, whole := range []Set{s, t} { // the same set as before is told apart at once
		if slices.Equal(out, whole.all()) {
			return whole
		}
	}
	return inOrder(out)
}

func later(a, b Number) Number {
	if a.less(b) {
		return b
	}
	return a
}

func earlier(a, b Number) Number {
	if a.less(b) {
		return a
	}
	return b
}

// Without returns what s has and t has not.
func (s Set) Without(t Set) Set {
	var out []Span
	minus := t.all()
	for _, a := range s.all() {
		for len(minus) > 0 && minus[0].Last.less(a.First) {
			minus = minus[1:]
		}
		open := true
		for _, b := range minus {
			if a.Last.less(b.First) {
				break
			}
			if a.First.less(b.First) {
				out = append(out, Span{a.First, b.First.previous()})
			}
			if open = b.Last.less(a.Last); !open {
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
func (s Set) Or(t Set) Set { return Union(slices.Concat(s.all(), t.all())...) }
