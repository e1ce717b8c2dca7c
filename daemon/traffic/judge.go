// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/rules"
)

// Verdict reports whether a packet ended where the rules say.
type Verdict string

// The verdicts.
const (
	Right    Verdict = "ok"
	Wrong    Verdict = "WRONG"
	Unproven Verdict = "not provable" // from here and now
)

// sighting is what the kernel shows of a packet after it was sent.
type sighting struct {
	entry     *conntrack.Entry // of connection tracking; nil is none
	given     []listener       // those that were given it
	refused   bool             // it was answered with a reset
	listeners []listener       // all there are
	local     func(netip.Addr) bool
}

// abilities is what the kernel can show.
type abilities struct {
	tracking bool // connections of the packet's family
	counting bool // what a listener is given and does not take
}

// end puts together where the packet ended. Where several listeners were given something at that moment, the expected one
// counts.
func (s sighting) end(p rules.Packet, want rules.End) rules.End {
	end := rules.End{To: p.Destination, Original: p.Destination}
	if s.entry != nil {
		end.To, end.Zone = s.entry.To, s.entry.Zone
	}
	port, taken := s.taker(want.Port)
	switch {
	case s.entry == nil && !taken && s.refused:
		end.Kind = rules.Refused
	case s.entry == nil && !taken:
		end.Kind = rules.Dropped
	case end.To != p.Destination && s.local(end.To.Addr()):
		end.Kind, end.Port = rules.Redirected, end.To.Port()
	case taken && port != p.Destination.Port():
		end.Kind, end.Port = rules.TProxied, port
	case s.local(end.To.Addr()):
		end.Kind, end.Port = rules.Delivered, end.To.Port()
	default:
		end.Kind, end.Interface = rules.Leaves, p.Out
	}
	return end
}

// taker returns the port of the listener that was given the packet.
func (s sighting) taker(wanted uint16) (port uint16, taken bool) {
	if len(s.given) == 0 {
		return 0, false
	}
	if slices.ContainsFunc(s.given, func(l listener) bool { return l.at.Port() == wanted }) {
		return wanted, true
	}
	return s.given[0].at.Port(), true
}

// final reports whether waiting cannot change what was seen: what the pod sends is translated and tracked before the
// sending call returns.
func (s sighting) final(p rules.Packet, want rules.End) bool {
	if s.entry == nil {
		return p.Direction == rules.Outbound
	}
	return s.entry.To != want.To
}

// judge compares what was seen of a packet with what the rules say.
func judge(p rules.Packet, want rules.End, s sighting, can abilities) (seen rules.End, v Verdict, note string) {
	if want.To == p.Destination && want.Port == p.Destination.Port() && want.Kind != rules.Leaves {
		want.Kind = rules.Delivered // a redirection to the same address cannot be seen
	}
	seen = s.end(p, want)
	same := seen.Kind == want.Kind && seen.Port == want.Port && seen.To == want.To && seen.Zone == want.Zone
	waits := slices.ContainsFunc(s.listeners, func(l listener) bool { return l.at.Port() == want.Port })
	switch {
	case want.Kind == rules.Refused && p.Direction == rules.Inbound && seen.Kind == rules.Dropped:
		return want, Right, "that it is answered is not seen from here"
	case want.Kind == rules.TProxied && !can.counting:
		return seen, Unproven, "this kernel does not show which listener gets a packet"
	case want.Kind == rules.TProxied && !waits && (seen.Kind == rules.Dropped || p.Direction == rules.Outbound && seen.Kind == rules.Delivered):
		return seen, Unproven, fmt.Sprintf("nobody listens on port %d: without the proxy, the kernel drops what is for it", want.Port)
	case seen.Kind == rules.Dropped && !can.tracking && (want.Kind == rules.Leaves || want.Kind == rules.Delivered):
		return seen, Unproven, "it leaves no trace: the rules of this family need no connection tracking"
	case !same:
		return seen, Wrong, ""
	}
	if v, note = s.arrival(p, seen, can); v == Wrong {
		seen.Kind = rules.Dropped
	}
	return seen, v, note
}

// arrival judges whether a packet that was sent to the right listener reached it.
func (s sighting) arrival(p rules.Packet, seen rules.End, can abilities) (Verdict, string) {
	if p.Protocol != rules.TCP || !can.counting || (seen.Kind != rules.Redirected && seen.Kind != rules.Delivered) {
		return Right, ""
	}
	hears := func(l listener) bool { return l.hears(seen.To) }
	switch {
	case !slices.ContainsFunc(s.listeners, hears):
		return Right, "nobody listens there"
	case !slices.ContainsFunc(s.given, hears):
		return Wrong, "somebody listens there and does not get it: it is dropped on its way in"
	}
	return Right, ""
}
