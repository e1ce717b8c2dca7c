// SPDX-License-Identifier: Apache-2.0

package effect

import "github.com/meshnetd/meshnetd/rules"

// Part is packets that begin connections, on sockets without a mark, and that a plan treats alike.
type Part struct {
	End   rules.EndKind
	By    *rules.Step // the last rule that decides
	Local bool        // sent to an address of the pod
	six   bool
	pod   *Pod
	usual []*packets
	packets
}

// Parts returns all packets of TCP and UDP of a family, divided by what becomes of them; false where that is too much work.
// Which rules decide is asked of decides: it returns the step that stands for those of one kind, or nil. Some packets are usual.
func (t *Tracer) Parts(family rules.Family, usual []rules.Packet, decides func(*rules.Step) *rules.Step) (all []Part, ok bool) {
	side := t.side(family)
	ready := make([]*packets, len(usual))
	for i, p := range usual {
		ready[i] = t.pod.only(p)
	}
	c := comparison{memo: newMemo(), pod: t.pod}
	for _, f := range starts(t.pod, side.six)[:3] { // of those that begin
		f.box[Protocol] = ported
		f.box[Mark], f.box[CTState], f.box[Transparent], f.box[Listening] = Single(N(0)), Single(N(fresh)), Single(N(0)), Single(N(1))
		if f.inbound { // the kernel has such from elsewhere dropped, whatever the rules
			for _, x := range []Field{Source, Destination} {
				f.box[x] = f.box[x].Without(loopback4).Without(loopback6)
			}
		}
		ends, ok := c.walk(side, f, decides, nil)
		if !ok {
			return nil, false
		}
		for f := range ends.all() {
			w := walker{memo: &c.memo}
			here, away := w.cut(f, entered(Destination), side.local)
			for _, f := range []*flow{here, away} {
				if f == nil {
					continue
				}
				for _, b := range f.boxes {
					all = append(all, Part{f.kind, f.by, f == here, side.six, t.pod, ready, packets{f.state, b}})
				}
			}
		}
	}
	return all, true
}

// Of reports whether packets of a protocol are among them.
func (p Part) Of(protocol string) bool { return p.box[Protocol].has(N(protocols[protocol])) }

// Nearest returns the packet of the part that differs least from a usual one of the protocol, from which and in how many fields;
// false where all of those go another way in, or belong to another kind of owner.
func (p Part) Nearest(protocol string) (near rules.Packet, changed, from int, ok bool) {
	number := N(protocols[protocol])
	changed = int(fields)
	for i, f := range p.usual {
		if f.inbound != p.inbound || f.owned != p.owned || f.value(entered(Protocol)) != number {
			continue
		}
		differ := 0
		for x := range f.box {
			if Field(x) != CTState && !p.box[x].has(f.value(entered(Field(x)))) {
				differ++
			}
		}
		if differ < changed {
			changed, from, ok = differ, i, true
		}
	}
	if !ok {
		return near, 0, 0, false
	}
	var v [fields]Number
	for x := range v {
		if v[x] = p.usual[from].value(entered(Field(x))); !p.box[x].has(v[x]) {
			v[x] = some(Field(x), p.box[x].all()[0])
		}
	}
	return p.pod.packet(p.six, &p.packets, v), changed, from, true
}

// some returns a value of a span: of addresses and ports not the first, which is no host's, and no service's.
func some(x Field, s Span) Number {
	if (x == Source || x == Destination) && s.First.next().less(s.Last) || x == DestinationPort && s.First == N(0) && s.First != s.Last {
		return s.First.next()
	}
	return s.First
}
