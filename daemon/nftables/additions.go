// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"context"
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// A kernel that is newer than meshnetd may show more of a rule than was written: attributes that nobody knows here, with
// what they are where nobody asks for them. Learn finds these, by rules of its own in a namespace that is nobody else's.
// Later readings leave them out, with that value only: with another one somebody asked for them, and the rule is not ours.

// Learn writes a plan into a new namespace, and returns the Tables of a dialect that know how this kernel shows it.
func Learn(ctx context.Context, d Dialect, ns *netns.Namespace, plan rules.Plan) (Tables, error) {
	t := New(d)
	want, err := t.wanted(plan)
	if err != nil {
		return t, err
	}
	err = ns.Do(func() error {
		c, err := dialNetfilter()
		if err != nil {
			return err
		}
		defer c.close()
		s, err := read(c)
		if err != nil {
			return err
		}
		b, err := want.changes(s)
		defer b.release()
		if err != nil {
			return err
		}
		known := b.shape()
		if err := c.transact(b); err != nil {
			return err
		}
		t.added, err = known.learn(c)
		return err
	})
	if err != nil {
		return t, fmt.Errorf("learn how this kernel shows rules: %w", err)
	}
	return t, nil
}

// shape is where attributes are in messages that are sent: the kind of the message and the numbers of what the attribute is
// in, with the name of an expression. True is an attribute that holds others.
type shape map[string]bool

// element is where a rule's expressions are.
var element = fmt.Sprintf("%d/%d/%d", unix.NFT_MSG_NEWRULE, unix.NFTA_RULE_EXPRESSIONS, unix.NFTA_LIST_ELEM)

// path leads from a list to its attributes.
type path struct{ list, expression string }

// to returns where an attribute of the list is. What follows an expression's name belongs to that expression.
func (p *path) to(a attribute) string {
	here := p.list + p.expression + "/" + strconv.Itoa(int(a.kind))
	if p.list == element && a.kind == unix.NFTA_EXPR_NAME {
		p.expression = " " + name(a.value)
	}
	return here
}

func (b *batch) shape() shape {
	s := shape{}
	for _, begin := range b.starts {
		m := b.messages[begin:]
		m = m[:binary.NativeEndian.Uint32(m)]
		s.add(strconv.Itoa(int(m[4])), m[unix.NLMSG_HDRLEN+nfgenmsg:])
	}
	return s
}

// add takes in a list of our own, where what holds others is marked, but in the expressions of the native table.
func (s shape) add(list string, attributes []byte) {
	p := path{list: list}
	rest := attributes
	_ = eachAttribute(attributes, func(a attribute) error { // they are ours
		here := p.to(a)
		nested := binary.NativeEndian.Uint16(rest[2:])&unix.NLA_F_NESTED != 0 || here == element || list == element && a.kind == unix.NFTA_EXPR_DATA
		rest = rest[min(netlink.Aligned(attributeHeader+len(a.value)), len(rest)):]
		s[here] = s[here] || nested
		if nested {
			s.add(here, a.value)
		}
		return nil
	})
}

// newest are the last attributes of messages that are known here, by the kind of the message.
var newest = map[string]uint16{
	strconv.Itoa(unix.NFT_MSG_NEWTABLE): tableOwner, strconv.Itoa(unix.NFT_MSG_NEWCHAIN): chainUserdata,
	strconv.Itoa(unix.NFT_MSG_NEWRULE): ruleChainID, strconv.Itoa(unix.NFT_MSG_NEWSET): setCount,
	strconv.Itoa(unix.NFT_MSG_NEWSETELEM): unix.NFTA_SET_ELEM_LIST_SET_ID,
}

const chainUserdata = 12 // NFTA_CHAIN_USERDATA

// additions are attributes with the value that each has wherever it is shown of what was sent without it.
type additions struct {
	values map[string]string
	in     map[string]bool // the lists that they are in
}

// learn reads all that the kernel holds.
func (s shape) learn(k kernel) (*additions, error) {
	a := &additions{values: map[string]string{}, in: map[string]bool{}}
	many := map[string]bool{}
	_, err := read(observed{k, func(list string, attributes []byte) error { return s.compare(a, many, list, attributes) }})
	for place := range many {
		delete(a.values, place)
	}
	for at := range a.values {
		for i := strings.LastIndexByte(at, '/'); i >= 0; i = strings.LastIndexByte(at, '/') {
			at = at[:i]
			if name := strings.LastIndexByte(at, ' '); name > strings.LastIndexByte(at, '/') {
				at = at[:name]
			}
			a.in[at] = true
		}
	}
	return a, err
}

func (s shape) compare(a *additions, many map[string]bool, list string, attributes []byte) error {
	p := path{list: list}
	return eachAttribute(attributes, func(one attribute) error {
		here := p.to(one)
		holds, sent := s[here]
		switch value, seen := a.values[here]; {
		case holds:
			return s.compare(a, many, here, one.value)
		case sent || one.kind <= newest[list]:
		case seen && value != string(one.value):
			many[here] = true
		default:
			a.values[here] = string(one.value)
		}
		return nil
	})
}

// without returns a list without what the kernel added.
func (a *additions) without(list string, attributes []byte) []byte {
	p := path{list: list}
	var out wire
	err := eachAttribute(attributes, func(one attribute) error {
		here := p.to(one)
		if value, added := a.values[here]; added && value == string(one.value) {
			return nil
		}
		if a.in[here] {
			one.value = a.without(here, one.value)
		}
		out.bytes(one.kind, one.value)
		return nil
	})
	if err != nil {
		return attributes // whose reader says so
	}
	return out
}

// of returns the kernel as one that adds nothing.
func (a *additions) of(k kernel) kernel {
	if a == nil || len(a.values) == 0 {
		return k
	}
	return plainer{k, a}
}

type plainer struct {
	kernel
	added *additions
}

func (p plainer) ask(request uint16, family byte, attributes []byte) ([]message, error) {
	messages, err := p.kernel.ask(request, family, attributes)
	for i := range messages {
		messages[i].attributes = p.added.without(answers(request), messages[i].attributes)
	}
	return messages, err
}

// observed shows what the kernel answers.
type observed struct {
	kernel
	show func(list string, attributes []byte) error
}

func (o observed) ask(request uint16, family byte, attributes []byte) ([]message, error) {
	messages, err := o.kernel.ask(request, family, attributes)
	for _, m := range messages {
		if err == nil && request != getGen {
			err = o.show(answers(request), m.attributes)
		}
	}
	return messages, err
}

// answers returns the kind of the messages that answer a request: each stands before its request.
func answers(request uint16) string { return strconv.Itoa(int(request&0xff) - 1) }
