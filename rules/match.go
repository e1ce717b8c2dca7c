// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strings"
)

// Match is a condition on a packet: what the field has is one of the value's, or with Not none of them.
type Match struct {
	Field Field
	Value Value
	Not   bool
}

// Field is what of a packet a Match is about.
type Field uint8

// The fields, those first that iptables-save prints first, whatever order they were written in.
const (
	FieldSource Field = iota
	FieldDestination
	FieldIn  // the interface that a packet came in by
	FieldOut // the interface that it leaves by
	FieldProtocol
	FieldSourcePort
	FieldDestinationPort
	FieldDestinationPorts // the same, as a list (xt_multiport)
	FieldUID              // of the packet's socket. Negated it matches every other packet, those without a socket included (xt_owner).
	FieldGID
	FieldCTState
	FieldMark
	FieldConnMark
	FieldComment // of the rule: every packet has it (xt_comment)
)

// Fields is how many there are.
const Fields = int(FieldComment) + 1

// field is how iptables asks for one.
type field struct {
	extension string // that of a port is its protocol
	option    string
	read      func(*parser) Value
	negatable func(Value) bool
}

var fields = [Fields]field{
	FieldSource:           {"", "-s", (*parser).addresses, never},
	FieldDestination:      {"", "-d", (*parser).addresses, always},
	FieldIn:               {"", "-i", (*parser).link, never},
	FieldOut:              {"", "-o", (*parser).link, never},
	FieldProtocol:         {"", "-p", (*parser).transport, never},
	FieldSourcePort:       {"", "--sport", (*parser).protocolPort, never},
	FieldDestinationPort:  {"", "--dport", (*parser).protocolPort, always},
	FieldDestinationPorts: {"multiport", "--dports", (*parser).portList, singles},
	FieldUID:              {"owner", "--uid-owner", (*parser).ids, singles},
	FieldGID:              {"owner", "--gid-owner", (*parser).id, singles},
	FieldCTState:          {"conntrack", "--ctstate", (*parser).states, never},
	FieldMark:             {"mark", "--mark", (*parser).anyMark, always},
	FieldConnMark:         {"connmark", "--mark", (*parser).anyMark, never},
	FieldComment:          {"comment", "--comment", (*parser).text, never},
}

func never(Value) bool  { return false }
func always(Value) bool { return true }

// singles reports whether a value is, or lists, nothing but single numbers.
func singles(v Value) bool {
	if ids, ok := v.(IDs); ok {
		return ids.First == ids.Last
	}
	return !slices.ContainsFunc(v.(PortList).All(), func(r PortRange) bool { return r.First != r.Last })
}

// String returns how iptables names the field.
func (f Field) String() string {
	return strings.TrimSpace(fields[f].extension + " " + fields[f].option)
}

// rank is the place that iptables-save gives a match; extensions keep their own order.
func (m Match) rank() int { return int(min(m.Field, FieldSourcePort)) }

func (m Match) appendTo(text []byte) []byte {
	of := fields[m.Field]
	if addresses, ok := m.Value.(Addresses); ok && addresses.Bits() == 0 && !m.Not {
		return text // no condition
	}
	if port, ok := m.Value.(Port); ok {
		of.extension = port.Protocol
	}
	if of.extension != "" {
		text = words(text, "-m", of.extension)
	}
	if m.Not {
		text = words(text, "!")
	}
	return m.Value.appendTo(words(text, of.option))
}

// String returns the match as iptables-save prints it.
func (m Match) String() string { return strings.TrimSpace(string(m.appendTo(nil))) }

// Negatable reports whether rules can have the opposite of the match.
func (m Match) Negatable() bool { return fields[m.Field].negatable(m.Value) }

// Ports returns the ports that the match names.
func (m Match) Ports() []PortRange {
	switch v := m.Value.(type) {
	case Port:
		return []PortRange{{v.Number, v.Number}}
	case PortList:
		return v.All()
	}
	return nil
}

// link returns the interface that the match names.
func (m Match) link() string { return string(m.Value.(Link)) }

