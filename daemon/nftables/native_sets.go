// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// setKind is what a set holds, with the numbers that nft knows its types by (nftables, datatype.h); the
// kernel keeps them for it.
type setKind struct {
	name   string
	kind   uint32
	length uint32 // of an element, in bytes
	flags  uint32
	order  uint32 // of an element's bytes, for nft: 1 is the host's, 2 the network's
}

var (
	ports   = setKind{"ports", 13, 2, unix.NFT_SET_CONSTANT, 2}
	spans   = setKind{"port-ranges", 13, 2, unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL, 2}
	users   = setKind{"users", 24, 4, unix.NFT_SET_CONSTANT, 1}
	groups  = setKind{"groups", 25, 4, unix.NFT_SET_CONSTANT, 1}
	ranges4 = setKind{"ranges-ip", 7, 4, unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL, 2}
	ranges6 = setKind{"ranges-ip6", 8, 16, unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL, 2}
)

// nativeSet is a set and its elements, in their order.
type nativeSet struct {
	setKind
	name     string
	elements []setElement
}

// setElement is a value; for ranges, where one begins or, with end, the first value behind it.
type setElement struct {
	key []byte
	end bool
}

func (e setElement) compare(other setElement) int { return bytes.Compare(e.key, other.key) }

// set makes a set, or finds one that holds the same, and returns its name.
func (c *compiler) set(kind setKind, elements []setElement) string {
	content := fmt.Sprint(kind.name, elements)
	name, made := c.names[content]
	if !made {
		c.made[kind]++
		name = fmt.Sprintf("%s-%d", kind.name, c.made[kind])
		c.names[content] = name
		c.sets = append(c.sets, nativeSet{setKind: kind, name: name, elements: elements})
	}
	return name
}

// setOf returns what a set of these values is. All are of the same kind.
func setOf(values []rules.Match) (setKind, []setElement) {
	kind := fields[values[0].Field].set
	var single []setElement
	var prefixes []netip.Prefix
	var spanned []rules.PortRange
	for _, m := range values {
		switch v := m.Value.(type) {
		case rules.Addresses:
			prefixes = append(prefixes, v.Prefix)
			if v.Addr().Is6() {
				kind = ranges6
			}
		case rules.Port, rules.PortList:
			spanned = append(spanned, m.Ports()...)
		default:
			single = append(single, setElement{key: key(v)})
		}
	}
	switch {
	case prefixes != nil:
		return kind, intervals(prefixes)
	case spanned != nil:
		return portSet(spanned)
	}
	return kind, ordered(single)
}

// ordered sorts elements, and leaves out repetitions.
func ordered(elements []setElement) []setElement {
	slices.SortFunc(elements, setElement.compare)
	return slices.CompactFunc(elements, func(a, b setElement) bool { return bytes.Equal(a.key, b.key) })
}

// portSet returns single ports, or where ranges of ports begin and end, without overlaps.
func portSet(list []rules.PortRange) (setKind, []setElement) {
	key := func(port uint16) []byte { return binary.BigEndian.AppendUint16(nil, port) }
	ranges := slices.SortedFunc(slices.Values(list), func(a, b rules.PortRange) int { return cmp.Compare(a.First, b.First) })
	if !slices.ContainsFunc(list, func(r rules.PortRange) bool { return r.First != r.Last }) {
		single := make([]setElement, len(ranges))
		for i, r := range ranges {
			single[i].key = key(r.First)
		}
		return ports, ordered(single)
	}
	var elements []setElement
	for i := 0; i < len(ranges); {
		first, last := ranges[i].First, ranges[i].Last
		for i++; i < len(ranges) && int(ranges[i].First) <= int(last)+1; i++ {
			last = max(last, ranges[i].Last)
		}
		elements = append(elements, setElement{key: key(first)})
		if last < 1<<16-1 {
			elements = append(elements, setElement{key: key(last + 1), end: true})
		}
	}
	return spans, elements
}

