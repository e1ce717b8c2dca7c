// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"bytes"
	"cmp"
	"encoding/binary"
	"errors"
	"slices"

	"golang.org/x/sys/unix"
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
	chainID        = 11 // NFTA_CHAIN_ID
	rulePositionID = 10 // NFTA_RULE_POSITION_ID
	ruleChainID    = 11 // NFTA_RULE_CHAIN_ID
	quotaPad       = 3  // NFTA_QUOTA_PAD
	quotaConsumed  = 4  // NFTA_QUOTA_CONSUMED
)

// kernel is nf_tables as one namespace sees it.
type kernel interface {
	// await returns when no change of the tables is half done. The kernel counts a change before it does
	// it, so that the generation alone would not show that what was read is of two states.
	await() error
	// ask returns the messages that answer a request, or errMoved.
	ask(request uint16) ([]message, error)
}

// message is a table, a chain, a rule or a generation.
type message struct {
	family     uint8
	attributes []byte
}

// fingerprintNFT reads the namespace of the calling thread.
func fingerprintNFT() (string, error) {
	c, err := dialNetfilter()
	if err != nil {
		return "", err
	}
	defer c.close()
	return settled(func() (string, error) { return fingerprintOf(c) })
}

// fingerprintOf fails with errMoved where a change of the tables began meanwhile.
func fingerprintOf(k kernel) (string, error) {
	if err := k.await(); err != nil {
		return "", err
	}
	before, err := generation(k)
	if err != nil {
		return "", err
	}
	var tables, chains, rules []object
	for _, dump := range []struct {
		objects *[]object
		request uint16
		read    func(message, []byte) (object, error)
	}{{&tables, getTables, readTable}, {&chains, getChains, readChain}, {&rules, getRules, readRule}} {
		messages, err := k.ask(dump.request)
		if err != nil {
			return "", err
		}
		if *dump.objects, err = objects(messages, dump.read); err != nil {
			return "", err
		}
	}
	after, err := generation(k)
	if err != nil {
		return "", err
	}
	if !bytes.Equal(before, after) {
		return "", errMoved
	}
	tables = slices.DeleteFunc(tables, func(t object) bool { return t.idle })
	chains = slices.DeleteFunc(chains, func(c object) bool { return c.idle && !hasRules(c, rules) })
	return digestOf(tables, chains, rules), nil
}

func digestOf(lists ...[]object) string {
	sum := newDigest()
	for _, list := range lists {
		sum.add(binary.BigEndian.AppendUint32(nil, uint32(len(list))))
		for _, o := range list {
			sum.add([]byte{o.family})
			sum.add(o.text)
		}
	}
	return sum.String()
}

// generation returns the number that changes with every change of the namespace's tables.
func generation(k kernel) ([]byte, error) {
	messages, err := k.ask(getGen)
	if err != nil {
		return nil, err
	}
	var id []byte
	for _, m := range messages {
		if err := eachAttribute(m.attributes, func(a attribute) error {
			if a.kind == unix.NFTA_GEN_ID {
				id = a.value
			}
			return nil
		}); err != nil {
			return nil, err
		}
	}
	if len(id) == 0 {
		return nil, errors.New("nf_tables does not say which generation its rules are of")
	}
	return id, nil
}

// object is a table, a chain or a rule. A table's chain is nil.
type object struct {
	family       uint8
	table, chain []byte
	idle         bool   // a table or chain of iptables that says nothing which its rules do not
	text         []byte // all that counts
}

// objects reads messages and sorts what they describe: tables and chains are listed in any order. Rules
// are sorted by their chain only, so that their order within it counts.
func objects(messages []message, read func(message, []byte) (object, error)) ([]object, error) {
	size := 0
	for _, m := range messages {
		size += len(m.attributes)
	}
	room := make([]byte, 0, size)
	list := make([]object, 0, len(messages))
	for _, m := range messages {
		o, err := read(m, room)
		if err != nil {
			return nil, err
		}
		room = o.text[len(o.text):] // the next one is written behind this one
		list = append(list, o)
	}
	slices.SortStableFunc(list, object.compare)
	return list, nil
}

func (o object) compare(other object) int {
	return cmp.Or(cmp.Compare(o.family, other.family), bytes.Compare(o.table, other.table), bytes.Compare(o.chain, other.chain))
}

// hasRules tells whether a sorted list has rules of the chain.
func hasRules(chain object, rules []object) bool {
	_, found := slices.BinarySearchFunc(rules, chain, object.compare)
	return found
}

