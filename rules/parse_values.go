// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"net/netip"
	"strconv"
	"strings"
)

// What ParseRule reads that one word says and that has parts of its own. A word that is not written as
// iptables writes it is somebody else's.

// destinationPorts reads "80,8000:8010".
func (p *parser) destinationPorts(not bool) (m DestinationPorts) {
	var ranges []PortRange
	for word := range strings.SplitSeq(p.next(), ",") {
		r, ok := ParsePortRange(strings.Replace(word, ":", "-", 1))
		p.failed = p.failed || !ok || r.with(":") != word || not && r.First != r.Last
		ranges = append(ranges, r)
	}
	if p.failed = p.failed || len(ranges) > mostNumbers; !p.failed {
		m = ToAny(ranges...)
	}
	m.Not = not
	return m
}

// uids reads "1001-1005".
func (p *parser) uids() OwnerUIDs {
	word := p.next()
	first, last, _ := strings.Cut(word, "-")
	low, err1 := strconv.ParseUint(first, 10, 32)
	high, err2 := strconv.ParseUint(last, 10, 32)
	ids := OwnerUIDs{uint32(low), uint32(high)}
	p.failed = p.failed || err1 != nil || err2 != nil || low >= high || lastWord(ids) != word
	return ids
}

// comment reads one word, without quotes or in them.
func (p *parser) comment() Comment {
	word := p.next()
	text := Comment(strings.Trim(word, `"`))
	p.failed = p.failed || !text.valid() || lastWord(text) != word
	return text
}

// valid reports whether the comment is one word wherever it is printed.
func (m Comment) valid() bool {
	other := func(c rune) bool {
		letter := c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' || c >= '0' && c <= '9'
		return !letter && !strings.ContainsRune("_-"+furtherLetters, c)
	}
	return m != "" && len(m) <= 255 && !strings.ContainsFunc(string(m), other)
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
