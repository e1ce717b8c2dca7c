// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// String returns the rule as iptables-save prints it, without the leading "-A CHAIN".
func (r Rule) String() string { return string(r.appendTo(make([]byte, 0, 128))) }

func (r Rule) appendTo(text []byte) []byte {
	ordered := r.Match
	byRank := func(a, b Match) int { return a.rank().place - b.rank().place }
	if !slices.IsSortedFunc(ordered, byRank) {
		ordered = slices.Clone(ordered)
		slices.SortStableFunc(ordered, byRank)
	}
	begin := len(text)
	for _, m := range ordered {
		text = m.appendTo(text)
	}
	text = r.Target.appendTo(text)
	return text[:max(begin, len(text)-1)] // without the last space
}

func (m Protocol) appendTo(text []byte) []byte { return words(text, "-p", string(m)) }

func (m Source) appendTo(text []byte) []byte { return prefixed(text, "-s", m.Prefix, false) }

func (m Destination) appendTo(text []byte) []byte { return prefixed(text, "-d", m.Prefix, m.Not) }

// prefixed prints what the kernel keeps: host bits are masked, and a prefix of no bits is no condition.
func prefixed(text []byte, flag string, prefix netip.Prefix, not bool) []byte {
	if prefix.Bits() == 0 && !not {
		return text
	}
	return append(prefix.Masked().AppendTo(words(negated(text, not), flag)), ' ')
}

func (m InInterface) appendTo(text []byte) []byte { return words(text, "-i", string(m)) }

func (m OutInterface) appendTo(text []byte) []byte { return words(text, "-o", string(m)) }

func (m SourcePort) appendTo(text []byte) []byte {
	return number(words(text, "-m", m.Protocol, "--sport"), m.Port)
}

func (m DestinationPort) appendTo(text []byte) []byte {
	return number(words(negated(words(text, "-m", m.Protocol), m.Not), "--dport"), m.Port)
}

func (m DestinationPorts) appendTo(text []byte) []byte {
	return words(negated(words(text, "-m", "multiport"), m.Not), "--dports", m.Ports.String())
}

func (m OwnerUID) appendTo(text []byte) []byte {
	return number(words(negated(words(text, "-m", "owner"), m.Not), "--uid-owner"), m.ID)
}

func (m OwnerUIDs) appendTo(text []byte) []byte {
	text = number(words(text, "-m", "owner", "--uid-owner"), m.First)
	text[len(text)-1] = '-'
	return number(text, m.Last)
}

func (m OwnerGID) appendTo(text []byte) []byte {
	return number(words(negated(words(text, "-m", "owner"), m.Not), "--gid-owner"), m.ID)
}

var stateNames = []string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"}

func (m CTState) appendTo(text []byte) []byte {
	return words(text, "-m", "conntrack", "--ctstate", strings.Join(m.names(), ","))
}

func (m PacketMark) appendTo(text []byte) []byte {
	return hex(words(negated(words(text, "-m", "mark"), m.Not), "--mark"), m.Mark, "")
}

func (m ConnMark) appendTo(text []byte) []byte {
	return hex(words(text, "-m", "connmark", "--mark"), m.Mark, "")
}

// iptables puts quotes around all but letters, digits, _ and -.
func (m Comment) appendTo(text []byte) []byte {
	quote := ""
	if strings.ContainsAny(string(m), furtherLetters) {
		quote = `"`
	}
	return words(text, "-m", "comment", "--comment", quote+string(m)+quote)
}

func (t Jump) appendTo(text []byte) []byte { return words(text, "-j", string(t)) }

func (t Verdict) appendTo(text []byte) []byte { return words(text, "-j", string(t)) }

func (Counting) appendTo(text []byte) []byte { return text }

func (t Redirect) appendTo(text []byte) []byte {
	return number(words(text, "-j", "REDIRECT", "--to-ports"), t.Port)
}

func (t DNAT) appendTo(text []byte) []byte {
	text = words(text, "-j", "DNAT", "--to-destination")
	if t.Port == 0 {
		return words(text, t.To.String())
	}
	return words(text, netip.AddrPortFrom(t.To, t.Port).String())
}

func (t TProxy) appendTo(text []byte) []byte {
	text = number(words(text, "-j", "TPROXY", "--on-port"), t.Port)
	return hex(words(text, "--on-ip", t.Addr.String(), "--tproxy-mark"), t.Mark, "/0xffffffff")
}

func (t SetMark) appendTo(text []byte) []byte {
	return hex(words(text, "-j", "MARK", "--set-xmark"), uint32(t), "/0xffffffff")
}

func (t SetConnMark) appendTo(text []byte) []byte {
	return hex(words(text, "-j", "CONNMARK", "--set-xmark"), uint32(t), "/0xffffffff")
}

func (SaveMark) appendTo(text []byte) []byte {
	return words(text, "-j", "CONNMARK", "--save-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff")
}

func (RestoreMark) appendTo(text []byte) []byte {
	return words(text, "-j", "CONNMARK", "--restore-mark", "--nfmask", "0xffffffff", "--ctmask", "0xffffffff")
}

func (t CTZone) appendTo(text []byte) []byte {
	return number(words(text, "-j", "CT", "--zone"), uint16(t))
}

func (t RejectWith) appendTo(text []byte) []byte {
	return words(text, "-j", "REJECT", "--reject-with", string(t))
}

func (t Foreign) appendTo(text []byte) []byte { return words(text, string(t)) }

// What a Comment may have besides what iptables prints without quotes.
const furtherLetters = "/.,:"

func words(text []byte, all ...string) []byte {
	for _, word := range all {
		text = append(append(text, word...), ' ')
	}
	return text
}

func negated(text []byte, not bool) []byte {
	if not {
		return words(text, "!")
	}
	return text
}

func number[T ~uint16 | ~uint32](text []byte, n T) []byte {
	return append(strconv.AppendUint(text, uint64(n), 10), ' ')
}

func hex(text []byte, n uint32, more string) []byte {
	return words(strconv.AppendUint(append(text, "0x"...), uint64(n), 16), more)
}
