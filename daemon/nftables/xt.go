// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"encoding/binary"
	"net/netip"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The matches and targets of xtables that rules use, each with the structure that it takes, as laid out on
// 64-bit machines (include/uapi/linux/netfilter/xt_*.h). Lengths are rounded up to 8 bytes: XT_ALIGN.

// struct xt_owner_match_info: the lowest and highest uid, the same of gids, what is looked at, what is negated.
const (
	ownerLength           = 24
	ownerUID, ownerGID    = 1, 2 // XT_OWNER_UID, XT_OWNER_GID
	ownerGIDs             = 8
	ownerMatch, ownerNot  = 16, 17
	multiportLength       = 48 // struct xt_multiport_v1
	multiportDestination  = 1  // XT_MULTIPORT_DESTINATION
	multiportPorts        = 2
	multiportMost         = 15
	multiportRanges       = 32 // for each port, whether a range begins with it
	multiportNot          = 47
	conntrackLength       = 168 // struct xt_conntrack_mtinfo3
	conntrackFlags        = 146
	conntrackState        = 1 // XT_CONNTRACK_STATE
	conntrackStates       = 150
	commentLength         = 256 // struct xt_comment_info
	markLength            = 16  // struct xt_mark_mtinfo1, and xt_connmark_mtinfo1
	markNot               = 8
	redirectLength4       = 24 // struct nf_nat_ipv4_multi_range_compat
	redirectPorts4        = 16
	redirectLength6       = 40 // struct nf_nat_range
	redirectPorts6        = 36
	redirectPortsAreGiven = 2  // NF_NAT_RANGE_PROTO_SPECIFIED
	dnatLength            = 48 // struct nf_nat_range2
	dnatFirst, dnatLast   = 4, 20
	dnatPorts             = 36
	dnatAddressIsGiven    = 1  // NF_NAT_RANGE_MAP_IPS
	tproxyLength          = 32 // struct xt_tproxy_target_info_v1
	setMarkLength         = 8  // struct xt_mark_tginfo2
	connmarkLength        = 16 // struct xt_connmark_tginfo2
	connmarkMode          = 14
	connmarkSet           = 0  // XT_CONNMARK_SET
	connmarkSave          = 1  // XT_CONNMARK_SAVE
	connmarkRestore       = 2  // XT_CONNMARK_RESTORE
	ctLength              = 72 // struct xt_ct_target_info_v1
	rejectLength          = 8  // struct ipt_reject_info, ip6t_reject_info
	rejectReset4          = 7  // IPT_TCP_RESET
	rejectReset6          = 6  // IP6T_TCP_RESET
	rejectPort6           = 4  // IP6T_ICMP6_PORT_UNREACH
	rejectPort4           = 3  // IPT_ICMP_PORT_UNREACHABLE
	allBits               = 0xffffffff
)

// The states of conntrack in the order of the bits of rules.CTState: xt_conntrack.h has those of addresses between
// (XT_CONNTRACK_STATE_SNAT), where nf_conntrack_common.h has NF_CT_STATE_UNTRACKED_BIT.
var (
	xtStates = []uint16{1, 1 << 3, 1 << 2, 1 << 1, 1 << 8}
	nfStates = []uint16{1, 1 << 3, 1 << 2, 1 << 1, 1 << 6}
)

// xtMatch returns a match as iptables asks the kernel for it.
func xtMatch(m rules.Match) (name string, revision uint32, info []byte) {
	native := binary.NativeEndian
	switch m := m.(type) {
	case rules.OwnerUID:
		return "owner", 1, owner(ownerUID, 0, m.ID, m.Not)
	case rules.OwnerUIDs:
		info = owner(ownerUID, 0, m.First, false)
		native.PutUint32(info[4:], m.Last)
		return "owner", 1, info
	case rules.OwnerGID:
		return "owner", 1, owner(ownerGID, ownerGIDs, m.ID, m.Not)
	case rules.DestinationPorts:
		info = multiport(m.Ports.All())
		if m.Not {
			info[multiportNot] = 1
		}
		return "multiport", 1, info
	case rules.Comment:
		info = make([]byte, commentLength)
		copy(info[:commentLength-1], m)
		return "comment", 0, info
	case rules.CTState:
		info = make([]byte, conntrackLength)
		native.PutUint16(info[conntrackFlags:], conntrackState)
		native.PutUint16(info[conntrackStates:], states(m, xtStates))
		return "conntrack", 3, info
	case rules.ConnMark:
		info = make([]byte, markLength)
		native.PutUint32(info, m.Mark)
		native.PutUint32(info[4:], allBits)
		return "connmark", 1, info
	}
	return "", 0, nil
}

func owner(what byte, offset int, id uint32, not bool) []byte {
	info := make([]byte, ownerLength)
	binary.NativeEndian.PutUint32(info[offset:], id)
	binary.NativeEndian.PutUint32(info[offset+4:], id)
	info[ownerMatch] = what
	if not {
		info[ownerNot] = what
	}
	return info
}

