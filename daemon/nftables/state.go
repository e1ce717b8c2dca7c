// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// Requests to nf_tables. This and the numbers below are from the kernel's
// include/uapi/linux/netfilter/nf_tables.h.
const (
	getTables = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETTABLE
	getChains = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETCHAIN
	getRules  = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETRULE
	getGen    = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETGEN
)

// Attributes that x/sys/unix does not know.
const (
	tableHandle    = 4  // NFTA_TABLE_HANDLE
	tablePad       = 5  // NFTA_TABLE_PAD
	tableOwner     = 7  // NFTA_TABLE_OWNER, a netlink port
	flagOwner      = 2  // NFT_TABLE_F_OWNER: only the socket that made the table may change it
	flagPersist    = 4  // NFT_TABLE_F_PERSIST: it stays when that socket is closed
	chainID        = 11 // NFTA_CHAIN_ID
	rulePositionID = 10 // NFTA_RULE_POSITION_ID
	ruleChainID    = 11 // NFTA_RULE_CHAIN_ID
	quotaPad       = 3  // NFTA_QUOTA_PAD
	quotaConsumed  = 4  // NFTA_QUOTA_CONSUMED
)

// The policies of base chains (linux/netfilter.h).
const (
	drop   = 0
	accept = 1
	unset  = ^uint32(0)
)

// kernel is nf_tables as one namespace sees it.
type kernel interface {
	// await returns when no change of the tables is half done. Some kernels count a change before they make
	// it and some after, so that the generation alone would not show that what was read is of two states.
	await() error
	// ask returns the messages that answer a request about a family, or all, or netlink.ErrMoved.
	ask(request uint16, family byte, attributes []byte) ([]message, error)
	// reopen leaves an answer that was not read to its end.
	reopen() error
	// limit is what one look reads at most, of which ask keeps to the bytes and objects.
	limit() bound
	// spare returns so many bytes of room for what is made of messages, which is valid as long as they are.
	spare(length int) []byte
}

// message is a table, a chain, a rule or a generation.
type message struct {
	family     uint8
	attributes []byte
}

// generationOf returns the number that changes with every change of the namespace's tables.
func generationOf(k kernel) ([]byte, error) {
	messages, err := k.ask(getGen, unix.NFPROTO_UNSPEC, nil)
	if err != nil {
		return nil, err
	}
	for _, m := range messages {
		if id := netlink.Attribute(m.attributes, unix.NFTA_GEN_ID); len(id) > 0 {
			return id, nil
		}
	}
	return nil, errors.New("nf_tables does not say which generation its rules are of")
}

// state is what nf_tables holds for a namespace at one generation, sorted: tables and chains by their names,
// and the rules of each chain in the order in which packets meet them.
type state struct {
	generation            []byte
	tables, chains, rules []object
	sets, elements        []object // of the native table, and what rules of others ask that nothing but netlink changes
}

// read returns a state that the namespace was in. It fails with netlink.ErrMoved where a change of the tables began
// meanwhile.
func read(k kernel) (state, error) {
	var s state
	var err error
	if s.generation, err = generationOf(k); err != nil {
		return s, err
	}
	if err := k.await(); err != nil {
		return s, err
	}
	for _, dump := range []struct {
		objects *[]object
		request uint16
		read    func(message, []byte) (object, error)
	}{{&s.tables, getTables, readTable}, {&s.chains, getChains, readChain}, {&s.rules, getRules, readRule}} {
		if dump.request != getTables && len(s.tables) == 0 {
			break // whatever is there is in one
		}
		messages, err := k.ask(dump.request, unix.NFPROTO_UNSPEC, nil)
		if err != nil {
			return s, err
		}
		if *dump.objects, err = objects(messages, k.spare, dump.read); err != nil {
			return s, err
		}
	}
	if s.hasNative() {
		if s.sets, s.elements, err = readSets(k); err != nil {
			return s, err
		}
	}
	if err := s.readSetsOfOthers(k); err != nil {
		return s, err
	}
	if err := k.await(); err != nil {
		return s, err
	}
	after, err := generationOf(k)
	if err != nil {
		return s, err
	}
	if !bytes.Equal(s.generation, after) {
		return s, netlink.ErrMoved
	}
	return s, nil
}

// object is a table, a chain, a rule, a set or the elements of one. A table's chain is nil.
type object struct {
	family       uint8
	table, chain []byte // a set's name stands where a chain's does
	handle       uint64
	idle         bool   // a table or chain of iptables that says nothing which its rules do not
	dormant      bool   // a table whose hooks are off
	owned        bool   // a table that nobody but a process of somebody else's may change
	fleeting     bool   // a table that goes with its owner, which moves no generation
	hook         hook   // of a base chain
	expressions  []byte // of a rule
	text         []byte // all that counts
}

// drops reports whether a base chain ends what its rules leave.
func (o object) drops() bool { return o.hook.kind != "" && o.hook.policy == drop }

// hook is where the kernel calls a base chain. The zero hook is none.
type hook struct {
	kind     string // nat, filter or route
	number   uint32 // NF_INET_*
	priority int32
	policy   uint32 // NF_ACCEPT or NF_DROP
}

// objects reads messages and sorts what they describe: tables and chains are listed in any order. Rules
// are sorted by their chain only, so that their order within it counts.
func objects(messages []message, spare func(int) []byte, read func(message, []byte) (object, error)) ([]object, error) {
	size := 0
	for _, m := range messages {
		size += len(m.attributes)
	}
	room := spare(size)
	list := make([]object, 0, len(messages))
	for _, m := range messages {
		o, err := read(m, room)
		if err != nil {
			return nil, err
		}
		room = o.text[len(o.text):] // the next one is written behind this one
		list = append(list, o)
	}
	return sorted(list), nil
}

