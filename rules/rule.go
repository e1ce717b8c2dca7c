// SPDX-License-Identifier: Apache-2.0

// Package rules is the pure core of meshnetd: what is known of a pod, what is decided for it, and the
// packet-filter rules that follow, as Go values. It touches no kernel and imports the standard library
// only. Text for iptables-restore, comparison with the kernel and explanations all come from the same
// values, so they cannot drift apart.
package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

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

// String returns the rule as iptables-save prints it, without the leading "-A CHAIN".
func (r Rule) String() string {
	ordered := r.Match
	byRank := func(a, b Match) int { return a.rank() - b.rank() }
	if !slices.IsSortedFunc(ordered, byRank) {
		ordered = slices.Clone(ordered)
		slices.SortStableFunc(ordered, byRank)
	}
	words := make([]string, 0, 24) // enough for most rules
	for _, m := range ordered {
		words = append(words, m.args()...)
	}
	return strings.Join(append(words, r.Target.args()...), " ")
}

// Match is a condition on a packet. The set is closed: each one prints itself the way iptables-save does.
type Match interface {
	args() []string
	rank() int // the place iptables-save gives it; extensions keep their own order
}

// Target is what happens to a packet that a rule matches. The set is closed.
type Target interface{ args() []string }

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

// NotDestinationPorts matches packets to none of the ports (xt_multiport, 15 ports at most).
type NotDestinationPorts []uint16

// DestinationPorts matches packets to one of the ports or ranges of ports (xt_multiport, 15 numbers at most, of
// which a range takes two).
type DestinationPorts []PortRange

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

func (Protocol) rank() int            { return rankProtocol }
func (Source) rank() int              { return rankSource }
func (Destination) rank() int         { return rankDestination }
func (InInterface) rank() int         { return rankIn }
func (OutInterface) rank() int        { return rankOut }
func (SourcePort) rank() int          { return rankExtension }
func (DestinationPort) rank() int     { return rankExtension }
func (NotDestinationPorts) rank() int { return rankExtension }
func (DestinationPorts) rank() int    { return rankExtension }
func (OwnerUID) rank() int            { return rankExtension }
func (OwnerUIDs) rank() int           { return rankExtension }
func (OwnerGID) rank() int            { return rankExtension }
func (CTState) rank() int             { return rankExtension }
func (PacketMark) rank() int          { return rankExtension }
func (ConnMark) rank() int            { return rankExtension }
func (Comment) rank() int             { return rankExtension }

func (m Protocol) args() []string { return []string{"-p", string(m)} }

func (m Source) args() []string { return prefixArgs("-s", m.Prefix, false) }

func (m Destination) args() []string { return prefixArgs("-d", m.Prefix, m.Not) }

// prefixArgs prints what the kernel keeps: host bits are masked, and a prefix of no bits is no condition.
func prefixArgs(flag string, prefix netip.Prefix, not bool) []string {
	if prefix.Bits() == 0 && !not {
		return nil
	}
	return negate(not, flag, prefix.Masked().String())
}

func (m InInterface) args() []string { return []string{"-i", string(m)} }

func (m OutInterface) args() []string { return []string{"-o", string(m)} }

func (m SourcePort) args() []string {
	return []string{"-m", m.Protocol, "--sport", number(m.Port)}
}

func (m DestinationPort) args() []string {
	return append([]string{"-m", m.Protocol}, negate(m.Not, "--dport", number(m.Port))...)
}

func (m NotDestinationPorts) args() []string {
	ports := make([]string, len(m))
	for i, port := range m {
		ports[i] = number(port)
	}
	return []string{"-m", "multiport", "!", "--dports", strings.Join(ports, ",")}
}

func (m DestinationPorts) args() []string {
	ports := make([]string, len(m))
	for i, r := range m {
		ports[i] = r.with(":")
	}
	return []string{"-m", "multiport", "--dports", strings.Join(ports, ",")}
}

func (m OwnerUID) args() []string {
	return append([]string{"-m", "owner"}, negate(m.Not, "--uid-owner", number(m.ID))...)
}

func (m OwnerUIDs) args() []string {
	return []string{"-m", "owner", "--uid-owner", number(m.First) + "-" + number(m.Last)}
}

func (m OwnerGID) args() []string {
	return append([]string{"-m", "owner"}, negate(m.Not, "--gid-owner", number(m.ID))...)
}

var stateNames = []string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"}

func (m CTState) args() []string {
	return []string{"-m", "conntrack", "--ctstate", strings.Join(m.names(), ",")}
}

func (m PacketMark) args() []string {
	return append([]string{"-m", "mark"}, negate(m.Not, "--mark", hex(m.Mark))...)
}

func (m ConnMark) args() []string { return []string{"-m", "connmark", "--mark", hex(m.Mark)} }

// iptables puts quotes around all but letters, digits, _ and -.
func (m Comment) args() []string {
	text := string(m)
	if strings.ContainsAny(text, furtherLetters) {
		text = `"` + text + `"`
	}
	return []string{"-m", "comment", "--comment", text}
}

func (t Jump) args() []string { return []string{"-j", string(t)} }

func (t Verdict) args() []string { return []string{"-j", string(t)} }

func (Counting) args() []string { return nil }

func (t Redirect) args() []string {
	return []string{"-j", "REDIRECT", "--to-ports", number(t.Port)}
}

func (t DNAT) args() []string {
	to := t.To.String()
	if t.Port != 0 {
		to = netip.AddrPortFrom(t.To, t.Port).String()
	}
	return []string{"-j", "DNAT", "--to-destination", to}
}

func (t TProxy) args() []string {
	return []string{"-j", "TPROXY", "--on-port", number(t.Port), "--on-ip", t.Addr.String(),
		"--tproxy-mark", hex(t.Mark) + "/0xffffffff"}
}

func (t SetMark) args() []string {
	return []string{"-j", "MARK", "--set-xmark", hex(uint32(t)) + "/0xffffffff"}
}

func (t SetConnMark) args() []string {
	return []string{"-j", "CONNMARK", "--set-xmark", hex(uint32(t)) + "/0xffffffff"}
}

func (SaveMark) args() []string {
	return []string{"-j", "CONNMARK", "--save-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"}
}

func (RestoreMark) args() []string {
	return []string{"-j", "CONNMARK", "--restore-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff"}
}

func (t CTZone) args() []string { return []string{"-j", "CT", "--zone", number(uint16(t))} }

func (t RejectWith) args() []string { return []string{"-j", "REJECT", "--reject-with", string(t)} }

func (t Foreign) args() []string { return []string{string(t)} }

// What a Comment may have besides what iptables prints without quotes.
const furtherLetters = "/.,:"

func negate(not bool, words ...string) []string {
	if not {
		return append([]string{"!"}, words...)
	}
	return words
}

func number[T ~uint16 | ~uint32](n T) string { return strconv.FormatUint(uint64(n), 10) }

func hex(n uint32) string { return fmt.Sprintf("%#x", n) }