// multiport lists ports; of a range the first one has a mark, and the last one follows it.
func multiport(list []rules.PortRange) []byte {
	info := make([]byte, multiportLength)
	info[0] = multiportDestination
	add := func(port uint16, begins byte) {
		if n := int(info[1]); n < multiportMost {
			binary.NativeEndian.PutUint16(info[multiportPorts+2*n:], port)
			info[multiportRanges+n] = begins
			info[1]++
		}
	}
	for _, r := range list {
		if r.First == r.Last {
			add(r.First, 0)
		} else {
			add(r.First, 1)
			add(r.Last, 0)
		}
	}
	return info
}

func states(m rules.CTState, bits []uint16) (mask uint16) {
	for bit, state := range bits {
		if m&(1<<bit) != 0 {
			mask |= state
		}
	}
	return mask
}

// xtTarget returns a target as iptables asks the kernel for it.
func xtTarget(family rules.Family, t rules.Target) (name string, revision uint32, info []byte) {
	native, network := binary.NativeEndian, binary.BigEndian
	switch t := t.(type) {
	case rules.Redirect:
		if family == rules.IPv6 {
			info = make([]byte, redirectLength6)
			native.PutUint32(info, redirectPortsAreGiven)
			network.PutUint32(info[redirectPorts6:], uint32(t.Port)<<16|uint32(t.Port))
			return "REDIRECT", 0, info
		}
		info = make([]byte, redirectLength4)
		native.PutUint32(info, 1) // range
		native.PutUint32(info[4:], redirectPortsAreGiven)
		network.PutUint32(info[redirectPorts4:], uint32(t.Port)<<16|uint32(t.Port))
		return "REDIRECT", 0, info
	case rules.DNAT:
		info = make([]byte, dnatLength)
		native.PutUint32(info, dnatAddressIsGiven)
		copy(info[dnatFirst:dnatLast], t.To.AsSlice())
		copy(info[dnatLast:dnatPorts], t.To.AsSlice())
		if t.Port != 0 {
			native.PutUint32(info, dnatAddressIsGiven|redirectPortsAreGiven)
			network.PutUint32(info[dnatPorts:], uint32(t.Port)<<16|uint32(t.Port))
		}
		return "DNAT", 2, info
	case rules.TProxy:
		info = make([]byte, tproxyLength)
		native.PutUint32(info, allBits)
		native.PutUint32(info[4:], t.Mark)
		copy(info[8:24], t.Addr.AsSlice())
		network.PutUint16(info[24:], t.Port)
		return "TPROXY", 1, info
	case rules.SetMark:
		info = make([]byte, setMarkLength)
		native.PutUint32(info, uint32(t))
		native.PutUint32(info[4:], allBits)
		return "MARK", 2, info
	case rules.SetConnMark:
		info = connmark(connmarkSet)
		native.PutUint32(info, uint32(t))
		return "CONNMARK", 2, info
	case rules.SaveMark:
		return "CONNMARK", 2, connmark(connmarkSave)
	case rules.RestoreMark:
		return "CONNMARK", 2, connmark(connmarkRestore)
	case rules.CTZone:
		info = make([]byte, ctLength)
		native.PutUint16(info[2:], uint16(t))
		return "CT", 2, info
	case rules.RejectWith:
		answer, known := xtRejects[family][t]
		if !known {
			return "", 0, nil
		}
		info = make([]byte, rejectLength)
		native.PutUint32(info, answer)
		return "REJECT", 0, info
	}
	return "", 0, nil
}

// xtRejects are the answers of each family.
var xtRejects = map[rules.Family]map[rules.RejectWith]uint32{
	rules.IPv4: {rules.RejectReset: rejectReset4, rules.RejectPort4: rejectPort4},
	rules.IPv6: {rules.RejectReset: rejectReset6, rules.RejectPort: rejectPort6},
}

// answerOf is the reverse of xtRejects; "" is an answer that is not among them.
func answerOf(family rules.Family, number uint32) rules.RejectWith {
	for answer, n := range xtRejects[family] {
		if n == number {
			return answer
		}
	}
	return ""
}

// connmark copies or sets all bits of a mark.
func connmark(mode byte) []byte {
	info := make([]byte, connmarkLength)
	binary.NativeEndian.PutUint32(info[4:], allBits)
	binary.NativeEndian.PutUint32(info[8:], allBits)
	info[connmarkMode] = mode
	return info
}

