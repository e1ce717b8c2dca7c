// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
)

// Requests for the sets of one table, and for what one of them holds.
const (
	getSets     = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSET
	getElements = unix.NFNL_SUBSYS_NFTABLES<<8 | unix.NFT_MSG_GETSETELEM
)

// Attributes that x/sys/unix does not know (linux/netfilter/nf_tables.h).
const (
	chainFlags  = 10 // NFTA_CHAIN_FLAGS
	chainIsBase = 1  // NFT_CHAIN_BASE: it has a hook

	setHandle = 16 // NFTA_SET_HANDLE
	setType   = 19 // NFTA_SET_TYPE: how the kernel keeps the elements
	setCount  = 20 // NFTA_SET_COUNT
)

// readSets reads the sets of the native table and what they hold. It fails with netlink.ErrMoved where one of them
// went away meanwhile.
func readSets(k kernel) (sets, elements []object, err error) {
	var table wire
	table.text(unix.NFTA_SET_TABLE, nativeTable)
	messages, err := askPart(k, getSets, nativeFamily, table)
	if err != nil {
		return nil, nil, err
	}
	if sets, err = objects(messages, k.spare, readSet); err != nil {
		return nil, nil, err
	}
	if err := check("sets", len(sets), k.limit().sets); err != nil {
		return nil, nil, err
	}
	for _, s := range sets {
		held, err := heldBy(k, s)
		if err != nil {
			return nil, nil, err
		}
		elements = append(elements, held)
	}
	return sets, elements, nil
}

func heldBy(k kernel, set object) (object, error) {
	var of wire
	of.text(unix.NFTA_SET_ELEM_LIST_TABLE, name(set.table))
	of.text(unix.NFTA_SET_ELEM_LIST_SET, name(set.chain))
	messages, err := askPart(k, getElements, set.family, of)
	if err != nil {
		return object{}, err
	}
	held := object{family: set.family, table: set.table, chain: set.chain}
	held.text, err = elementsText(messages)
	return held, err
}

// askPart asks about part of a table. Where that is gone, the table was changed since it was listed.
func askPart(k kernel, request uint16, family byte, attributes wire) ([]message, error) {
	messages, err := k.ask(request, family, attributes)
	if errors.Is(err, unix.ENOENT) {
		return nil, netlink.ErrMoved
	}
	return messages, err
}

func readSet(m message, text []byte) (object, error) {
	o := object{family: m.family}
	err := eachAttribute(m.attributes, func(a attribute) error {
		switch a.kind {
		case setHandle, setType, setCount, unix.NFTA_SET_ID, unix.NFTA_SET_PAD:
			return nil
		case unix.NFTA_SET_TABLE:
			o.table = a.value
		case unix.NFTA_SET_NAME:
			o.chain = a.value
		}
		text = a.appendTo(text)
		return nil
	})
	o.text = text
	return o, err
}

// elementsText returns the elements of a set, one field each, in the order of their bytes: the kernel's means
// nothing.
func elementsText(messages []message) ([]byte, error) {
	var all [][]byte
	for _, m := range messages {
		err := eachAttribute(m.attributes, func(a attribute) error {
			if a.kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
				return nil
			}
			return eachAttribute(a.value, func(element attribute) error {
				text, err := elementText(element.value)
				all = append(all, text)
				return err
			})
		})
		if err != nil {
			return nil, err
		}
	}
	slices.SortFunc(all, bytes.Compare)
	var text []byte
	for _, element := range all {
		text = attribute{kind: unix.NFTA_LIST_ELEM, value: element}.appendTo(text)
	}
	return text, nil
}

// elementText leaves out an element's remaining timeout.
func elementText(list []byte) (text []byte, err error) {
	err = eachAttribute(list, func(a attribute) error {
		if a.kind != unix.NFTA_SET_ELEM_EXPIRATION && a.kind != unix.NFTA_SET_ELEM_PAD {
			text = a.appendTo(text)
		}
		return nil
	})
	return text, err
}

// field is a part of an object's text, which is written by attribute.appendTo.
type field struct {
	attribute
	expression string // that it belongs to; "" for what is the object's own
}

// eachField calls fn for every field of a text that one of our readers wrote.
func eachField(text []byte, fn func(field)) {
	f := field{}
	inside := false
	for len(text) >= 4 {
		kind, length := binary.BigEndian.Uint16(text), int(binary.BigEndian.Uint16(text[2:]))
		if len(text) < 4+length {
			return
		}
		f.kind, f.value, text = kind, text[4:4+length], text[4+length:]
		switch {
		case kind == unix.NFTA_RULE_EXPRESSIONS && length == 0: // begins an expression
			inside, f.expression = true, ""
		case kind == unix.NFTA_RULE_USERDATA || kind == unix.NFTA_RULE_COMPAT: // stand behind the expressions
			inside, f.expression = false, ""
		case inside && kind == unix.NFTA_EXPR_NAME:
			f.expression = name(f.value)
		}
		fn(f)
	}
}
