// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"golang.org/x/sys/unix"
)

// The expressions of nf_tables that rules are made of. Each loads something into register 1, looks at that
// register, or decides. Attributes stand in the order in which the kernel sends them back.

const register = unix.NFT_REG_1

func expression(w *wire, name string, data func()) {
	element := w.nest(unix.NFTA_LIST_ELEM)
	w.text(unix.NFTA_EXPR_NAME, name)
	body := w.nest(unix.NFTA_EXPR_DATA)
	data()
	w.end(body)
	w.end(element)
}

func meta(w *wire, key uint32) {
	expression(w, "meta", func() {
		w.number(unix.NFTA_META_KEY, key)
		w.number(unix.NFTA_META_DREG, register)
	})
}

func payload(w *wire, base uint32, offset, length int) {
	expression(w, "payload", func() {
		w.number(unix.NFTA_PAYLOAD_DREG, register)
		w.number(unix.NFTA_PAYLOAD_BASE, base)
		w.number(unix.NFTA_PAYLOAD_OFFSET, uint32(offset))
		w.number(unix.NFTA_PAYLOAD_LEN, uint32(length))
	})
}

// bitwise keeps the bits of the mask. Newer kernels send back which operation that is, and accept it; whole says it.
func bitwise(w *wire, mask []byte, whole bool) {
	expression(w, "bitwise", func() {
		w.number(unix.NFTA_BITWISE_SREG, register)
		w.number(unix.NFTA_BITWISE_DREG, register)
		w.number(unix.NFTA_BITWISE_LEN, uint32(len(mask)))
		if whole {
			w.number(bitwiseOperation, 0)
		}
		value(w, unix.NFTA_BITWISE_MASK, mask)
		value(w, unix.NFTA_BITWISE_XOR, make([]byte, len(mask)))
	})
}

func compare(w *wire, operator uint32, data []byte) {
	expression(w, "cmp", func() {
		w.number(unix.NFTA_CMP_SREG, register)
		w.number(unix.NFTA_CMP_OP, operator)
		value(w, unix.NFTA_CMP_DATA, data)
	})
}

func value(w *wire, kind uint16, data []byte) {
	v := w.nest(kind)
	w.bytes(unix.NFTA_DATA_VALUE, data)
	w.end(v)
}

func counter(w *wire) {
	expression(w, "counter", func() {
		w.number64(unix.NFTA_COUNTER_BYTES, 0)
		w.number64(unix.NFTA_COUNTER_PACKETS, 0)
	})
}

// immediate ends the rule with a verdict; chain is where a jump or goto leads.
func immediate(w *wire, code int32, chain string) {
	expression(w, "immediate", func() {
		w.number(unix.NFTA_IMMEDIATE_DREG, unix.NFT_REG_VERDICT)
		data := w.nest(unix.NFTA_IMMEDIATE_DATA)
		verdict := w.nest(unix.NFTA_DATA_VERDICT)
		w.number(unix.NFTA_VERDICT_CODE, uint32(code))
		if chain != "" {
			w.text(unix.NFTA_VERDICT_CHAIN, chain)
		}
		w.end(verdict)
		w.end(data)
	})
}

// extension is a match or target of xtables. The attributes of both have the same numbers.
func extension(w *wire, kind, name string, revision uint32, info []byte) {
	expression(w, kind, func() {
		w.text(unix.NFTA_MATCH_NAME, name)
		w.number(unix.NFTA_MATCH_REV, revision)
		w.bytes(unix.NFTA_MATCH_INFO, info)
	})
}
