// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"slices"
	"strconv"
	"strings"
)

// What a match compares with, as one word. Where that is not written as iptables writes it, it is somebody else's.

func (p *parser) addresses() Value { return Addresses{p.prefix()} }

func (p *parser) link() Value { return Link(p.next()) }

func (p *parser) transport() Value {
	p.protocol = p.next()
	p.failed = p.failed || !slices.Contains([]string{TCP, UDP, ICMP, ICMPv6}, p.protocol)
	return Transport(p.protocol)
}

func (p *parser) protocolPort() Value {
	p.failed = p.failed || p.protocol == ""
	return Port{p.protocol, p.port()}
}

// portList reads "80,8000:8010".
func (p *parser) portList() Value {
	var ranges []PortRange
	for word := range strings.SplitSeq(p.next(), ",") {
		r, ok := ParsePortRange(strings.Replace(word, ":", "-", 1))
		p.failed = p.failed || !ok || r.with(":") != word
		ranges = append(ranges, r)
	}
	if p.failed = p.failed || len(ranges) > mostNumbers; p.failed {
		return PortList{}
	}
	return List(ranges...)
}

func (p *parser) id() Value {
	n := p.number(32)
	return IDs{n, n}
}

// ids reads "1001", or "1001-1005".
func (p *parser) ids() Value {
	if !p.more() || !strings.Contains(p.words[0], "-") {
		return p.id()
	}
	word := p.next()
	first, last, _ := strings.Cut(word, "-")
	low, err1 := strconv.ParseUint(first, 10, 32)
	high, err2 := strconv.ParseUint(last, 10, 32)
	ids := IDs{uint32(low), uint32(high)}
	p.failed = p.failed || err1 != nil || err2 != nil || low >= high || lastWord(ids) != word
	return ids
}

func (p *parser) states() Value {
	var states CTState
	for word := range strings.SplitSeq(p.next(), ",") {
		i := slices.Index(stateNames, word)
		if i < 0 {
			p.failed = true
			return states
		}
		states |= 1 << i
	}
	return states
}

func (p *parser) anyMark() Value { return Mark(p.mark()) }

// mark reads a mark whose mask, where there is one, covers all bits.
func (p *parser) mark() uint32 {
	value, mask, masked := strings.Cut(p.next(), "/")
	n, err := strconv.ParseUint(value, 0, 32)
	p.failed = p.failed || err != nil || (masked && mask != "0xffffffff")
	return uint32(n)
}

// text reads one word, without quotes or in them.
func (p *parser) text() Value {
	word := p.next()
	text := Text(strings.Trim(word, `"`))
	p.failed = p.failed || !text.valid() || lastWord(text) != word
	return text
}

// valid reports whether the text is one word wherever it is printed.
func (v Text) valid() bool {
	other := func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune("_-"+furtherLetters, c)
	}
	return v != "" && len(v) <= 255 && !strings.ContainsFunc(string(v), other)
}

// dnat reads an address, and a port where one follows.
func (p *parser) dnat() DNAT {
	word := p.next()
	var t DNAT
	if addr, err := netip.ParseAddr(word); err == nil {
		t.To = addr
	} else if to, err := netip.ParseAddrPort(word); err == nil {
		t = DNAT{to.Addr(), to.Port()}
	}
	p.failed = p.failed || !t.To.IsValid() || lastWord(t) != word
	return t
}

// lastWord is how iptables writes what it says of a match or target.
func lastWord(p printed) string {
	all := strings.Fields(string(p.appendTo(nil)))
	return all[len(all)-1]
}
