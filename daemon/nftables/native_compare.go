// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// differences compares the table with what the kernel holds, bit for bit: flags, hooks, policies, sets, elements
// and each expression of each rule in order.
func (n native) differences(s state) []rules.Difference {
	var d comparison
	switch {
	case len(n.chains) == 0 && s.hasNative():
		d.add("", "unexpected", "the whole table")
	case len(n.chains) > 0 && !s.hasNative():
		d.add("", "missing", "the whole table")
	case len(n.chains) > 0:
		held := n.holdsRules(s)
		shown := n
		if held { // rules are turned into text only where one differs
			shown = n.withoutRules()
		}
		want, err := shown.state()
		if err != nil { // impossible: these are our own messages
			d.add("", "unreadable", err.Error())
			break
		}
		d.tables(s.tables, want.tables)
		d.chains(s.chains, want.chains)
		d.sets(s, want, n.sets)
		for _, c := range want.chains {
			if !held {
				d.rules(name(c.chain), c.of(s.rules), c.of(want.rules))
			}
		}
	}
	return d
}

func (n native) withoutRules() native {
	bare := native{sets: n.sets, chains: slices.Clone(n.chains)}
	for i := range bare.chains {
		bare.chains[i].rules = nil
	}
	return bare
}

// holdsRules reports whether every chain holds its rules exactly as they were sent. Rules may be the same even where it
// does not.
func (n native) holdsRules(s state) bool {
	for _, c := range n.chains {
		have := chainObject(c.name).of(s.rules)
		if !slices.EqualFunc(have, c.rules, object.holds) {
			return false
		}
	}
	return true
}

func chainObject(chain string) object {
	return object{family: nativeFamily, table: append([]byte(nativeTable), 0), chain: append([]byte(chain), 0)}
}

// holds reports whether the object is the rule: the same expressions and comment, and nothing besides, whatever its counter says.
func (o object) holds(r nativeRule) bool {
	var room [1 << 10]byte
	text := attribute{unix.NFTA_RULE_TABLE, o.table}.appendTo(room[:0])
	text = attribute{unix.NFTA_RULE_CHAIN, o.chain}.appendTo(text)
	text, err := appendExpressions(text, r.expressions)
	comment := attribute{unix.NFTA_RULE_USERDATA, appendComment(nil, r.comment)}
	return err == nil && bytes.Equal(o.text, comment.appendTo(text))
}

// state returns the table as the kernel would list it.
func (n native) state() (s state, err error) {
	b := &batch{messages: make(wire, 0, 4<<10)} // never sent
	if err := n.appendTo(b); err != nil {
		return s, err
	}
	messages := b.sent()
	for _, part := range []struct {
		objects *[]object
		kind    int
		read    func(message, []byte) (object, error)
	}{
		{&s.tables, unix.NFT_MSG_NEWTABLE, readTable}, {&s.chains, unix.NFT_MSG_NEWCHAIN, readChain},
		{&s.rules, unix.NFT_MSG_NEWRULE, readRule}, {&s.sets, unix.NFT_MSG_NEWSET, readSet},
	} {
		if *part.objects, err = objects(messages[part.kind], fresh, part.read); err != nil {
			return s, err
		}
	}
	elements := map[string][]message{} // by the set
	for _, m := range messages[unix.NFT_MSG_NEWSETELEM] {
		set := string(netlink.Attribute(m.attributes, unix.NFTA_SET_ELEM_LIST_SET))
		elements[set] = append(elements[set], m)
	}
	for _, set := range s.sets {
		held := object{family: set.family, table: set.table, chain: set.chain}
		if held.text, err = elementsText(elements[string(set.chain)]); err != nil {
			return s, err
		}
		s.elements = append(s.elements, held)
	}
	return s, nil
}

// unflag takes the "nested" flag off all attributes of a list: the kernel does not send it back.
func unflag(list []byte) {
	const kind = 2 // where it stands in struct nlattr
	for len(list) >= attributeHeader {
		length := int(binary.NativeEndian.Uint16(list))
		if n := binary.NativeEndian.Uint16(list[kind:]); n&unix.NLA_F_NESTED != 0 {
			binary.NativeEndian.PutUint16(list[kind:], n&^unix.NLA_F_NESTED)
			unflag(list[attributeHeader:length])
		}
		list = list[min(netlink.Aligned(length), len(list)):]
	}
}

