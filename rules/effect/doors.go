// SPDX-License-Identifier: Apache-2.0

package effect

import "github.com/meshnetd/meshnetd/rules"

// door is where a plan gives packets to the proxy. Only there the proxy is known to listen: any other port is open to whoever is in
// the pod, or to nobody.
type door struct {
	kind    rules.EndKind
	inbound bool
	to      Number // the address; none of TPROXY
	port    Number
}

// doors are those of a plan, and the protocols that each is for.
type doors map[door]Set

// add adds those to which packets came that end there.
func (d doors) add(ends flows) {
	for f := range ends.all() {
		for i := range f.boxes {
			p := packets{f.state, f.boxes[i]}
			if at, ok := p.door(); ok && !d.lead(&p) { // of many boxes, few have another protocol
				d[at] = d[at].Or(p.box[Protocol])
			}
		}
	}
}

// lead reports whether all of these packets come to one.
func (d doors) lead(p *packets) bool {
	at, ok := p.door()
	return ok && p.box[Protocol].Without(d[at]).Empty()
}

// door returns where packets end that were taken; false where that is not one place.
func (f *packets) door() (door, bool) {
	if f.kind == rules.TProxied {
		return transparent(f.inbound, f.listener), true
	}
	to, one := f.fixed(f.dst)
	port, one2 := f.fixed(f.dport)
	return door{f.kind, f.inbound, to, port}, f.kind == rules.Redirected && one && one2
}

func transparent(inbound bool, port uint16) door {
	return door{kind: rules.TProxied, inbound: inbound, port: N(uint64(port))}
}

// knocks divides flows that TPROXY gives to a port by whether that is a door.
func (w *walker) knocks(all flows, port uint16) (doors, elsewhere flows) {
	if w.doors == nil {
		return all, flows{}
	}
	for f := range all.all() {
		in, out := w.cut(f, entered(Protocol), w.doors[transparent(f.inbound, port)])
		doors.add(in)
		elsewhere.add(out)
	}
	return doors, elsewhere
}