// ofIPTables tells whether a table is one that iptables makes. These stay behind, empty, when their last
// rule goes, so that an empty one must be as good as none.
func (o object) ofIPTables() bool {
	if o.family != unix.NFPROTO_IPV4 && o.family != unix.NFPROTO_IPV6 {
		return false
	}
	switch unix.ByteSliceToString(o.table) {
	case "nat", "mangle", "raw", "filter", "security":
		return true
	}
	return false
}

func readTable(m message, text []byte) (object, error) {
	o := object{family: m.family}
	flags := false
	err := eachAttribute(m.attributes, func(a attribute) error {
		switch a.kind {
		case unix.NFTA_TABLE_USE, tableHandle, tablePad, tableOwner:
			return nil
		case unix.NFTA_TABLE_NAME:
			o.table = a.value
		case unix.NFTA_TABLE_FLAGS:
			flags = a.number() != 0
		}
		text = a.appendTo(text)
		return nil
	})
	o.text, o.idle = text, o.ofIPTables() && !flags
	return o, err
}

func readChain(m message, text []byte) (object, error) {
	o := object{family: m.family}
	accepts := false
	err := eachAttribute(m.attributes, func(a attribute) error {
		switch a.kind {
		case unix.NFTA_CHAIN_HANDLE, unix.NFTA_CHAIN_USE, unix.NFTA_CHAIN_COUNTERS, unix.NFTA_CHAIN_PAD, chainID:
			return nil
		case unix.NFTA_CHAIN_TABLE:
			o.table = a.value
		case unix.NFTA_CHAIN_NAME:
			o.chain = a.value
		case unix.NFTA_CHAIN_POLICY: // only chains with a hook have one
			accepts = a.number() == 1 // NF_ACCEPT
		}
		text = a.appendTo(text)
		return nil
	})
	o.text, o.idle = text, o.ofIPTables() && accepts
	return o, err
}

func readRule(m message, text []byte) (object, error) {
	o := object{family: m.family}
	err := eachAttribute(m.attributes, func(a attribute) (err error) {
		switch a.kind {
		case unix.NFTA_RULE_HANDLE, unix.NFTA_RULE_POSITION, unix.NFTA_RULE_PAD, unix.NFTA_RULE_ID, rulePositionID, ruleChainID:
			return nil
		case unix.NFTA_RULE_EXPRESSIONS:
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
		name := ""
		text = attribute{kind: unix.NFTA_RULE_EXPRESSIONS}.appendTo(text) // begins an expression
		return eachAttribute(element.value, func(a attribute) error {
			switch {
			case a.kind == unix.NFTA_EXPR_NAME:
				name = unix.ByteSliceToString(a.value)
			case a.kind == unix.NFTA_EXPR_DATA && (name == "counter" || name == "last"):
				return nil
			case a.kind == unix.NFTA_EXPR_DATA && name == "quota":
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

// attribute is a netlink attribute: struct nlattr of include/uapi/linux/netlink.h, a length and a type of
// two bytes each, then the value.
type attribute struct {
	kind  uint16
	value []byte
}

const attributeHeader = 4

// number returns the value of an attribute of four bytes.
func (a attribute) number() uint32 {
	if len(a.value) != 4 {
		return 0
	}
	return binary.BigEndian.Uint32(a.value)
}

func (a attribute) appendTo(text []byte) []byte {
	text = binary.BigEndian.AppendUint16(text, a.kind)
	text = binary.BigEndian.AppendUint16(text, uint16(len(a.value)))
	return append(text, a.value...)
}

// eachAttribute calls fn for every attribute of a list.
func eachAttribute(list []byte, fn func(attribute) error) error {
	for len(list) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(list))
		if length < attributeHeader || length > len(list) {
			return errors.New("an answer of nf_tables cannot be read: an attribute is longer than what holds it")
		}
		const flags = unix.NLA_F_NESTED | unix.NLA_F_NET_BYTEORDER
		a := attribute{kind: binary.NativeEndian.Uint16(list[2:]) &^ flags, value: list[attributeHeader:length]}
		if err := fn(a); err != nil {
			return err
		}
		list = list[min(aligned(length), len(list)):]
	}
	return nil
}

// aligned rounds a length up to where the next attribute or message begins.
func aligned(length int) int { return (length + unix.NLMSG_ALIGNTO - 1) &^ (unix.NLMSG_ALIGNTO - 1) }