// On returns the conditions of the rule on a field.
func (r Rule) On(f Field) (all []Match) {
	for _, m := range r.Match {
		if m.Field == f {
			all = append(all, m)
		}
	}
	return all
}

// Value is what a packet's field is compared with. The set is closed.
type Value interface {
	printed
	value()
}

// compared takes comparable types only, so that no match panics when it is compared.
func compared[V comparable](V) {}

// Addresses are those of a prefix.
type Addresses struct{ netip.Prefix }

// Link is the name of an interface, or with a + at its end what names begin with.
type Link string

// Transport is a protocol, TCP, UDP, ICMP or ICMPv6.
type Transport string

// Port is a port of a protocol.
type Port struct {
	Protocol string
	Number   uint16
}

// IDs are the users or groups from First to Last. Groups are only one, and so are the users of a negated match.
type IDs struct{ First, Last uint32 }

// CTState is a state that conntrack gives a packet, or several.
type CTState uint8

// The conntrack states, combined with |.
const (
	StateInvalid CTState = 1 << iota
	StateNew
	StateRelated
	StateEstablished
	StateUntracked
)

// Mark is the mark of a packet or of a connection.
type Mark uint32

// Text is what a rule is for. It has letters, digits and any of _-/.,: and nothing else, so that it is one word wherever it
// is printed; 255 bytes at most.
type Text string

func (v Addresses) value() { compared(v) }
func (v Link) value()      { compared(v) }
func (v Transport) value() { compared(v) }
func (v Port) value()      { compared(v) }
func (l PortList) value()  { compared(l) }
func (v IDs) value()       { compared(v) }
func (v CTState) value()   { compared(v) }
func (v Mark) value()      { compared(v) }
func (v Text) value()      { compared(v) }

// Not returns the match of every packet that m does not match.
func Not(m Match) Match { return NotIf(true, m) }

// NotIf negates a match where not is true.
func NotIf(not bool, m Match) Match {
	m.Not = m.Not != not
	return m
}

// Source matches packets from a prefix.
func Source(prefix netip.Prefix) Match {
	return Match{Field: FieldSource, Value: Addresses{prefix}}
}

// Destination matches packets to a prefix.
func Destination(prefix netip.Prefix) Match {
	return Match{Field: FieldDestination, Value: Addresses{prefix}}
}

// InInterface matches packets that came in by the named interface.
func InInterface(name string) Match { return Match{Field: FieldIn, Value: Link(name)} }

// OutInterface matches packets that leave by the named interface.
func OutInterface(name string) Match { return Match{Field: FieldOut, Value: Link(name)} }

// Protocol matches the transport protocol.
func Protocol(name string) Match { return Match{Field: FieldProtocol, Value: Transport(name)} }

// SourcePort matches the source port of a protocol.
func SourcePort(protocol string, port uint16) Match {
	return Match{Field: FieldSourcePort, Value: Port{protocol, port}}
}

// DestinationPort matches the destination port of a protocol.
func DestinationPort(protocol string, port uint16) Match {
	return Match{Field: FieldDestinationPort, Value: Port{protocol, port}}
}

// OwnerUID matches packets of sockets of a user.
func OwnerUID(id uint32) Match { return OwnerUIDs(id, id) }

// OwnerUIDs matches packets of sockets whose user id is one from first to last.
func OwnerUIDs(first, last uint32) Match { return Match{Field: FieldUID, Value: IDs{first, last}} }

// OwnerGID matches packets of sockets of a group.
func OwnerGID(id uint32) Match { return Match{Field: FieldGID, Value: IDs{id, id}} }

// InState matches packets of any of the states.
func InState(states CTState) Match { return Match{Field: FieldCTState, Value: states} }

// PacketMark matches the packet's mark.
func PacketMark(mark uint32) Match { return Match{Field: FieldMark, Value: Mark(mark)} }

// ConnMark matches the connection's mark.
func ConnMark(mark uint32) Match { return Match{Field: FieldConnMark, Value: Mark(mark)} }

// Comment says what a rule is for.
func Comment(text string) Match { return Match{Field: FieldComment, Value: Text(text)} }