// decodeMatch is the reverse of xtMatch: what it returns is written with the same name, revision and bytes.
func decodeMatch(name string, revision uint32, info []byte) (rules.Match, bool) {
	var m rules.Match
	switch {
	case name == "owner" && len(info) == ownerLength && info[ownerMatch] == ownerUID && !bytes.Equal(info[:4], info[4:8]):
		m = rules.OwnerUIDs{First: binary.NativeEndian.Uint32(info), Last: binary.NativeEndian.Uint32(info[4:])}
	case name == "owner" && len(info) == ownerLength && info[ownerMatch] == ownerUID:
		m = rules.OwnerUID{ID: binary.NativeEndian.Uint32(info), Not: info[ownerNot] != 0}
	case name == "owner" && len(info) == ownerLength && info[ownerMatch] == ownerGID:
		m = rules.OwnerGID{ID: binary.NativeEndian.Uint32(info[ownerGIDs:]), Not: info[ownerNot] != 0}
	case name == "comment" && len(info) == commentLength:
		m = rules.Comment(unix.ByteSliceToString(info))
	case name == "multiport" && len(info) == multiportLength && info[1] <= multiportMost:
		m = portsOf(info)
	case name == "conntrack" && len(info) == conntrackLength:
		var state rules.CTState
		for bit, mask := range xtStates {
			if binary.NativeEndian.Uint16(info[conntrackStates:])&mask != 0 {
				state |= 1 << bit
			}
		}
		m = state
	case name == "connmark" && len(info) == markLength:
		m = rules.ConnMark{Mark: binary.NativeEndian.Uint32(info)}
	case name == "mark" && revision == 1 && len(info) == markLength: // so written by iptables-nft before 1.8.8
		mark := rules.PacketMark{Mark: binary.NativeEndian.Uint32(info), Not: info[markNot] == 1}
		_, _, same := xtMatch(rules.ConnMark{Mark: mark.Mark}) // the same structure
		same[markNot] = info[markNot] & 1
		return mark, bytes.Equal(same, info)
	default:
		return nil, false
	}
	sameName, sameRevision, same := xtMatch(m)
	return m, sameName == name && sameRevision == revision && bytes.Equal(same, info)
}

// portsOf is the reverse of multiport.
func portsOf(info []byte) rules.DestinationPorts {
	var list []rules.PortRange
	at := func(i int) uint16 { return binary.NativeEndian.Uint16(info[multiportPorts+2*i:]) }
	for i := 0; i < int(info[1]); i++ {
		r := rules.PortRange{First: at(i), Last: at(i)}
		if info[multiportRanges+i] != 0 && i+1 < int(info[1]) {
			i++
			r.Last = at(i)
		}
		list = append(list, r)
	}
	m := rules.ToAny(list...)
	m.Not = info[multiportNot] != 0
	return m
}

// decodeTarget is the reverse of xtTarget.
func decodeTarget(family rules.Family, name string, revision uint32, info []byte) (rules.Target, bool) {
	var t rules.Target
	switch {
	case name == "REDIRECT" && family == rules.IPv4 && len(info) == redirectLength4:
		t = rules.Redirect{Port: binary.BigEndian.Uint16(info[redirectPorts4:])}
	case name == "REDIRECT" && family == rules.IPv6 && len(info) == redirectLength6:
		t = rules.Redirect{Port: binary.BigEndian.Uint16(info[redirectPorts6:])}
	case name == "DNAT" && len(info) == dnatLength:
		address := netip.AddrFrom4([4]byte(info[dnatFirst : dnatFirst+4]))
		if family == rules.IPv6 {
			address = netip.AddrFrom16([16]byte(info[dnatFirst:dnatLast]))
		}
		t = rules.DNAT{To: address, Port: binary.BigEndian.Uint16(info[dnatPorts:])}
	case name == "TPROXY" && len(info) == tproxyLength:
		address := netip.AddrFrom4([4]byte(info[8:12]))
		if family == rules.IPv6 {
			address = netip.AddrFrom16([16]byte(info[8:24]))
		}
		t = rules.TProxy{Port: binary.BigEndian.Uint16(info[24:]), Addr: address, Mark: binary.NativeEndian.Uint32(info[4:])}
	case name == "MARK" && len(info) == setMarkLength:
		t = rules.SetMark(binary.NativeEndian.Uint32(info))
	case name == "CONNMARK" && len(info) == connmarkLength && info[connmarkMode] == connmarkSet:
		t = rules.SetConnMark(binary.NativeEndian.Uint32(info))
	case name == "CONNMARK" && len(info) == connmarkLength && info[connmarkMode] == connmarkSave:
		t = rules.SaveMark{}
	case name == "CONNMARK" && len(info) == connmarkLength && info[connmarkMode] == connmarkRestore:
		t = rules.RestoreMark{}
	case name == "CT" && len(info) == ctLength:
		t = rules.CTZone(binary.NativeEndian.Uint16(info[2:]))
	case name == "REJECT" && len(info) == rejectLength:
		t = answerOf(family, binary.NativeEndian.Uint32(info))
	default:
		return nil, false
	}
	sameName, sameRevision, same := xtTarget(family, t)
	return t, sameName == name && sameRevision == revision && bytes.Equal(same, info)
}
