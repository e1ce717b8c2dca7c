// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"strings"
)

// Path is a packet's way through a plan.
type Path struct {
	Packet Packet // as it entered
	Steps  []Step
	End    End
}

// Step is a rule that matched, or what the kernel did of its own between two tables.
type Step struct {
	Table string // empty where the kernel acts without a rule
	Chain string
	Index int // of the rule in its chain, from 1
	Rule  Rule
	Note  string // what came of it, where the rule does not say that itself
}

// EndKind tells what became of a packet.
type EndKind string

// What can become of a packet.
const (
	Delivered  EndKind = "delivered"  // to a socket on the destination it was sent to
	Redirected EndKind = "redirected" // to a listener of the pod, by REDIRECT or DNAT
	TProxied   EndKind = "tproxied"   // to a listener of the pod, by TPROXY
	Dropped    EndKind = "dropped"    // without an answer
	Refused    EndKind = "refused"    // answered with a TCP reset, or by ICMP that nobody listens
	Leaves     EndKind = "leaves"     // goes out by an interface
)

// End is what became of a packet, and what it leaves behind for those that follow it.
type End struct {
	Kind      EndKind
	Port      uint16         // of the listener that has it: Redirected and TProxied; of the destination: Delivered
	To        netip.AddrPort // the destination it ends with
	Original  netip.AddrPort // the destination it was sent to, which the listener asks the kernel for
	Interface string         // by which it Leaves; empty where it is forwarded and nothing says which way
	Zone      uint16         // the conntrack zone of its connection
	ConnMark  uint32         // the mark its connection has now
}

// String says in words where the packet ended, and what its connection has been given.
func (e End) String() string {
	text := e.where()
	if e.Zone != 0 {
		text += fmt.Sprintf(" zone %d", e.Zone)
	}
	if e.ConnMark != 0 {
		text += fmt.Sprintf(" connmark %#x", e.ConnMark)
	}
	return text
}

func (e End) where() string {
	switch e.Kind {
	case Delivered:
		return fmt.Sprintf("delivered to %s", e.To)
	case Redirected, TProxied:
		return fmt.Sprintf("%s to port %d, original destination %s", e.Kind, e.Port, e.Original)
	case Leaves:
		if e.Interface == "" {
			return fmt.Sprintf("leaves for %s, forwarded", e.To)
		}
		return fmt.Sprintf("leaves for %s by %s", e.To, e.Interface)
	case Dropped, Refused:
		return string(e.Kind)
	}
	return fmt.Sprintf("unknown end %q", string(e.Kind))
}

// String prints the packet, one line for each step, and the end.
func (p Path) String() string {
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n", p.Packet)
	for _, s := range p.Steps {
		fmt.Fprintf(&out, "  %s\n", s)
	}
	fmt.Fprintf(&out, "%s\n", p.End)
	return out.String()
}

// String prints table, chain, number and text of the rule, why it is there and what came of it.
func (s Step) String() string {
	if s.Table == "" {
		return s.Note
	}
	text := fmt.Sprintf("%s %s %d: %s", s.Table, s.Chain, s.Index, s.Rule)
	if s.Rule.Why != "" {
		text += " (" + s.Rule.Why + ")"
	}
	if s.Note != "" {
		text += ": " + s.Note
	}
	return text
}
