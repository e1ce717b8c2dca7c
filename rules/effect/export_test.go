// SPDX-License-Identifier: Apache-2.0

package effect

import (
	"fmt"
	"net/netip"

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
type End struct{ *flow }

// Ends returns where all packets of a pod end by a side's rules; false where that is too much work.
func Ends(pod *Pod, side *Side) (all []End, ok bool) {
	c := comparison{pod: pod, limit: maxWork}
	for _, start := range starts(pod, side.six) {
		some, ok := c.walk(side, start)
		if !ok {
			return nil, false
		}
		for _, f := range some {
			all = append(all, End{f})
		}
	}
	return all, true
}

// Has reports whether a packet is one of those.
func (e End) Has(pod *Pod, p rules.Packet) bool {
	f := pod.flow(p)
	_, in := e.and(&f.box)
	return in && e.inbound == f.inbound && e.owned == f.owned
}

// Of returns the end of one of the packets, as far as comparisons ask for it.
func (e End) Of(p rules.Packet) string {
	if e.stopped() { // where it was to go does not matter any more
		return fmt.Sprintln(kinds[e.kind])
	}
	to := netip.AddrPortFrom(e.dst.of(&p).address(p.Family() == rules.IPv6), uint16(e.dport.of(&p).lo))
	port := uint16(0)
	switch e.kind {
	case delivered, redirected:
		port = to.Port()
	case tproxied:
		port = e.listener
	case underWay, dropped, refused, leaves, unknown:
	}
	return fmt.Sprintln(kinds[e.kind], port, to, e.zone, e.connMark.of(&p).lo)
}
