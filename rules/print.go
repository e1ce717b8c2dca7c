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
	byRank := func(a, b Match) int { return a.rank() - b.rank() }
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

// What the kernel keeps of a prefix: host bits are masked.
func (v Addresses) appendTo(text []byte) []byte { return append(v.Masked().AppendTo(text), ' ') }

func (v Link) appendTo(text []byte) []byte { return words(text, string(v)) }

func (v Transport) appendTo(text []byte) []byte { return words(text, string(v)) }

func (v Port) appendTo(text []byte) []byte { return number(text, v.Number) }

func (l PortList) appendTo(text []byte) []byte { return words(text, l.String()) }

func (v IDs) appendTo(text []byte) []byte {
	text = number(text, v.First)
	if v.First == v.Last {
		return text
	}
	text[len(text)-1] = '-'
	return number(text, v.Last)
}

var stateNames = []string{"INVALID", "NEW", "RELATED", "ESTABLISHED", "UNTRACKED"}

func (v CTState) appendTo(text []byte) []byte { return words(text, strings.Join(v.names(), ",")) }

func (v Mark) appendTo(text []byte) []byte { return hex(text, uint32(v), "") }

// iptables puts quotes around all but letters, digits, _ and -.
func (v Text) appendTo(text []byte) []byte {
	quote := ""
	if strings.ContainsAny(string(v), furtherLetters) {
		quote = `"`
	}
	return words(text, quote+string(v)+quote)
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

func number[T ~uint16 | ~uint32](text []byte, n T) []byte {
	return append(strconv.AppendUint(text, uint64(n), 10), ' ')
}

func hex(text []byte, n uint32, more string) []byte {
	return words(strconv.AppendUint(append(text, "0x"...), uint64(n), 16), more)
}
