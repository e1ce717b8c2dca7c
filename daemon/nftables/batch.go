// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// batch is a transaction: changes that are made together or not at all.
type batch struct {
	messages wire // the first one begins the transaction
	starts   []int
	subjects []subject // what each change is about, for errors
	owned    bool      // somebody's process has a table for itself
}

// newBatch begins a transaction that the kernel makes only if the namespace is still at that generation; nil is any.
func newBatch(generation []byte) *batch {
	room := rooms.Get().(*[]byte)
	b := &batch{messages: (*room)[:0]}
	b.messages = appendHeader(b.messages, unix.NFNL_MSG_BATCH_BEGIN, 0, 0, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
	if generation != nil {
		b.messages.bytes(batchGeneration, generation)
		binary.NativeEndian.PutUint32(b.messages, uint32(len(b.messages)))
	}
	return b
}

// release returns the batch's memory to the pool once it was sent.
func (b *batch) release() { rooms.Put((*[]byte)(&b.messages)) }

// batchGeneration is NFNL_BATCH_GENID (linux/netfilter/nfnetlink.h).
const batchGeneration = 1

// subject is printed only where the kernel refuses a change.
type subject struct {
	what, table, chain string
	rule               *rules.Rule
}

func (s subject) String() string {
	text := s.what
	if s.rule != nil {
		text += fmt.Sprintf(" %q", s.rule)
	}
	if s.chain != "" {
		text += " of chain " + s.chain
	}
	return text + " of table " + s.table
}

func (b *batch) changes() int { return len(b.starts) }

// expect makes room for so many changes.
func (b *batch) expect(changes int) {
	b.starts, b.subjects = make([]int, 0, changes), make([]subject, 0, changes)
}

// add writes the header of a change of the family's tables, and what fill adds to it.
func (b *batch) add(kind int, flags uint16, family byte, about subject, fill func(*wire)) {
	begin := len(b.messages)
	b.starts, b.subjects = append(b.starts, begin), append(b.subjects, about)
	b.messages = appendHeader(b.messages, unix.NFNL_SUBSYS_NFTABLES<<8|uint16(kind), flags, 0, family, 0)
	fill(&b.messages)
	binary.NativeEndian.PutUint32(b.messages[begin:], uint32(len(b.messages)-begin))
}

// sealed returns the batch as it is sent, its changes numbered from first on.
func (b *batch) sealed(first uint32) []byte {
	const offsetFlags, offsetSeq = 6, 8 // in struct nlmsghdr
	binary.NativeEndian.PutUint32(b.messages[offsetSeq:], first)
	for i, begin := range b.starts {
		m := b.messages[begin:]
		binary.NativeEndian.PutUint32(m[offsetSeq:], first+uint32(i))
		if i == len(b.starts)-1 {
			binary.NativeEndian.PutUint16(m[offsetFlags:], binary.NativeEndian.Uint16(m[offsetFlags:])|unix.NLM_F_ACK)
		}
	}
	return appendHeader(b.messages, unix.NFNL_MSG_BATCH_END, 0, first, unix.AF_UNSPEC, unix.NFNL_SUBSYS_NFTABLES)
}

// refusal says which change the kernel does not make.
func (b *batch) refusal(i int, err error) error {
	hint := ""
	switch {
	case errors.Is(err, unix.ENOENT):
		hint = " (is a kernel module missing?)"
	case errors.Is(err, unix.EPERM) && b.owned:
		hint = " (a table with flags owner is its process's alone: end that process, or the pod)"
	case errors.Is(err, unix.EPERM):
		hint = " (CAP_NET_ADMIN is needed)"
	}
	if i < 0 || i >= len(b.subjects) {
		return fmt.Errorf("nf_tables refuses %d changes: %w%s", b.changes(), err, hint)
	}
	return fmt.Errorf("nf_tables refuses %s: %w%s", b.subjects[i], err, hint)
}

func (b *batch) newTable(family byte, table string) {
	b.add(unix.NFT_MSG_NEWTABLE, unix.NLM_F_CREATE, family, subject{what: "the beginning", table: table}, func(w *wire) {
		w.text(unix.NFTA_TABLE_NAME, table)
	})
}

func (b *batch) deleteTable(family byte, table string) {
	b.add(unix.NFT_MSG_DELTABLE, 0, family, subject{what: "the end", table: table}, func(w *wire) {
		w.text(unix.NFTA_TABLE_NAME, table)
	})
}

// newChain makes a base chain where it gets a hook.
func (b *batch) newChain(family byte, table, chain string, h hook) {
	b.add(unix.NFT_MSG_NEWCHAIN, unix.NLM_F_CREATE|unix.NLM_F_EXCL, family, subject{what: "the beginning", table: table, chain: chain}, func(w *wire) {
		w.text(unix.NFTA_CHAIN_TABLE, table)
		w.text(unix.NFTA_CHAIN_NAME, chain)
		if h.kind == "" {
			return
		}
		at := w.nest(unix.NFTA_CHAIN_HOOK)
		w.number(unix.NFTA_HOOK_HOOKNUM, h.number)
		w.number(unix.NFTA_HOOK_PRIORITY, uint32(h.priority))
		w.end(at)
		w.number(unix.NFTA_CHAIN_POLICY, h.policy)
		w.text(unix.NFTA_CHAIN_TYPE, h.kind)
	})
}

func (b *batch) deleteChain(family byte, table, chain string) {
	b.add(unix.NFT_MSG_DELCHAIN, 0, family, subject{what: "the end", table: table, chain: chain}, func(w *wire) {
		w.text(unix.NFTA_CHAIN_TABLE, table)
		w.text(unix.NFTA_CHAIN_NAME, chain)
	})
}

func (b *batch) deleteSet(family byte, table, set string) {
	b.add(unix.NFT_MSG_DELSET, 0, family, subject{what: "the end of set " + set, table: table}, func(w *wire) {
		w.text(unix.NFTA_SET_TABLE, table)
		w.text(unix.NFTA_SET_NAME, set)
	})
}

// flush deletes all rules of a chain.
func (b *batch) flush(family byte, table, chain string) {
	b.add(unix.NFT_MSG_DELRULE, 0, family, subject{what: "the emptying", table: table, chain: chain}, func(w *wire) {
		w.text(unix.NFTA_RULE_TABLE, table)
		w.text(unix.NFTA_RULE_CHAIN, chain)
	})
}

func (b *batch) deleteRule(family byte, table, chain string, handle uint64) {
	b.add(unix.NFT_MSG_DELRULE, 0, family, subject{what: "the end of a rule", table: table, chain: chain}, func(w *wire) {
		w.text(unix.NFTA_RULE_TABLE, table)
		w.text(unix.NFTA_RULE_CHAIN, chain)
		w.number64(unix.NFTA_RULE_HANDLE, handle)
	})
}

// newRule adds a rule at the end of its chain, or before the one with that handle if it is not 0.
func (b *batch) newRule(family byte, table, chain string, before uint64, rule *rules.Rule, fill func(*wire) error) (err error) {
	flags := uint16(unix.NLM_F_CREATE | unix.NLM_F_APPEND)
	if before != 0 {
		flags = unix.NLM_F_CREATE
	}
	b.add(unix.NFT_MSG_NEWRULE, flags, family, subject{what: "rule", table: table, chain: chain, rule: rule}, func(w *wire) {
		w.text(unix.NFTA_RULE_TABLE, table)
		w.text(unix.NFTA_RULE_CHAIN, chain)
		if before != 0 {
			w.number64(unix.NFTA_RULE_POSITION, before)
		}
		err = fill(w)
	})
	return err
}
