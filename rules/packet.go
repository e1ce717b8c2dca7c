// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Direction tells where a packet enters the pod's network stack.
type Direction uint8

// The two ways in. What stays in the pod, over lo, starts as Outbound.
const (
	Outbound Direction = iota // made in the pod
	Inbound                   // arrives by an interface
)

// Packet is one packet on its way through a pod, as the kernel knows it where it enters. Of a connection
// that exists already, nat has left the addresses alone: what it translates is decided by the first packet.
type Packet struct {
	Direction   Direction
	Protocol    string // TCP, UDP, ICMP, ICMPv6, or any other that no rule names, such as "sctp"
	Source      netip.AddrPort
	Destination netip.AddrPort

	In  string // the interface an Inbound packet arrives by; never lo
	Out string // the interface that leads to Destination where that is not an address of the pod

	Socket   bool   // false: the kernel's own, such as a reset; no owner is known then
	UID, GID uint32 // of the socket

	Mark        uint32  // of an Outbound packet, its socket's SO_MARK
	ConnMark    uint32  // what a connection that exists has remembered
	State       CTState // one state; the zero value is StateNew, of the first packet
	Transparent bool    // of a connection that exists: its socket in the pod is a transparent one, the proxy's for TPROXY
}

// Family returns the family of the packet's addresses.
func (p Packet) Family() Family { return FamilyOf(p.Destination.Addr()) }

// String describes the packet in one line.
func (p Packet) String() string {
	words := []string{p.Protocol, p.Source.String(), "to", p.Destination.String()}
	add := func(format string, args ...any) { words = append(words, fmt.Sprintf(format, args...)) }
	switch {
	case p.Direction == Inbound:
		add("in by %s", p.In)
	case p.Socket:
		add("of uid %d gid %d", p.UID, p.GID)
	default:
		add("of no socket")
	}
	if p.Mark != 0 {
		add("mark %#x", p.Mark)
	}
	if p.ConnMark != 0 {
		add("connmark %#x", p.ConnMark)
	}
	if p.State != StateNew && p.State != 0 {
		add("%s", strings.Join(p.State.names(), ","))
	}
	if p.Transparent {
		add("of a transparent socket")
	}
	return strings.Join(words, " ")
}

func (v CTState) names() []string {
	var names []string
	for bit, name := range stateNames {
		if v&(1<<bit) != 0 {
			names = append(names, name)
		}
	}
	return names
}

// Check refuses a packet that cannot be.
func (p Packet) Check() error {
	src, dst := p.Source.Addr(), p.Destination.Addr()
	switch {
	case p.Protocol == "":
		return fmt.Errorf("no protocol")
	case !src.IsValid() || !dst.IsValid() || src.Is4() != dst.Is4() || src.Is4In6() || dst.Is4In6():
		return fmt.Errorf("from %s to %s: want two addresses of one family", src, dst)
	case dst.IsUnspecified():
		return fmt.Errorf("to %s: no packet goes there; the kernel takes the pod's own loopback address in its place", dst)
	case !slices.Contains([]CTState{StateInvalid, StateNew, StateRelated, StateEstablished, StateUntracked}, p.State):
		return fmt.Errorf("connection state %s: want exactly one", strings.Join(p.State.names(), ","))
	case p.Direction == Inbound && (p.In == "" || p.In == loopback):
		return fmt.Errorf("arrives by interface %q: what comes by lo was sent in the pod", p.In)
	case p.Direction == Inbound && p.Socket:
		return fmt.Errorf("arrives by interface %s with a socket", p.In)
	case p.Direction == Inbound && p.Mark != 0:
		return fmt.Errorf("arrives by interface %s with a mark", p.In)
	case p.State&(StateRelated|StateEstablished) == 0 && p.ConnMark != 0:
		return fmt.Errorf("a mark of a connection that does not exist")
	}
	return nil
}
