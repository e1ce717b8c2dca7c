// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// outcome is what became of a packet, in words that both the tracer and the kernel can say.
type outcome struct {
	kind     string
	listener uint16         // which has it; 0 where it was not asked for
	to       netip.AddrPort // the destination it ended with
	original netip.AddrPort // the one that its connection began with
	by       string         // the interface that it left by
	zone     uint16
	connMark uint32
}

// The kinds of outcome. Anything else is told in words, and is no tracer's.
const (
	delivered = "delivered"
	left      = "left"
	dropped   = "dropped"
	reset     = "reset"
)

// wanted is what the tracer says, as far as it is looked at for a way of sending. By what rule a listener has a
// packet does not matter. Where no socket waits for answers a reset is not seen.
func wanted(end rules.End, w way) outcome {
	o := outcome{to: end.To, original: end.Original, zone: end.Zone, connMark: end.ConnMark}
	switch end.Kind {
	case rules.Delivered, rules.Redirected, rules.TProxied:
		o.kind = delivered
		if w.listened() {
			o.listener = end.Port
		}
		return o
	case rules.Leaves:
		o.kind, o.by = left, end.Interface
		return o
	case rules.Dropped: // before its connection is known to anybody
		return outcome{kind: dropped}
	case rules.Refused:
		if !w.listened() {
			return outcome{kind: dropped}
		}
		return outcome{kind: reset}
	}
	return outcome{kind: string(end.Kind)}
}

func (o outcome) String() string {
	switch o.kind {
	case delivered:
		return fmt.Sprintf("delivered to %s, listener %d, original destination %s, zone %d, connmark %#x", o.to, o.listener, o.original, o.zone, o.connMark)
	case left:
		return fmt.Sprintf("left for %s by %s, original destination %s, zone %d, connmark %#x", o.to, o.by, o.original, o.zone, o.connMark)
	}
	return o.kind
}