// sent returns the changes of a batch as messages of the kernel, by their kind, without the flags that it does
// not send.
func (b *batch) sent() map[int][]message {
	messages := map[int][]message{}
	for i, begin := range b.starts {
		end := len(b.messages)
		if i+1 < len(b.starts) {
			end = b.starts[i+1]
		}
		m := b.messages[begin:end]
		unflag(m[unix.NLMSG_HDRLEN+nfgenmsg:])
		kind := int(binary.NativeEndian.Uint16(m[4:]) & 0xff)
		messages[kind] = append(messages[kind], message{family: m[unix.NLMSG_HDRLEN], attributes: m[unix.NLMSG_HDRLEN+nfgenmsg:]})
	}
	return messages
}

// comparison collects differences of the table.
type comparison []rules.Difference

func (d *comparison) add(chain, kind, what string) {
	*d = append(*d, rules.Difference{Table: "inet " + nativeTable, Chain: chain, Kind: kind, Rule: what})
}

// ofNative returns the part of a sorted list that belongs to the table.
func ofNative(list []object) []object {
	return slices.DeleteFunc(slices.Clone(list), func(o object) bool { return !o.isNative() })
}

func (o object) isNative() bool { return o.family == nativeFamily && name(o.table) == nativeTable }

func (d *comparison) tables(have, want []object) {
	for _, t := range ofNative(have) {
		switch {
		case t.dormant:
			d.add("", "off", "the whole table is dormant")
		case t.fleeting:
			d.add("", "changed", withOwner)
		case !bytes.Equal(unsaid(t.text, unix.NFTA_TABLE_FLAGS, 0), want[0].text):
			d.add("", "changed", "what the table itself says")
		}
	}
}

func (d *comparison) chains(have, want []object) {
	d.pairs(ofNative(have), want, func(chain, kind string, h, w object) {
		if kind == "" && !bytes.Equal(unsaid(h.text, chainFlags, chainIsBase), w.text) {
			kind = "changed"
		}
		if kind != "" {
			d.add(chain, kind, chainText(h, w))
		}
	})
}

// chainText says how a chain is hooked, and should be.
func chainText(have, want object) string {
	if have.hook == want.hook {
		return ""
	}
	show := func(h hook) string {
		if h.kind == "" {
			return "no hook"
		}
		return fmt.Sprintf("type %s hook %d priority %d policy %d", h.kind, h.number, h.priority, h.policy)
	}
	return fmt.Sprintf("(has %s, want %s)", show(have.hook), show(want.hook))
}

// pairs goes through two sorted lists and says of each name whether it is "missing", "unexpected" or in both.
func (d *comparison) pairs(have, want []object, visit func(name, kind string, have, want object)) {
	for len(have) > 0 || len(want) > 0 {
		switch {
		case len(want) == 0 || len(have) > 0 && have[0].compare(want[0]) < 0:
			visit(name(have[0].chain), "unexpected", have[0], object{})
			have = have[1:]
		case len(have) == 0 || have[0].compare(want[0]) > 0:
			visit(name(want[0].chain), "missing", object{}, want[0])
			want = want[1:]
		default:
			visit(name(have[0].chain), "", have[0], want[0])
			have, want = have[1:], want[1:]
		}
	}
}

// rules compares those of one chain in their order.
func (d *comparison) rules(chain string, have, want []object) {
	if slices.EqualFunc(have, want, same) {
		return
	}
	before := len(*d)
	text := func(o object) string { return string(plain(o.text)) }
	for _, o := range rules.Without(want, have, text) {
		d.add(chain, "missing", describe(o))
	}
	for _, o := range rules.Without(have, want, text) {
		d.add(chain, "unexpected", describe(o))
	}
	if len(*d) > before {
		return
	}
	for i, o := range have { // the same rules, so that there are as many
		if !same(o, want[i]) {
			d.add(chain, "out of order", describe(o))
		}
	}
}

