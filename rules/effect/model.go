// SPDX-License-Identifier: Apache-2.0

// Package effect judges packet-filter rules by what becomes of packets, exactly: it sends sets of packets through two
// sides of rules, the wanted plan and what a namespace holds, and compares where they end. A set is a box: one set of
// values for each field of a packet as it enters. A condition of a rule cuts a box in two; where a box ends, all of its
// packets end. So "equal" is a proof within the model, not the absence of a counterexample.
//
// What it does not see: tables of netdev, bridge and arp, ingress, egress, tc, XDP, cgroup hooks and XFRM; which source SNAT
// gives a packet; routing rules beside those of the plan, which are taken to be the same on both sides.
package effect

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Field is a property of a packet as it enters. Values that change on its way, such as its mark, are refs.
type Field int8

// The fields.
const (
	Protocol Field = iota
	Source
	Destination
	SourcePort
	DestinationPort
	UID
	GID
	In
	Out // the interface that leads to the destination, where that is not the pod's own
	Mark
	ConnMark
	CTState     // one bit of rules.CTState
	Transparent // of a connection that exists: 1 where its socket is a transparent one
	Listening   // 1 while somebody listens where TPROXY gives packets to
	fields
)

// box is the set of packets whose fields each have one of these values.
type box [fields]Set

// and returns the packets that are in both boxes, if there are any.
func (b *box) and(other *box) (both box, any bool) {
	for x := range b {
		if !b[x].meets(other[x]) {
			return both, false
		}
	}
	for x := range b {
		both[x] = b[x].And(other[x])
	}
	return both, true
}

// ref is a value that a packet has now: that of one of its fields, or one that it was given.
type ref struct {
	from Field // given: a value
	c    Number
}

const constant Field = -1

func given(v uint64) ref       { return givenNumber(N(v)) }
func givenNumber(v Number) ref { return ref{constant, v} }
func entered(f Field) ref      { return ref{from: f} }
func (r ref) isGiven() bool    { return r.from == constant }

// value returns what a packet of the box has.
func (b *box) value(r ref) Number {
	if r.isGiven() {
		return r.c
	}
	return b[r.from].all()[0].First
}

// packets are those of one box, in one state.
type packets struct {
	state
	box
}

// state is what all packets of a flow have in common on their way.
type state struct {
	inbound, socket, owned bool // socket: rules see the owner here; owned: it had one when it entered
	in, out, route         ref  // the interfaces that rules see, and the one that leads on
	mark, connMark         ref
	dst, dport             ref
	ct                     ref // the state that rules see
	seenConnMark           ref
	before                 ref // the mark where a chain of kind route began

	zoned, looped, natSrc, redirected, sourced, masked, held, untracked bool

	martian, astray bool // for a loopback address from elsewhere; astray: nothing but that drops it

	listener, zone uint16
	maybe          bool          // it depends on a condition that is not understood
	by             *rules.Step   // the last rule that decided, where that is asked
	kind           rules.EndKind // "" of those that are under way
}

// unknown is the end of packets by something that is not understood.
const unknown rules.EndKind = "unknown"

// Condition holds for packets whose field has now one of the set's values.
type Condition struct {
	Field Field
	Set   Set
	// Bare is set where a condition on the owner holds for packets without a socket, as negated ones of iptables do.
	Bare bool
}

// Rule does its actions one after the other where all conditions hold.
type Rule struct {
	Conditions []Condition
	Unknown    string // a condition that is not understood, and may hold or not; "" is none
	Actions    []Action
	step       *rules.Step // of a trace
}

// Verb is what an action does.
type Verb uint8

// The verbs.
const (
	Nothing Verb = iota
	Accept
	Drop
	Return
	Jump
	Goto
	Redirect
	DNAT
	SNAT       // to whatever source
	Masquerade // to one of the pod's
	TProxy
	SetMark
	SetConnMark
	SaveMark
	RestoreMark
	Zone
	NoTrack
	Reject
	Then    // the rest of the rule, which has conditions of its own
	Unknown // anything may happen
)

// Of these verbs, some end a chain for the packets that meet them, and after others the same rules may do something else.
var (
	ends = map[Verb]bool{Accept: true, Drop: true, Return: true, Goto: true, Redirect: true, DNAT: true, SNAT: true, Masquerade: true,
		Reject: true}
	changes = map[Verb]bool{SetMark: true, SetConnMark: true, SaveMark: true, RestoreMark: true, Zone: true, NoTrack: true,
		Then: true, Unknown: true, TProxy: true}
)

// Action is one thing that a rule does.
type Action struct {
	Verb  Verb
	Chain *Chain // of Jump and Goto; nil is unknown
	Rest  *Rule  // of Then
	Port  uint16 // of Redirect, DNAT (0 leaves it) and TProxy
	Value Number // the address of DNAT; the mark or zone that is set, by TProxy too
	Stops bool   // of TProxy: it marks the packet and ends the base chain, as iptables' does; in nft a verdict follows
}

// Chain is rules in their order.
type Chain struct {
	Name  string
	Rules []Rule
}

// Kind is the type of a base chain.
type Kind uint8

// The kinds.
const (
	Filter Kind = iota
	NAT
	Route
)

