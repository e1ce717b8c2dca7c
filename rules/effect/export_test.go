// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

const MaxWork = maxWork

// Bases returns the base chains of a side.
func (s *Side) Bases() (all []Base) {
	for _, bases := range s.hooks {
		all = append(all, bases...)
	}
	return all
}

// End is an end of many packets.
type End struct{ packets }

// Ends returns where all packets of a pod end by a side's rules; false where that is too much work.
func Ends(pod *Pod, side *Side) (all []End, ok bool) {
	c := comparison{memo: newMemo(), pod: pod}
	for _, start := range starts(pod, side.six) {
		some, ok := c.walk(side, start, nil, nil)
		if !ok {
			return nil, false
		}
		for f := range some.all() {
			for _, b := range f.boxes {
				all = append(all, End{packets{f.state, b}})
			}
		}
	}
	return all, true
}

// Kind is how they end.
func (e End) Kind() rules.EndKind { return e.kind }

// Has reports whether a packet is one of those.
func (e End) Has(pod *Pod, p rules.Packet) bool {
	f := pod.only(p)
	_, in := e.and(&f.box)
	return in && e.inbound == f.inbound && e.owned == f.owned
}

// Of returns the end of one of the packets, as far as comparisons ask for it.
func (e End) Of(pod *Pod, p rules.Packet) string {
	if e.stopped() { // where it was to go does not matter any more
		return fmt.Sprintln(e.kind)
	}
	e.box = pod.only(p).box
	to := e.to(p.Family() == rules.IPv6)
	port := uint16(0)
	switch e.kind {
	case rules.Delivered, rules.Redirected:
		port = to.Port()
	case rules.TProxied:
		port = e.listener
	case rules.Dropped, rules.Refused, rules.Leaves:
	}
	return fmt.Sprintln(e.kind, port, to, e.zone, e.value(e.connMark).lo)
}
