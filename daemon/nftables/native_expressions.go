// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// Attributes and values that x/sys/unix does not know (linux/netfilter/nf_tables.h).
const (
	tproxyFamily  = 1 // NFTA_TPROXY_FAMILY
	tproxyAddress = 2 // NFTA_TPROXY_REG_ADDR
	tproxyPort    = 3 // NFTA_TPROXY_REG_PORT
)

// register2 is for what is needed besides the register that everything else uses.
const register2 = unix.NFT_REG_2

// store puts a value into a register.
func store(w *wire, into uint32, data []byte) {
	expression(w, "immediate", func() {
		w.number(unix.NFTA_IMMEDIATE_DREG, into)
		value(w, unix.NFTA_IMMEDIATE_DATA, data)
	})
}

func storePort(w *wire, into uint32, port uint16) {
	store(w, into, binary.BigEndian.AppendUint16(nil, port))
}

func storeNumber(w *wire, n uint32) {
	store(w, register, binary.NativeEndian.AppendUint32(nil, n))
}

func storeZone(w *wire, zone uint16) {
	store(w, register, binary.NativeEndian.AppendUint16(nil, zone))
}

// lookup ends the rule where the set does not hold what is loaded, or with NFT_LOOKUP_F_INV where it does.
func lookup(w *wire, set string, flags uint32) {
	expression(w, "lookup", func() {
		w.text(unix.NFTA_LOOKUP_SET, set)
		w.number(unix.NFTA_LOOKUP_SREG, register)
		w.number(unix.NFTA_LOOKUP_FLAGS, flags)
	})
}

// connection loads a value of the connection. Without a connection the rule fails, unless the value is the state.
func connection(w *wire, key uint32) {
	expression(w, "ct", func() {
		w.number(unix.NFTA_CT_DREG, register)
		w.number(unix.NFTA_CT_KEY, key)
	})
}

func setConnection(w *wire, key uint32) {
	expression(w, "ct", func() {
		w.number(unix.NFTA_CT_SREG, register)
		w.number(unix.NFTA_CT_KEY, key)
	})
}

func setMark(w *wire) {
	expression(w, "meta", func() {
		w.number(unix.NFTA_META_KEY, unix.NFT_META_MARK)
		w.number(unix.NFTA_META_SREG, register)
	})
}

// handOver gives the packet to the listener and marks it. Without a listener the rule ends before the mark.
func handOver(w *wire, family rules.Family, t rules.TProxy) {
	port := uint32(register)
	if !t.Addr.IsUnspecified() {
		store(w, register, t.Addr.AsSlice())
		port = register2
	}
	storePort(w, port, t.Port)
	expression(w, "tproxy", func() {
		w.number(tproxyFamily, uint32(nfFamily(family)))
		if !t.Addr.IsUnspecified() {
			w.number(tproxyAddress, register)
		}
		w.number(tproxyPort, port)
	})
	storeNumber(w, t.Mark)
	setMark(w)
	immediate(w, accept, "")
}

func redirect(w *wire, port uint16) {
	storePort(w, register, port)
	expression(w, "redir", func() {
		w.number(unix.NFTA_REDIR_REG_PROTO_MIN, register)
		w.number(unix.NFTA_REDIR_REG_PROTO_MAX, register)
		w.number(unix.NFTA_REDIR_FLAGS, unix.NF_NAT_RANGE_PROTO_SPECIFIED)
	})
}

// toNetworkOrder converts the loaded number from the host's byte order.
func toNetworkOrder(w *wire, length uint32) {
	expression(w, "byteorder", func() {
		w.number(unix.NFTA_BYTEORDER_SREG, register)
		w.number(unix.NFTA_BYTEORDER_DREG, register)
		w.number(unix.NFTA_BYTEORDER_OP, unix.NFT_BYTEORDER_HTON)
		w.number(unix.NFTA_BYTEORDER_LEN, length)
		w.number(unix.NFTA_BYTEORDER_SIZE, length)
	})
}

func translate(w *wire, family rules.Family, t rules.DNAT) {
	store(w, register, t.To.AsSlice())
	flags := uint32(unix.NF_NAT_RANGE_MAP_IPS)
	if t.Port != 0 {
		storePort(w, register2, t.Port)
		flags |= unix.NF_NAT_RANGE_PROTO_SPECIFIED
	}
	expression(w, "nat", func() {
		w.number(unix.NFTA_NAT_TYPE, unix.NFT_NAT_DNAT)
		w.number(unix.NFTA_NAT_FAMILY, uint32(nfFamily(family)))
		w.number(unix.NFTA_NAT_REG_ADDR_MIN, register)
		w.number(unix.NFTA_NAT_REG_ADDR_MAX, register)
		if t.Port != 0 {
			w.number(unix.NFTA_NAT_REG_PROTO_MIN, register2)
			w.number(unix.NFTA_NAT_REG_PROTO_MAX, register2)
		}
		w.number(unix.NFTA_NAT_FLAGS, flags)
	})
}

func reject(w *wire, answer rules.RejectWith) {
	expression(w, "reject", func() {
		if answer == rules.RejectReset {
			w.number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_TCP_RST)
			return
		}
		w.number(unix.NFTA_REJECT_TYPE, unix.NFT_REJECT_ICMPX_UNREACH)
		w.bytes(unix.NFTA_REJECT_ICMP_CODE, []byte{unix.NFT_REJECT_ICMPX_PORT_UNREACH})
	})
}