func (d *comparison) sets(have, want state, sets []nativeSet) {
	made := make(map[string]nativeSet, len(sets))
	for _, s := range sets {
		made[s.name] = s
	}
	d.pairs(ofNative(have.sets), want.sets, func(set, kind string, h, w object) {
		if kind == "" && !same(h, w) {
			kind = "changed"
		}
		if kind != "" {
			d.add("", kind, "set "+set)
		}
		s, ours := made[set]
		if !ours || kind == "missing" {
			return
		}
		missing, unexpected := apart(h.of(have.elements), w.of(want.elements))
		d.elements(s, "missing", missing)
		d.elements(s, "unexpected", unexpected)
	})
}

// elements names a few: a set can hold any number of them.
func (d *comparison) elements(set nativeSet, kind string, list [][]byte) {
	const named = 16
	for _, e := range list[:min(len(list), named)] {
		d.add("", kind, fmt.Sprintf("%s in set %s", set.show(e), set.name))
	}
	if more := len(list) - named; more > 0 {
		d.add("", kind, fmt.Sprintf("%d more in set %s", more, set.name))
	}
}

// apart returns the elements that only one of two sets has.
func apart(have, want []object) (missing, unexpected [][]byte) {
	list := func(objects []object) (all [][]byte) {
		for _, o := range objects {
			eachField(o.text, func(f field) { all = append(all, f.value) })
		}
		return all
	}
	h, w := list(have), list(want)
	if slices.EqualFunc(h, w, bytes.Equal) {
		return nil, nil
	}
	text := func(element []byte) string { return string(element) }
	return rules.Without(w, h, text), rules.Without(h, w, text)
}

// show prints an element as nft does.
func (s nativeSet) show(element []byte) string {
	var key []byte
	end := ""
	eachField(element, func(f field) {
		switch f.kind {
		case unix.NFTA_SET_ELEM_KEY:
			key = dataOf(f.value)
		case unix.NFTA_SET_ELEM_FLAGS:
			end = "the end before "
		}
	})
	addr, ok := netip.AddrFromSlice(key)
	switch {
	case (s.setKind == ports || s.setKind == spans) && len(key) == 2:
		return end + fmt.Sprint(binary.BigEndian.Uint16(key))
	case (s.setKind == users || s.setKind == groups) && len(key) == 4:
		return fmt.Sprint(binary.NativeEndian.Uint32(key))
	case ok:
		return end + addr.String()
	}
	return fmt.Sprintf("element %x", element)
}

// same compares two objects of one kind.
func same(a, b object) bool {
	return bytes.Equal(a.text, b.text) || bytes.Equal(plain(a.text), plain(b.text))
}

// plain returns the text of a rule without what differs between kernels: newer ones send that a bitwise expression has the
// operation that it always had, and Linux 7 sends the attributes of a byteorder expression in another order.
func plain(text []byte) (out []byte) {
	out = make([]byte, 0, len(text))
	eachField(text, func(f field) {
		if f.expression != "" && f.kind == unix.NFTA_EXPR_DATA {
			f.value = inOrder(f.expression, f.value)
		}
		out = f.appendTo(out)
	})
	return out
}

// inOrder sorts the data of an expression by the numbers of its attributes.
func inOrder(expression string, data []byte) []byte {
	var list []attribute
	err := eachAttribute(data, func(a attribute) error {
		if expression != "bitwise" || a.kind != bitwiseOperation || a.number() != 0 {
			list = append(list, a)
		}
		return nil
	})
	if err != nil {
		return data
	}
	slices.SortStableFunc(list, func(a, b attribute) int { return int(a.kind) - int(b.kind) })
	var sorted wire
	for _, a := range list {
		sorted.bytes(a.kind, a.value)
	}
	return sorted
}

// unsaid returns the text of a table or chain without a number that has no meaning and that older kernels do not send.
func unsaid(text []byte, kind uint16, number uint32) (out []byte) {
	eachField(text, func(f field) {
		if f.kind != kind || len(f.value) != 4 || f.number() != number {
			out = f.appendTo(out)
		}
	})
	return out
}
