// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"maps"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Answer is how the rules of a namespace compare with those of a plan.
type Answer uint8

// The answers, the worst last.
const (
	Equal Answer = iota
	// More: everything that the plan takes or stops is taken or stopped, and something else is too.
	More
	// LessWhileAway: while the proxy does not listen, something gets by that the plan stops then.
	LessWhileAway
	CannotTell
	Less
)

var answers = [...]string{Equal: "equal", More: "takes more", LessWhileAway: "takes less while the proxy does not listen",
	CannotTell: "cannot be told", Less: "takes less"}

// String returns the answer in words.
func (a Answer) String() string { return answers[a] }

// Difference is a set of packets that end otherwise, shown by one of them.
type Difference struct {
	Answer     Answer
	Remembered bool // the packets end the same, but leave their connections in different states
	Followed   bool // a packet before it left the connection with different marks on the two sides
	Away       bool // only while nobody listens at TPROXY's port
	Witness    rules.Packet
	Plan, Have string // what becomes of it, in words
	weight     int
}

// Result is what came of a comparison.
type Result struct {
	Answer      Answer
	Differences []Difference // one of each kind, the worst first, by its most usual packet
	Work        int
	Alone       bool        // nothing but the plan is there, so that the answer holds for every pod with that plan
	Beside      []Neighbour // tables of others in the namespace, one by one
	Bounds      *Bounds     // where these are known, the answer holds for every pod with the same symbols
}

// String returns the answer, and the worst difference.
func (r Result) String() string {
	if len(r.Differences) == 0 {
		return r.Answer.String()
	}
	return r.Answer.String() + ", as " + r.Differences[0].String()
}

// maxWork bounds a comparison: it takes less than a second. Beyond it the answer is CannotTell.
const maxWork = 500_000

// Compare sends every packet that a pod can have through both sides. The plan's side must have nothing unknown in it.
func Compare(p *Pod, plan, have *Side) Result {
	c := comparison{memo: newMemo(), pod: p, kinds: map[difference]int{}, start: starts(p, plan.six), doors: doors{}}
	for _, f := range c.start {
		ends, ok := c.walk(plan, f, nil, nil)
		if !ok {
			return Result{Answer: CannotTell, Work: c.work}
		}
		c.planned = append(c.planned, ends)
		c.doors.add(ends)
	}
	orders, all := have.orders()
	var answer Answer
	for i, side := range orders {
		if !c.through(plan, side) {
			return Result{Answer: CannotTell, Work: c.work}
		}
		switch {
		case i == 0:
			answer = c.Answer
		case answer != c.Answer: // it depends on which of the chains was made first
			answer = max(min(answer, c.Answer), CannotTell)
		}
	}
	c.Work = c.work
	if c.Answer = answer; !all {
		c.Answer = max(answer, CannotTell)
	}
	slices.SortStableFunc(c.Differences, func(a, b Difference) int {
		if a.Answer != b.Answer {
			return int(b.Answer) - int(a.Answer)
		}
		return a.weight - b.weight
	})
	return c.Result
}

// comparison is the state of a running Compare.
type comparison struct {
	Result
	memo
	pod   *Pod
	kinds map[difference]int // the index of each kind's Difference

	start   []packets
	planned []flows // where those end by the plan
	doors   doors   // where it gives packets to the proxy

	// For one order of chains:
	memories []memory                 // each is compared after those before it
	zones    map[[2]uint16]Difference // pairs of zones, the plan's and the other side's, of the same packets
}

// difference identifies a kind of Difference.
type difference struct {
	answer     Answer
	plan, have rules.EndKind
	inbound    bool
	remembered bool
}

// memory is a pair of different connection marks that the two sides leave the same connections with. The packets that
// follow are compared with one mark on each side.
type memory struct {
	plan, have       ref
	marks, protocols Set
}

func (m memory) is(other memory) bool {
	return m.plan == other.plan && m.have == other.have && m.marks.equal(other.marks) && m.protocols.equal(other.protocols)
}

// mostMemories bounds the memories that are followed; beyond it the answer is CannotTell.
const mostMemories = 64

