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

// Match is a condition on a packet. The set is closed.
type Match interface {
	printed
	rank() rank
}

// rank is the place that iptables-save gives a match; extensions keep their own order. Only rankOf makes one, so that no match
// is of a type that cannot be compared.
type rank struct{ place int }

func rankOf[M interface {
	comparable
	Match
}](_ M, place int) rank {
	return rank{place}
}

// Target is what happens to a packet that a rule matches. The set is closed.
type Target interface{ printed }

// Ranks of the matches that iptables-save prints first, whatever order they were written in.
const (
	rankSource = iota
	rankDestination
	rankIn
	rankOut
	rankProtocol
	rankExtension
)

// The protocols a rule can name.
const (
	TCP    = "tcp"
	UDP    = "udp"
	ICMP   = "icmp"      // of IPv4
	ICMPv6 = "ipv6-icmp" // of IPv6
)

// Protocol matches the transport protocol, one of these.
type Protocol string

// Source matches packets from Prefix.
type Source struct{ Prefix netip.Prefix }

// Destination matches packets to Prefix, or with Not to anywhere else.
type Destination struct {
	Prefix netip.Prefix
	Not    bool
}

// InInterface matches packets that came in by the named interface.
type InInterface string

// OutInterface matches packets that leave by the named interface.
type OutInterface string

// SourcePort matches the source port of a Protocol.
type SourcePort struct {
	Protocol string
	Port     uint16
}

// DestinationPort matches the destination port of a Protocol, or with Not every other port.
type DestinationPort struct {
	Protocol string
	Port     uint16
	Not      bool
}

// DestinationPorts matches packets to one of the ports or ranges of ports, or with Not to none of them (xt_multiport, 15 numbers
// at most, of which a range takes two).
type DestinationPorts struct {
	Ports PortList
	Not   bool
}

// OwnerUID matches packets of sockets whose user id is ID, or with Not of every other packet, those
// without a socket included (xt_owner).
type OwnerUID struct {
	ID  uint32
	Not bool
}

// OwnerUIDs matches packets of sockets whose user id is one from First to Last, which are not the same.
type OwnerUIDs struct{ First, Last uint32 }

// OwnerGID is OwnerUID for the group id.
type OwnerGID struct {
	ID  uint32
	Not bool
}

// CTState matches the state conntrack gives the packet.
type CTState uint8

// The conntrack states, combined with |.
const (
	StateInvalid CTState = 1 << iota
	StateNew
	StateRelated
	StateEstablished
	StateUntracked
)

// PacketMark matches the packet's mark.
type PacketMark struct {
	Mark uint32
	Not  bool
}

// ConnMark matches the connection's mark.
type ConnMark struct{ Mark uint32 }

// Comment matches every packet: it says what a rule is for (xt_comment). It has letters, digits and any of
// _-/.,: and nothing else, so that it is one word wherever it is printed; 255 bytes at most.
type Comment string

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

func (m Protocol) rank() rank         { return rankOf(m, rankProtocol) }
func (m Source) rank() rank           { return rankOf(m, rankSource) }
func (m Destination) rank() rank      { return rankOf(m, rankDestination) }
func (m InInterface) rank() rank      { return rankOf(m, rankIn) }
func (m OutInterface) rank() rank     { return rankOf(m, rankOut) }
func (m SourcePort) rank() rank       { return rankOf(m, rankExtension) }
func (m DestinationPort) rank() rank  { return rankOf(m, rankExtension) }
func (m DestinationPorts) rank() rank { return rankOf(m, rankExtension) }
func (m OwnerUID) rank() rank         { return rankOf(m, rankExtension) }
func (m OwnerUIDs) rank() rank        { return rankOf(m, rankExtension) }
func (m OwnerGID) rank() rank         { return rankOf(m, rankExtension) }
func (m CTState) rank() rank          { return rankOf(m, rankExtension) }
func (m PacketMark) rank() rank       { return rankOf(m, rankExtension) }
func (m ConnMark) rank() rank         { return rankOf(m, rankExtension) }
func (m Comment) rank() rank          { return rankOf(m, rankExtension) }