// fresh is room of its own.
func fresh(length int) []byte { return make([]byte, 0, length) }

// sorted is a stable sort. What belongs to one chain stands together already, so that few pieces are moved.
func sorted(list []object) []object {
	var runs [][]object
	begin := 0
	for i := 1; i <= len(list); i++ {
		if i == len(list) || list[i].compare(list[begin]) != 0 {
			runs = append(runs, list[begin:i])
			begin = i
		}
	}
	slices.SortStableFunc(runs, func(a, b []object) int { return a[0].compare(b[0]) })
	return slices.Concat(runs...)
}

func (o object) compare(other object) int {
	return cmp.Or(cmp.Compare(o.family, other.family), bytes.Compare(o.table, other.table), bytes.Compare(o.chain, other.chain))
}

// of returns the part of a sorted list that belongs to the chain or set.
func (o object) of(list []object) []object {
	begin, found := slices.BinarySearchFunc(list, o, object.compare)
	if !found {
		return nil
	}
	end := begin
	for end < len(list) && list[end].compare(o) == 0 {
		end++
	}
	return list[begin:end]
}

// ofIPTables reports whether a table is one that iptables makes. These stay behind, empty, when their last
// rule goes, so that an empty one must be as good as none.
func (o object) ofIPTables() bool {
	if o.family != unix.NFPROTO_IPV4 && o.family != unix.NFPROTO_IPV6 {
		return false
	}
	switch name(o.table) {
	case "nat", "mangle", "raw", "filter", "security":
		return true
	}
	return false
}

// name returns a name as the kernel sends it, without its zero byte.
func name(value []byte) string { return unix.ByteSliceToString(value) }

func readTable(m message, text []byte) (object, error) {
	o := object{family: m.family}
	flags := uint32(0)
	err := eachAttribute(m.attributes, func(a attribute) error {
		switch a.kind {
		case unix.NFTA_TABLE_USE, tableHandle, tablePad, tableOwner:
			return nil
		case unix.NFTA_TABLE_NAME:
			o.table = a.value
		case unix.NFTA_TABLE_FLAGS:
			flags = a.number()
		}
		text = a.appendTo(text)
		return nil
	})
	o.text, o.idle, o.dormant = text, o.ofIPTables() && flags == 0, flags&unix.NFT_TABLE_F_DORMANT != 0
	o.owned = flags&flagOwner != 0
	o.fleeting = o.owned && flags&flagPersist == 0
	return o, err
}

func readChain(m message, text []byte) (object, error) {
	o := object{family: m.family}
	policy := unset
	err := eachAttribute(m.attributes, func(a attribute) (err error) {
		switch a.kind {
		case unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE, unix.NFTA_CHAIN_COUNTERS, unix.NFTA_CHAIN_PAD, chainID:
			return nil
		case unix.NFTA_CHAIN_TABLE:
			o.table = a.value
		case unix.NFTA_CHAIN_NAME:
			o.chain = a.value
		case unix.NFTA_CHAIN_TYPE:
			o.hook.kind = name(a.value)
		case unix.NFTA_CHAIN_HOOK:
			err = readHook(a.value, &o.hook)
		case unix.NFTA_CHAIN_POLICY: // only chains with a hook have one
			policy = a.number()
			o.hook.policy = policy
		}
		text = a.appendTo(text)
		return err
	})
	o.text, o.idle = text, o.ofIPTables() && policy == accept
	return o, err
}

func readHook(list []byte, h *hook) error {
	return eachAttribute(list, func(a attribute) error {
		switch a.kind {
		case unix.NFTA_HOOK_HOOKNUM:
			h.number = a.number()
		case unix.NFTA_HOOK_PRIORITY:
			h.priority = int32(a.number())
		}
		return nil
	})
}

func readRule(m message, text []byte) (object, error) {
	o := object{family: m.family}
	err := eachAttribute(m.attributes, func(a attribute) (err error) {
		switch a.kind {
		case unix.NFTA_RULE_HANDLE:
			if len(a.value) == 8 {
				o.handle = binary.BigEndian.Uint64(a.value)
			}
			return nil
		case unix.NFTA_RULE_POSITION, unix.NFTA_RULE_PAD, unix.NFTA_RULE_ID, rulePositionID, ruleChainID:
			return nil
		case unix.NFTA_RULE_EXPRESSIONS:
			o.expressions = a.value
			text, err = appendExpressions(text, a.value)
			return err
		case unix.NFTA_RULE_TABLE:
			o.table = a.value
		case unix.NFTA_RULE_CHAIN:
			o.chain = a.value
		}
		text = a.appendTo(text)
		return nil
	})
	o.text = text
	return o, err
}

// appendExpressions writes the expressions of a rule without what traffic changes in them.
func appendExpressions(text, list []byte) ([]byte, error) {
	err := eachAttribute(list, func(element attribute) error {
		var name []byte
		text = attribute{kind: unix.NFTA_RULE_EXPRESSIONS}.appendTo(text) // begins an expression
		return eachAttribute(element.value, func(a attribute) error {
			switch {
			case a.kind == unix.NFTA_EXPR_NAME:
				name = bytes.TrimRight(a.value, "\x00")
			case a.kind == unix.NFTA_EXPR_DATA && (string(name) == "counter" || string(name) == "last"):
				return nil
			case a.kind == unix.NFTA_EXPR_DATA && string(name) == "quota":
				return eachAttribute(a.value, func(a attribute) error {
					if a.kind != quotaConsumed && a.kind != quotaPad {
						text = a.appendTo(text)
					}
					return nil
				})
			}
			text = a.appendTo(text)
			return nil
		})
	})
	return text, err
}
