// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"context"
	"encoding/binary"
	"fmt"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// This translates all tables of a namespace, whoever wrote them, for package effect. An unknown expression becomes a
// condition that may hold or not, or where it could be more than a condition, an end that cannot be known.

// inetHooks are the hooks of IP by their numbers (NF_INET_*); ingress is none.
var inetHooks = map[uint32]effect.Hook{
	unix.NF_INET_PRE_ROUTING: effect.Prerouting, unix.NF_INET_LOCAL_IN: effect.Input, unix.NF_INET_FORWARD: effect.Forward,
	unix.NF_INET_LOCAL_OUT: effect.Output, unix.NF_INET_POST_ROUTING: effect.Postrouting,
}

// view reads the tables of a state as packets of one family meet them.
type view struct {
	state
	pod    *effect.Pod
	family rules.Family
	local  effect.Set               // addresses of the pod
	chains map[string]*effect.Chain // by table and name
}

// addTo adds every base chain that packets of the side's family meet.
func (s state) addTo(side *effect.Side, pod *effect.Pod, family rules.Family, old []legacy.Contents) error {
	v := view{s, pod, family, side.Local(), map[string]*effect.Chain{}}
	v.addOld(side, old)
	var bases []effect.Base
	for _, c := range s.chains {
		hook, known := inetHooks[c.hook.number]
		if !v.meets(c) || c.hook.kind == "" || !known || s.dormant(c) {
			continue
		}
		chain, err := v.chain(c)
		if err != nil {
			return err
		}
		b := effect.Base{Chain: chain, Hook: hook, Priority: int(c.hook.priority), Drop: c.hook.policy == drop}
		switch c.hook.kind {
		case "nat":
			b.Kind = effect.NAT
		case "route":
			b.Kind = effect.Route
		}
		bases = append(bases, b)
	}
	side.Add(bases...)
	return nil
}

// meets reports whether packets of the family come to an object of that table.
func (v view) meets(o object) bool {
	return o.family == nfFamily(v.family) || o.family == unix.NFPROTO_INET
}

func (s state) dormant(c object) bool {
	table := object{family: c.family, table: c.table}
	return slices.ContainsFunc(table.of(s.tables), func(t object) bool { return t.dormant })
}

func (v view) chain(c object) (*effect.Chain, error) {
	key := string([]byte{c.family}) + name(c.table) + "\x00" + name(c.chain)
	if known := v.chains[key]; known != nil {
		return known, nil
	}
	chain := &effect.Chain{Name: name(c.table) + " " + name(c.chain)}
	v.chains[key] = chain
	for _, o := range c.of(v.rules) {
		r, met, err := v.rule(o)
		if err != nil {
			return nil, err
		}
		if met {
			chain.Rules = append(chain.Rules, r)
		}
	}
	return chain, nil
}

// target returns the chain of the object's table that a rule leads to; nil where there is none.
func (v view) target(o object, chain string) (*effect.Chain, error) {
	c := object{family: o.family, table: o.table, chain: append([]byte(chain), 0)}
	found := c.of(v.state.chains)
	if len(found) == 0 {
		return nil, nil
	}
	return v.chain(found[0])
}

// values returns what a set holds; false where that may change by itself or by packets.
func (v view) values(o object, set string, of loaded) (effect.Set, bool) {
	key := object{family: o.family, table: o.table, chain: append([]byte(set), 0)}
	found, held := key.of(v.sets), key.of(v.elements)
	if len(found) != 1 || len(held) != 1 {
		return effect.Set{}, false
	}
	flags, length := setShape(found[0])
	const simple = unix.NFT_SET_ANONYMOUS | unix.NFT_SET_CONSTANT | unix.NFT_SET_INTERVAL
	if flags&^simple != 0 || length != of.length || of.mask != nil {
		return effect.Set{}, false
	}
	return of.set(elementsOfSet(held[0].text), flags&unix.NFT_SET_INTERVAL != 0)
}

func setShape(o object) (flags uint32, length int) {
	eachField(o.text, func(f field) {
		switch f.kind {
		case unix.NFTA_SET_FLAGS:
			flags = f.number()
		case unix.NFTA_SET_KEY_LEN:
			length = int(f.number())
		}
	})
	return flags, length
}