// through compares what becomes of all packets, and reports whether the limit let it.
func (c *comparison) through(plan, have *Side) bool {
	c.Answer, c.memories, c.zones = Equal, nil, map[[2]uint16]Difference{}
	for i, f := range c.start {
		if !c.against(have, c.planned[i], f, false) {
			return false
		}
	}
	for i := 0; i < len(c.memories); i++ {
		m := c.memories[i]
		for _, f := range c.start {
			if !f.box[CTState].has(N(established)) {
				continue
			}
			f.box[ConnMark], f.box[Protocol] = m.marks, m.protocols
			other := f
			f.connMark, other.connMark = m.plan, m.have
			ends, ok := c.walk(plan, f, nil, nil)
			if !ok || !c.against(have, ends, other, f.connMark != other.connMark) {
				return false
			}
			c.dropAll(ends)
		}
	}
	c.separated()
	return true
}

// against compares where the packets of one start end by the plan with what becomes of them on the other side.
func (c *comparison) against(have *Side, ends flows, start packets, followed bool) bool {
	found, ok := c.walk(have, start, nil, c.doors)
	if !ok {
		return false
	}
	exactly := make(map[box]*flow, ends.n) // the plan's ends by their boxes, which have nothing in common
	for wanted := range ends.all() {
		for _, b := range wanted.boxes {
			exactly[b] = wanted
		}
	}
	for got := range found.all() {
		for _, b := range got.boxes {
			if wanted := exactly[b]; wanted != nil {
				c.judge(wanted, got, b, have.six, followed)
				continue
			}
			if c.work += 1 + ends.n/8; c.work > maxWork {
				return false
			}
			for wanted := range ends.all() {
				for i := range wanted.boxes {
					if both, met := b.and(&wanted.boxes[i]); met {
						c.judge(wanted, got, both, have.six, followed)
					}
				}
			}
		}
	}
	c.dropAll(found)
	return true
}

// walk returns where packets end on a side; false where that exceeds the work that is left. known are the doors of another side,
// nil those of its own.
func (c *comparison) walk(side *Side, start packets, decides func(*rules.Step) *rules.Step, known doors) (ends flows, ok bool) {
	w := walker{side: side, pod: c.pod, memo: &c.memo, decides: decides, doors: known}
	f := c.another(&flow{state: start.state, joined: true}, []box{start.box})
	if f.inbound {
		w.inbound(only(f))
	} else {
		w.outbound(only(f))
	}
	return w.merge(w.ended), !w.over()
}

// judge compares two ends of the packets of a box.
func (c *comparison) judge(wanted, got *flow, whole box, six, followed bool) {
	for _, b := range align(whole, &wanted.state, &got.state) {
		c.judgePair(pair{packets{wanted.state, b}, packets{got.state, b}}, six, followed)
	}
}

func (c *comparison) judgePair(p pair, six, followed bool) {
	answer := c.doors.verdict(p.plan, p.have)
	switch {
	case answer == Less && p.have.maybe:
		answer = CannotTell
	case answer == Less && p.away():
		answer = LessWhileAway
	}
	remembered := false
	if answer < LessWhileAway && !p.plan.stopped() && !p.have.stopped() && p.have.kind != unknown {
		remembered = c.remember(p, six, followed)
		if remembered {
			answer = CannotTell
		}
	}
	c.Answer = max(c.Answer, answer)
	if answer == Equal {
		return
	}
	d := c.show(p, six, followed || remembered)
	d.Answer, d.Remembered, d.Followed = answer, remembered, followed
	k := difference{answer, p.plan.kind, p.have.kind, p.plan.inbound, remembered}
	if i, ok := c.kinds[k]; !ok {
		c.kinds[k] = len(c.Differences)
		c.Differences = append(c.Differences, d)
	} else if d.weight < c.Differences[i].weight {
		c.Differences[i] = d
	}
}

