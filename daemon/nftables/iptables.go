// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The iptables dialect: rules as iptables-nft 1.8.8 and newer writes them, byte for byte, so that its
// programs show and change them.

// baseHooks says how iptables-nft hooks the chains of its tables.
var baseHooks = map[[2]string]hook{
	{"raw", "PREROUTING"}:     {"filter", unix.NF_INET_PRE_ROUTING, -300, accept},
	{"raw", "OUTPUT"}:         {"filter", unix.NF_INET_LOCAL_OUT, -300, accept},
	{"mangle", "PREROUTING"}:  {"filter", unix.NF_INET_PRE_ROUTING, -150, accept},
	{"mangle", "INPUT"}:       {"filter", unix.NF_INET_LOCAL_IN, -150, accept},
	{"mangle", "FORWARD"}:     {"filter", unix.NF_INET_FORWARD, -150, accept},
	{"mangle", "OUTPUT"}:      {"route", unix.NF_INET_LOCAL_OUT, -150, accept},
	{"mangle", "POSTROUTING"}: {"filter", unix.NF_INET_POST_ROUTING, -150, accept},
	{"nat", "PREROUTING"}:     {"nat", unix.NF_INET_PRE_ROUTING, -100, accept},
	{"nat", "INPUT"}:          {"nat", unix.NF_INET_LOCAL_IN, 100, accept},
	{"nat", "OUTPUT"}:         {"nat", unix.NF_INET_LOCAL_OUT, -100, accept},
	{"nat", "POSTROUTING"}:    {"nat", unix.NF_INET_POST_ROUTING, 100, accept},
	{"filter", "INPUT"}:       {"filter", unix.NF_INET_LOCAL_IN, 0, accept},
	{"filter", "FORWARD"}:     {"filter", unix.NF_INET_FORWARD, 0, accept},
	{"filter", "OUTPUT"}:      {"filter", unix.NF_INET_LOCAL_OUT, 0, accept},
}

func nfFamily(f rules.Family) byte {
	if f == rules.IPv6 {
		return unix.NFPROTO_IPV6
	}
	return unix.NFPROTO_IPV4
}

// appendRule writes a rule as iptables-nft does: interfaces, protocol and addresses first, extensions in
// their order, a counter, the target.
func appendRule(w *wire, family rules.Family, r rules.Rule) error {
	list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
	protocol := byte(0)
	for _, place := range [](func(rules.Match) bool){isIn, isOut, isProtocol, isSource, isDestination, isExtension} {
		for _, m := range r.Match {
			if !place(m) {
				continue
			}
			if err := appendMatch(w, family, m); err != nil {
				return err
			}
			if p, ok := m.(rules.Protocol); ok {
				protocol = protocolNumber(string(p))
			}
		}
	}
	counter(w)
	if err := appendTarget(w, family, r.Target); err != nil {
		return err
	}
	w.end(list)
	if protocol != 0 { // extensions ask for it
		compat := w.nest(unix.NFTA_RULE_COMPAT)
		w.number(unix.NFTA_RULE_COMPAT_PROTO, uint32(protocol))
		w.number(unix.NFTA_RULE_COMPAT_FLAGS, 0)
		w.end(compat)
	}
	return nil
}

func isIn(m rules.Match) bool          { _, ok := m.(rules.InInterface); return ok }
func isOut(m rules.Match) bool         { _, ok := m.(rules.OutInterface); return ok }
func isProtocol(m rules.Match) bool    { _, ok := m.(rules.Protocol); return ok }
func isSource(m rules.Match) bool      { _, ok := m.(rules.Source); return ok }
func isDestination(m rules.Match) bool { _, ok := m.(rules.Destination); return ok }
func isExtension(m rules.Match) bool {
	return !isIn(m) && !isOut(m) && !isProtocol(m) && !isSource(m) && !isDestination(m)
}

func protocolNumber(name string) byte {
	switch name {
	case rules.TCP:
		return unix.IPPROTO_TCP
	case rules.UDP:
		return unix.IPPROTO_UDP
	case rules.ICMP:
		return unix.IPPROTO_ICMP
	case rules.ICMPv6:
		return unix.IPPROTO_ICMPV6
	}
	return 0
}

func appendMatch(w *wire, family rules.Family, m rules.Match) error {
	switch m := m.(type) {
	case rules.InInterface:
		matchInterface(w, unix.NFT_META_IIFNAME, string(m))
	case rules.OutInterface:
		matchInterface(w, unix.NFT_META_OIFNAME, string(m))
	case rules.Protocol:
		matchProtocol(w, m)
	case rules.Source:
		matchAddress(w, family, false, m.Prefix, false)
	case rules.Destination:
		matchAddress(w, family, true, m.Prefix, m.Not)
	case rules.SourcePort:
		matchPort(w, sourcePort, m.Port, false)
	case rules.DestinationPort:
		matchPort(w, destinationPort, m.Port, m.Not)
	case rules.PacketMark:
		matchMark(w, m)
	case rules.DestinationPorts, rules.OwnerUID, rules.OwnerUIDs, rules.OwnerGID, rules.CTState,
		rules.ConnMark, rules.Comment:
		name, revision, info := xtMatch(m)
		extension(w, "match", name, revision, info)
	default:
		return fmt.Errorf("%T cannot be written by netlink", m)
	}
	return nil
}