// elementsOfSet reads what elementsText wrote. Elements with more than a key are of maps, or of sets that change.
func elementsOfSet(text []byte) (all []setElement) {
	eachField(text, func(f field) {
		var e setElement
		eachField(f.value, func(f field) {
			switch f.kind {
			case unix.NFTA_SET_ELEM_KEY:
				e.key = dataOf(f.value)
			case unix.NFTA_SET_ELEM_FLAGS:
				e.end = f.number()&unix.NFT_SET_ELEM_INTERVAL_END != 0
			}
		})
		all = append(all, e)
	})
	slices.SortStableFunc(all, func(a, b setElement) int {
		if c := bytes.Compare(a.key, b.key); c != 0 || a.end == b.end {
			return c
		}
		if a.end { // what ends where another begins
			return -1
		}
		return 1
	})
	return all
}

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
	if l.native {
		for i, x := range b {
			whole[15-i] = x // little-endian; see nativeIsLittle
		}
		if !nativeIsLittle {
			copy(whole[16-len(b):], b)
		}
	} else {
		copy(whole[16-l.top:], b)
	}
	return effect.Wide(binary.BigEndian.Uint64(whole[:8]), binary.BigEndian.Uint64(whole[8:])), true
}

var nativeIsLittle = binary.NativeEndian.Uint16([]byte{1, 0}) == 1

// span returns the values of the whole field whose first bytes are from first to last.
func (l loaded) span(first, last []byte) (effect.Span, bool) {
	a, ok := l.number(first)
	b, ok2 := l.number(last)
	return effect.Span{First: a, Last: b.Filled(8 * (l.top - l.length))}, ok && ok2
}

// set returns the values that elements stand for.
func (l loaded) set(elements []setElement, intervals bool) (effect.Set, bool) {
	var spans []effect.Span
	for i, e := range elements {
		if e.end {
			continue
		}
		last := e.key
		if intervals {
			last = bytes.Repeat([]byte{0xff}, len(e.key))
			if i+1 < len(elements) && elements[i+1].end {
				last = before(elements[i+1].key)
			} else if i+1 < len(elements) {
				return effect.Set{}, false
			}
		}
		s, ok := l.span(e.key, last)
		if !ok || l.native && intervals {
			return effect.Set{}, false
		}
		spans = append(spans, s)
	}
	return effect.Union(spans...), true
}

// before returns the number before one in the network's order.
func before(key []byte) []byte {
	key = slices.Clone(key)
	for i := len(key) - 1; i >= 0; i-- {
		if key[i]--; key[i] != 0xff {
			break
		}
	}
	return key
}

// Effect compares what becomes of a pod's packets by all that nf_tables and iptables-legacy hold in the namespace, whoever
// wrote it, with what becomes of them by the plan. have is the plan's routes and addresses that the namespace has.
func (t Tables) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (r effect.Result, err error) {
	if err := ctx.Err(); err != nil {
		return r, fmt.Errorf("judge the rules in %s: %w", ns.Path(), err)
	}
	err = ns.Do(func() error {
		r, err = t.judge(plan, have, interfaces)
		return err
	})
	if err != nil {
		return r, fmt.Errorf("judge the rules in %s: %w", ns.Path(), err)
	}
	return r, nil
}

var families = []rules.Family{rules.IPv4, rules.IPv6}

// judge is Effect in the namespace of the calling thread.
func (t Tables) judge(plan, have rules.Plan, interfaces []rules.Interface) (r effect.Result, err error) {
	err = t.added.look(func(s state, text []byte) error {
		old, err := legacy.Parse(text)
		if err != nil {
			return err
		}
		r = effect.Result{}
		if len(old) == 0 && slices.Equal(plan.Routes, have.Routes) && slices.Equal(plan.Loopback, have.Loopback) {
			if r.Alone, err = t.holdsAlone(s, plan); err != nil || r.Alone {
				return err
			}
		}
		for _, family := range families {
			pod := effect.NewPod(interfaces)
			wanted, held := effect.OfPlan(pod, plan, family), effect.NewSide(pod, family, have.Routes, have.Loopback)
			if err := s.addTo(held, pod, family, old); err != nil {
				return err
			}
			one := effect.Compare(pod, wanted, held)
			r.Answer, r.Work = max(r.Answer, one.Answer), r.Work+one.Work
			r.Differences = append(r.Differences, one.Differences...)
		}
		return nil
	})
	return r, err
}
