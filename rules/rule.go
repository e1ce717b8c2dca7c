// SPDX-License-Identifier: Apache-2.0

// Package rules is the pure core of meshnetd: what is known of a pod, what is decided for it, and the
// packet-filter rules that follow, as Go values. It touches no kernel and imports the standard library
// only. Text for iptables-restore, comparison with the kernel and explanations all come from the same
// values, so they cannot drift apart.
package rules

import "net/netip"

// Family is an IP family.
type Family uint8

// The two families a rule set can belong to.
const (
	IPv4 Family = 4
	IPv6 Family = 6
)

// FamilyOf returns the family of an address.
func FamilyOf(addr netip.Addr) Family {
	if addr.Is6() {
		return IPv6
	}
	return IPv4
}

// Loopback returns the family's own address of lo.
func (f Family) Loopback() netip.Addr {
	if f == IPv6 {
		return netip.IPv6Loopback()
	}
	return netip.AddrFrom4([4]byte{127, 0, 0, 1})
}

// String returns the name of the family's iptables tool, "iptables" or "ip6tables".
func (f Family) String() string {
	if f == IPv6 {
		return "ip6tables"
	}
	return "iptables"
}

// Rule is one rule of a chain: every Match must hold for the Target to be taken.
type Rule struct {
	Match  []Match
	Target Target
	Why    string // shown by plan and explain; not part of the rule's identity
}

// printed appends itself the way iptables-save prints it, with a space behind each word.
type printed interface{ appendTo(text []byte) []byte }

// Target is what happens to a packet that a rule matches. The set is closed.
type Target interface{ printed }

// The protocols a rule can name.
const (
	TCP    = "tcp"
	UDP    = "udp"
	ICMP   = "icmp"      // of IPv4
	ICMPv6 = "ipv6-icmp" // of IPv6
)

// Jump continues in a chain of the same table.
type Jump string

// The targets without parameters.
const (
	Return = Verdict("RETURN")
	Accept = Verdict("ACCEPT")
	Drop   = Verdict("DROP")
)

// Verdict is a built-in target: Return, Accept or Drop.
type Verdict string

// Count is the target of a rule that counts packets and lets them go on.
const Count = Counting("")

// Counting is the type of Count.
type Counting string

// Redirect sends the packet to a port of this host (nat only).
type Redirect struct{ Port uint16 }

// DNAT sends the packet to another address, and unless Port is 0 to another port (nat only).
type DNAT struct {
	To   netip.Addr
	Port uint16
}

// TProxy hands the packet to the listener on Port without changing it, and marks it (mangle only).
type TProxy struct {
	Port uint16
	Addr netip.Addr
	Mark uint32
}

// SetMark sets the packet's mark.
type SetMark uint32

// SetConnMark sets the connection's mark.
type SetConnMark uint32

// SaveMark copies the packet's mark to the connection.
type SaveMark struct{}

// RestoreMark copies the connection's mark to the packet.
type RestoreMark struct{}

// CTZone puts the packet's connection in a conntrack zone (raw only).
type CTZone uint16

// The answers of RejectWith.
const (
	RejectReset = RejectWith("tcp-reset")              // of TCP
	RejectPort  = RejectWith("icmp6-port-unreachable") // of IPv6
	RejectPort4 = RejectWith("icmp-port-unreachable")  // of IPv4
)

// RejectWith answers a packet, so that its sender knows at once that it went nowhere (filter only).
type RejectWith string

// Foreign is a rule of somebody else, kept as the text iptables-save printed.
type Foreign string