func matchInterface(w *wire, key uint32, name string) {
	prefix, any := strings.CutSuffix(name, "+")
	if any && prefix == "" {
		return
	}
	value := []byte(prefix)
	if !any {
		value = append(value, 0) // so that no longer name matches
	}
	meta(w, key)
	compare(w, unix.NFT_CMP_EQ, value)
}

func matchProtocol(w *wire, p rules.Protocol) {
	meta(w, unix.NFT_META_L4PROTO)
	compare(w, unix.NFT_CMP_EQ, []byte{protocolNumber(string(p))})
}

func matchMark(w *wire, m rules.PacketMark) {
	meta(w, unix.NFT_META_MARK)
	compare(w, operator(m.Not), binary.NativeEndian.AppendUint32(nil, m.Mark))
}

// Where addresses and ports stand in their headers, in bytes.
const (
	source4, source6 = 12, 8
	sourcePort       = 0
	destinationPort  = 2
)

// matchAddress compares whole bytes of the address where the prefix ends between two, else all with a mask.
func matchAddress(w *wire, family rules.Family, destination bool, prefix netip.Prefix, not bool) {
	if prefix.Bits() == 0 && !not {
		return
	}
	address := prefix.Masked().Addr().AsSlice()
	length := len(address)
	offset := source4
	if family == rules.IPv6 {
		offset = source6
	}
	if destination {
		offset += length
	}
	if bits := prefix.Bits(); bits%8 == 0 && bits > 0 {
		payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, offset, bits/8)
		compare(w, operator(not), address[:bits/8])
		return
	}
	payload(w, unix.NFT_PAYLOAD_NETWORK_HEADER, offset, length)
	bitwise(w, ones(prefix.Bits(), length))
	compare(w, operator(not), address)
}

// ones returns a mask of so many bits, followed by zeros.
func ones(bits, length int) []byte {
	mask := make([]byte, length)
	for i := range bits {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	return mask
}

func matchPort(w *wire, offset int, port uint16, not bool) {
	payload(w, unix.NFT_PAYLOAD_TRANSPORT_HEADER, offset, 2)
	compare(w, operator(not), binary.BigEndian.AppendUint16(nil, port))
}

func operator(not bool) uint32 {
	if not {
		return unix.NFT_CMP_NEQ
	}
	return unix.NFT_CMP_EQ
}

func appendTarget(w *wire, family rules.Family, t rules.Target) error {
	switch t := t.(type) {
	case rules.Counting: // as every rule does
	case rules.Jump:
		immediate(w, unix.NFT_JUMP, string(t))
	case rules.Verdict:
		code, err := verdictCode(t)
		if err != nil {
			return err
		}
		immediate(w, code, "")
	case rules.Redirect, rules.DNAT, rules.TProxy, rules.SetMark, rules.SetConnMark, rules.SaveMark, rules.RestoreMark, rules.CTZone, rules.RejectWith:
		name, revision, info := xtTarget(family, t)
		extension(w, "target", name, revision, info)
	default:
		return fmt.Errorf("%T cannot be written by netlink", t)
	}
	return nil
}

func verdictCode(v rules.Verdict) (int32, error) {
	for code, verdict := range verdicts {
		if v == verdict {
			return code, nil
		}
	}
	return 0, fmt.Errorf("verdict %s cannot be written by netlink", v)
}

var verdicts = map[int32]rules.Verdict{unix.NFT_RETURN: rules.Return, accept: rules.Accept, drop: rules.Drop}

// appendEdits writes what turns the tables of one family into what a plan wants.
func appendEdits(b *batch, s state, have decoded, edits []rules.Edit) error {
	nf := nfFamily(have.Family)
	for _, e := range edits {
		if !s.hasTable(nf, e.Table) {
			b.newTable(nf, e.Table)
		}
		for _, name := range e.Empty {
			if _, ok := have.Table(e.Table).Chain(name); ok {
				b.flush(nf, e.Table, name)
			} else {
				b.newChain(nf, e.Table, name, hook{})
			}
		}
		for _, place := range e.Delete {
			b.deleteRule(nf, e.Table, place.Chain, have.handle(e.Table, place.Chain, place.Index))
		}
		if err := appendInsertions(b, nf, have, e); err != nil {
			return err
		}
		for _, name := range e.Drop {
			b.deleteChain(nf, e.Table, name)
		}
	}
	return nil
}

// appendInsertions adds rules behind the others of their chain, or where those of somebody else are there,
// before the first of them.
func appendInsertions(b *batch, nf byte, have decoded, e rules.Edit) error {
	var made []string
	for i := range e.Insert {
		in := &e.Insert[i]
		if _, ok := have.Table(e.Table).Chain(in.Chain); in.Builtin && !ok && !slices.Contains(made, in.Chain) {
			h, ok := baseHooks[[2]string{e.Table, in.Chain}]
			if !ok {
				return fmt.Errorf("table %s has no chain %s", e.Table, in.Chain)
			}
			b.newChain(nf, e.Table, in.Chain, h)
			made = append(made, in.Chain)
		}
		before := uint64(0)
		if in.BeforeOthers {
			before = have.firstKept(e, in.Chain)
		}
		if err := b.newRule(nf, e.Table, in.Chain, before, &in.Rule, func(w *wire) error { return appendRule(w, have.Family, in.Rule) }); err != nil {
			return err
		}
	}
	return nil
}