// intervals returns where addresses of the prefixes begin and end, without overlaps: the kernel refuses them.
func intervals(prefixes []netip.Prefix) []setElement {
	slices.SortFunc(prefixes, func(a, b netip.Prefix) int {
		return cmp.Or(a.Masked().Addr().Compare(b.Masked().Addr()), cmp.Compare(a.Bits(), b.Bits()))
	})
	var elements []setElement
	var behind netip.Addr // end of the open range; invalid without one, or where it reaches to the last address
	for _, p := range prefixes {
		begin := p.Masked().Addr()
		switch {
		case len(elements) == 0:
			elements = append(elements, setElement{key: begin.AsSlice()})
		case !behind.IsValid() || begin.Less(behind):
			continue // within the one before: overlapping prefixes are always nested
		case begin != behind:
			elements = append(elements, setElement{key: behind.AsSlice(), end: true}, setElement{key: begin.AsSlice()})
		}
		behind = after(p)
	}
	if behind.IsValid() {
		elements = append(elements, setElement{key: behind.AsSlice(), end: true})
	}
	return elements
}

// after returns the first address behind a prefix; the invalid one where there is none.
func after(p netip.Prefix) netip.Addr {
	last := p.Masked().Addr().AsSlice()
	for i, bits := range net.CIDRMask(p.Bits(), 8*len(last)) {
		last[i] |= ^bits
	}
	addr, _ := netip.AddrFromSlice(last)
	return addr.Next()
}

// longestList is how many bytes of elements are sent at once: the length of an attribute has 16 bits.
const longestList = 48 << 10

// appendTo makes the set, under a number for this transaction, and fills it.
func (s nativeSet) appendTo(b *batch, id uint32) {
	about := subject{what: "set " + s.name, table: nativeTable}
	b.add(unix.NFT_MSG_NEWSET, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nativeFamily, about, func(w *wire) {
		w.text(unix.NFTA_SET_TABLE, nativeTable)
		w.text(unix.NFTA_SET_NAME, s.name)
		w.number(unix.NFTA_SET_FLAGS, s.flags)
		w.number(unix.NFTA_SET_KEY_TYPE, s.kind)
		w.number(unix.NFTA_SET_KEY_LEN, s.length)
		w.number(unix.NFTA_SET_ID, id)
		w.bytes(unix.NFTA_SET_USERDATA, s.userdata())
		desc := w.nest(unix.NFTA_SET_DESC)
		w.number(unix.NFTA_SET_DESC_SIZE, uint32(len(s.elements)))
		w.end(desc)
	})
	s.fill(b)
}

// fill adds the elements to the set.
func (s nativeSet) fill(b *batch) {
	about := subject{what: "set " + s.name, table: nativeTable}
	for rest := s.elements; len(rest) > 0; {
		b.add(unix.NFT_MSG_NEWSETELEM, unix.NLM_F_CREATE|unix.NLM_F_EXCL, nativeFamily, about, func(w *wire) {
			w.text(unix.NFTA_SET_ELEM_LIST_TABLE, nativeTable)
			w.text(unix.NFTA_SET_ELEM_LIST_SET, s.name)
			list := w.nest(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
			for begin := len(*w); len(rest) > 0 && len(*w)-begin < longestList; rest = rest[1:] {
				rest[0].appendTo(w)
			}
			w.end(list)
		})
	}
}

func (e setElement) appendTo(w *wire) {
	element := w.nest(unix.NFTA_LIST_ELEM)
	value(w, unix.NFTA_SET_ELEM_KEY, e.key)
	if e.end {
		w.number(unix.NFTA_SET_ELEM_FLAGS, unix.NFT_SET_ELEM_INTERVAL_END)
	}
	w.end(element)
}

// userdata tells nft the order of an element's bytes (libnftnl, udata.h).
func (s nativeSet) userdata() []byte {
	const keyByteOrder = 0 // NFTNL_UDATA_SET_KEYBYTEORDER
	return binary.NativeEndian.AppendUint32([]byte{keyByteOrder, 4}, s.order)
}