// remember notes in which states packets that end the same leave their connections, and reports whether these differ in a
// way that cannot be followed.
func (c *comparison) remember(p pair, six, followed bool) bool {
	a, b := p.plan, p.have
	if at := [2]uint16{a.zone, b.zone}; !p.away() && !followed {
		var d Difference
		if a.zone != b.zone {
			d = c.show(p, six, true)
			d.Remembered = true
		}
		if known, ok := c.zones[at]; !ok || d.weight < known.weight {
			c.zones[at] = d
		}
	}
	if a.untracked != b.untracked {
		return true
	}
	if sameRef(&b.box, a.connMark, b.connMark) {
		return false
	}
	m := memory{a.connMark, b.connMark, b.box[ConnMark], b.box[Protocol]}
	if slices.ContainsFunc(c.memories, m.is) {
		return false
	}
	if len(c.memories) == mostMemories {
		return true
	}
	c.memories = append(c.memories, m)
	return false
}

// separated compares the conntrack zones. Where the plan has two zones and the other side one, a packet can be mistaken for
// another connection's with the same addresses and ports, and go its way. Where the other side has more zones, only
// answers are not recognised, which lets nothing around the proxy.
func (c *comparison) separated() {
	pairs := slices.SortedFunc(maps.Keys(c.zones), func(a, b [2]uint16) int { return slices.Compare(a[:], b[:]) })
	for side, answer := range []Answer{Less, More} {
		for _, at := range pairs {
			d := c.zones[at]
			for _, other := range pairs {
				if at[1-side] == other[1-side] && at[side] != other[side] && at[0] != at[1] {
					d.Answer = answer
					c.Answer = max(c.Answer, answer)
					c.Differences = append(c.Differences, d)
					break
				}
			}
		}
	}
}

// pair is two ends of the same packets.
type pair struct{ plan, have packets }

// away reports whether this happens only while nobody listens.
func (p *pair) away() bool { return !p.have.box[Listening].has(N(1)) }

// align cuts a box into parts on each of which the two ends' refs are equal everywhere or nowhere.
func align(whole box, plan, have *state) []box {
	parts := []box{whole}
	for _, refs := range [][2]ref{{plan.connMark, have.connMark}, {plan.dst, have.dst}, {plan.dport, have.dport}} {
		a, b := refs[0], refs[1]
		if a.isGiven() == b.isGiven() {
			continue
		}
		if a.isGiven() {
			a, b = b, a
		}
		for i := range parts {
			same := parts[i][a.from].And(Single(b.c))
			other := parts[i][a.from].Without(same)
			if same.Empty() || other.Empty() {
				continue
			}
			apart := parts[i]
			parts[i][a.from], apart[a.from] = same, other
			parts = append(parts, apart)
		}
	}
	return parts
}

// sameRef reports whether two refs have the same value on all of a box.
func sameRef(b *box, x, y ref) bool {
	if x == y {
		return true
	}
	a, ok := b.fixed(x)
	c, ok2 := b.fixed(y)
	return ok && ok2 && a == c
}

// fixed returns the value that a ref has on all of a box, if it is one.
func (b *box) fixed(r ref) (Number, bool) {
	if r.isGiven() {
		return r.c, true
	}
	return b[r.from].single()
}

func (f *packets) taken() bool   { return f.kind == rules.Redirected || f.kind == rules.TProxied }
func (f *packets) stopped() bool { return f.kind == rules.Dropped || f.kind == rules.Refused }

// verdict compares two ends. What the plan takes must be taken by the same listener, or stopped; what it stops must be
// stopped, or taken by a listener to whom the plan gives packets too.
func (d doors) verdict(plan, have packets) Answer {
	switch {
	case plan.kind == unknown, have.kind == unknown && (plan.taken() || plan.stopped()):
		return CannotTell
	case sameEnd(plan, have):
		return Equal
	case have.stopped():
		return More
	case plan.taken(), plan.stopped() && (!plan.astray || !have.taken()) && !d.lead(&have):
		return Less
	}
	return More // the plan lets it be, the other side does not
}

func sameEnd(plan, have packets) bool {
	if plan.kind != have.kind {
		return false
	}
	b := &have.box
	switch plan.kind {
	case rules.Leaves:
		return sameRef(b, plan.dport, have.dport) && sameRef(b, plan.dst, have.dst) && sameRef(b, plan.route, have.route)
	case rules.Redirected, rules.TProxied, rules.Delivered: // behind another address there may be another listener at that port
		return plan.listener == have.listener && sameRef(b, plan.dport, have.dport) && sameRef(b, plan.dst, have.dst)
	case rules.Dropped, rules.Refused:
	}
	return true
}
