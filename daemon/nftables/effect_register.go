// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules/effect"
)

// loaded is what stands in a register.
type loaded struct {
	field  effect.Field
	known  bool   // the field is known
	length int    // in bytes
	native bool   // in the host's order
	mask   []byte // that was applied to it; nil is none
	pinned []byte // a constant instead of a field: set by the rule, or given by the family
	text   bool   // the name of an interface
	top    int    // how many bytes the whole field has, of which these are the first
}

// number reads bytes in the order of what is loaded. Those of the first part of a field are its highest.
func (l loaded) number(b []byte) (effect.Number, bool) {
	if len(b) != l.length {
		return effect.Number{}, false
	}
	whole := make([]byte, 16)
	if l.native && nativeIsLittle {
		b = slices.Clone(b)
		slices.Reverse(b)
	}
	copy(whole[16-l.top:], b)
	return effect.Wide(binary.BigEndian.Uint64(whole[:8]), binary.BigEndian.Uint64(whole[8:])), true
}

var nativeIsLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// span returns the values of the whole field whose first bytes are from first to last.
func (l loaded) span(first, last []byte) (effect.Span, bool) {
	a, ok := l.number(first)
	b, ok2 := l.number(last)
	return effect.Span{First: a, Last: b.Filled(8 * (l.top - l.length))}, ok && ok2
}

// registers are the kernel's, of which several names can mean the same bytes.
type registers [16]loaded

const word = 4 // bytes

// place returns where a register begins, in words; false where there is none.
func place(register uint32) (int, bool) {
	switch {
	case register >= unix.NFT_REG_1 && register <= unix.NFT_REG_4:
		return int(register-unix.NFT_REG_1) * 4, true
	case register >= unix.NFT_REG32_00 && register <= unix.NFT_REG32_15:
		return int(register - unix.NFT_REG32_00), true
	}
	return 0, false
}

// at returns what stands in a register.
func (r *registers) at(register uint32) loaded {
	i, ok := place(register)
	if !ok {
		return loaded{}
	}
	return r[i]
}

// load writes a register, and with it whatever else begins or reaches there.
func (r *registers) load(register uint32, l loaded) {
	begin, ok := place(register)
	if !ok || l.size() == 0 { // nobody knows what it overwrites
		*r = registers{}
		return
	}
	end := begin + (l.size()+word-1)/word
	for i := range r {
		if i < end && i+(r[i].size()+word-1)/word > begin {
			r[i] = loaded{}
		}
	}
	r[begin] = l
}

// size returns how many bytes it takes; 0 is unknown.
func (l loaded) size() int {
	if l.pinned != nil {
		return len(l.pinned)
	}
	return l.length
}
