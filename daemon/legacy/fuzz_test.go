// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"bytes"
	"encoding/binary"
	"math/bits"
	"slices"
	"testing"
)

// Entries of any bytes are refused, or lose their counters and nothing else.
func FuzzEntries(f *testing.F) {
	for _, b := range []blobs{blobs4, blobs6} {
		f.Add(bytes.Repeat([]byte{1}, b.entry-1), b.ip == blobs6.ip)
		f.Add(b.table([]byte{0, 40, 3}), b.ip == blobs6.ip)
	}
	f.Add([]byte{}, false)
	f.Fuzz(func(t *testing.T, entries []byte, six bool) {
		b := blobs4
		if six {
			b = blobs6
		}
		was := slices.Clone(entries)
		if b.clearCounters(entries) != nil {
			return
		}
		for at := 0; at < len(entries); at += int(binary.NativeEndian.Uint16(entries[at+b.next:])) {
			if !bytes.Equal(entries[at+b.counter:at+b.counter+16], make([]byte, 16)) {
				t.Errorf("the entry at %d keeps its counters", at)
			}
			copy(entries[at+b.counter:], was[at+b.counter:at+b.counter+16])
		}
		if !bytes.Equal(entries, was) {
			t.Error("more than counters was changed")
		}
	})
}

// table makes entries of such lengths beyond the shortest, each with a target that accepts.
func (b blobs) table(more []byte) []byte {
	var entries []byte
	for _, n := range more {
		const standard = 40 // struct xt_standard_target
		e := make([]byte, b.entry+standard+int(n))
		binary.NativeEndian.PutUint16(e[b.next:], uint16(len(e)))
		binary.NativeEndian.PutUint16(e[b.target:], uint16(b.entry))
		binary.NativeEndian.PutUint32(e[b.entry+verdict:], uint32(0xfffffffe))
		entries = append(entries, e...)
	}
	return entries
}

// A table as the kernel lays it out, with any rules and policies: it is as good as none only where there is
// nothing but policies that accept.
func FuzzIdle(f *testing.F) {
	f.Add(byte(0b01011), []byte{}, uint32(0xfffffffe), byte(0))
	f.Add(byte(0b01011), []byte{8}, uint32(0xfffffffe), byte(0))
	f.Add(byte(0b00111), []byte{}, uint32(0xffffffff), byte(1))
	f.Add(byte(0), []byte{}, uint32(0), byte(0))
	f.Fuzz(func(t *testing.T, hooks byte, more []byte, code uint32, which byte) {
		hooks &= 0b11111 // NF_INET_NUMHOOKS
		for _, b := range []blobs{blobs4, blobs6} {
			count := bits.OnesCount8(hooks)
			entries := b.table(slices.Concat(more, make([]byte, count+1)))
			info := make([]byte, infoLength)
			binary.NativeEndian.PutUint32(info[infoValidHooks:], uint32(hooks))
			binary.NativeEndian.PutUint32(info[infoNumEntries:], uint32(len(more)+count+1))
			first := len(b.table(more))
			policy := len(b.table([]byte{0}))
			accepts := true
			for place, hook := 0, 0; hook < 5; hook++ {
				if hooks>>hook&1 == 0 {
					continue
				}
				at := first + place*policy
				binary.NativeEndian.PutUint32(info[infoUnderflow+4*hook:], uint32(at))
				if place == int(which) {
					binary.NativeEndian.PutUint32(entries[at+b.entry+verdict:], code)
					accepts = code == 0xfffffffe
				}
				place++
			}
			if got, want := b.idle(info, entries), accepts && len(more) == 0; got != want {
				t.Errorf("hooks %05b, %d rules, policy %d is %#x: idle %t", hooks, len(more), which, code, got)
			}
		}
	})
}

// Whatever stands in entries that are as long as they say, they are read within their bounds.
func FuzzOnly(f *testing.F) {
	f.Add([]byte{0, 8, 0}, []byte("ERROR"), uint16(114))
	f.Add([]byte{24}, []byte{}, uint16(0))
	f.Fuzz(func(t *testing.T, more, junk []byte, at uint16) {
		for _, b := range []blobs{blobs4, blobs6} {
			entries := b.table(more)
			for first := 0; first < len(entries); {
				next := first + int(binary.NativeEndian.Uint16(entries[first+b.next:]))
				if place := first + b.target + int(at); place < next && place != first+b.next && place != first+b.next+1 {
					copy(entries[place:min(next, place+len(junk))], junk)
				}
				first = next
			}
			if b.clearCounters(entries) != nil {
				continue
			}
			info := make([]byte, infoLength)
			binary.NativeEndian.PutUint32(info[infoValidHooks:], uint32(at&0b11111))
			copy(info[infoUnderflow:], junk)
			_ = b.only(info, entries, func(chain string) bool { return chain == "PROXY_INIT_OUTPUT" })
		}
	})
}

// Any bytes are taken apart or refused, and every rule has all that it is asked for.
func FuzzParse(f *testing.F) {
	for _, b := range []blobs{blobs4, blobs6} {
		text := append([]byte{byte(b.family), 0, 0, 0, 3}, "nat"...)
		entries := b.table([]byte{0, 40, 3})
		text = binary.BigEndian.AppendUint32(text, uint32(infoLength-nameLength+len(entries)))
		f.Add(append(append(text, make([]byte, infoLength-nameLength)...), entries...))
	}
	f.Add([]byte{2, 0, 0})
	f.Fuzz(func(t *testing.T, text []byte) {
		tables, err := Parse(text)
		if err != nil {
			return
		}
		for _, table := range tables {
			for at, e := range table.Entries {
				if e.Next <= at || len(e.Packet) < blobs4.packet || !e.Head && e.Target.Name == "" && len(e.Target.Info) < 4 {
					t.Errorf("the entry at %d: %+v", at, e)
				}
			}
		}
	})
}