// Hook is where the kernel runs a base chain.
type Hook uint8

// The hooks.
const (
	Prerouting Hook = iota
	Input
	Forward
	Output
	Postrouting
	hooks
)

// Base is a base chain, which the kernel runs at a hook.
type Base struct {
	*Chain
	Hook     Hook
	Kind     Kind
	Priority int
	Drop     bool // its policy
	Fleeting bool // it may be gone by then
}

// Pod is what both sides have in common: the interfaces of a pod.
type Pod struct {
	names      []string // by their numbers: 0 is no interface, 1 is lo
	numbers    map[string]uint64
	prefixed   map[string]Set // what was answered
	interfaces []numbered
	others     Set // interfaces that packets come and go by, lo not among them
}

type numbered struct {
	number    uint64
	only      Set // of that number
	addresses []netip.Addr
}

const none, loopback = 0, 1 // interfaces by number

var ownInterface = Single(N(loopback))

// NewPod returns a pod with these interfaces.
func NewPod(interfaces []rules.Interface) *Pod {
	p := &Pod{names: []string{"", "lo"}, numbers: map[string]uint64{"": none, "lo": loopback}}
	var others []uint64
	for _, i := range interfaces {
		k := p.number(i.Name)
		at := slices.IndexFunc(p.interfaces, func(x numbered) bool { return x.number == k })
		if at < 0 {
			p.interfaces = append(p.interfaces, numbered{number: k, only: Single(N(k))})
			at = len(p.interfaces) - 1
		}
		p.interfaces[at].addresses = append(p.interfaces[at].addresses, i.Addresses...)
		if k != loopback {
			others = append(others, k)
		}
	}
	if len(others) == 0 { // the one that is to come
		others = []uint64{p.number("eth0")}
	}
	p.others = Values(others...)
	return p
}

// number returns an interface's number. An unknown name gets one too: the interface may come later.
func (p *Pod) number(name string) uint64 {
	k, known := p.numbers[name]
	if !known {
		k = uint64(len(p.names))
		p.names, p.numbers[name] = append(p.names, name), k
	}
	return k
}

// Side is the rules of one family that packets of a pod can meet, and the routing that goes with them.
type Side struct {
	six   bool
	hooks [hooks][]Base // by priority
	marks Set           // that a route leads to the pod itself
	local Set           // addresses of the pod
	fixed Set           // of these, what every pod of the plan has
	masks Set           // what a masqueraded packet may come from
}

// NewSide returns a side without rules, with the routes and loopback addresses of a plan.
func NewSide(p *Pod, family rules.Family, routes []rules.PolicyRoute, addresses []netip.Prefix) *Side {
	s := &Side{six: family == rules.IPv6}
	local, host := loopback4, netip.AddrFrom4([4]byte{127, 0, 0, 1})
	if s.six {
		local, host = loopback6, netip.IPv6Loopback()
	}
	all := slices.Clone(local.all())
	add := func(a netip.Addr) {
		if a.Is6() == s.six {
			all = append(all, Span{Address(a), Address(a)})
		}
	}
	for _, prefix := range addresses {
		add(prefix.Addr())
	}
	s.fixed = Union(all...)
	for _, i := range p.interfaces {
		for _, a := range i.addresses {
			add(a)
		}
	}
	s.local = Union(all...)
	s.masks = s.local.Without(local).Or(Single(Address(host)))
	for _, r := range routes {
		if r.Family == family {
			s.marks = s.marks.Or(Single(N(uint64(r.Mark))))
		}
	}
	return s
}

// Local returns the pod's addresses.
func (s *Side) Local() Set { return s.local }

var (
	loopback4 = Prefix(netip.MustParsePrefix("127.0.0.0/8"))
	loopback6 = Single(N(1))

	every16, every32 = Between(0, 65535), Between(0, 1<<32-1)
	every128         = Everything(16)
)

// every returns all addresses of a family.
func every(six bool) Set {
	if six {
		return every128
	}
	return every32
}

// orders returns the side with chains of equal hook and priority in every order, and before or behind what the kernel does there
// itself: it runs the newest first, but does not tell which that is. Where it may ask no chain of nat, there are those without, too. all
// is false where there are too many.
func (s *Side) orders() (sides []*Side, all bool) {
	const most = 8
	sides, all = []*Side{s}, true
	if other := s.untracking(); other != nil {
		sides = append(sides, other)
	}
	double := func(h int, change func([]Base)) {
		for _, o := range slices.Clone(sides) {
			if len(sides) == most {
				all = false
				return
			}
			other := *o
			other.hooks[h] = slices.Clone(o.hooks[h])
			change(other.hooks[h])
			sides = append(sides, &other)
		}
	}
	for h, list := range s.hooks {
		for i, a := range list {
			for j, b := range list[:i] {
				if !all {
					return sides, false
				}
				if a.Priority == b.Priority && (a.Kind == NAT) == (b.Kind == NAT) {
					double(h, func(list []Base) { list[i], list[j] = list[j], list[i] })
				}
			}
		}
		for i, a := range list {
			if a.Kind != NAT && a.besideKernel() {
				double(h, func(list []Base) { list[i].Priority-- })
			}
		}
	}
	return sides, all
}
