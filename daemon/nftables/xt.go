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

// xtMatch is how iptables asks the kernel for a match, and back.
type xtMatch struct {
	name     string
	revision uint32
	length   int
	put      func(info []byte, m rules.Match)
	get      func(info []byte) (v rules.Value, not bool)
	old      bool // so written by iptables-nft before 1.8.8 only
}

var xtMatches = [rules.Fields]xtMatch{
	rules.FieldUID: {"owner", 1, ownerLength,
		func(info []byte, m rules.Match) { putOwner(info, info, ownerUID, m) },
		func(info []byte) (rules.Value, bool) { return idsAt(info), info[ownerNot] != 0 }, false},
	rules.FieldGID: {"owner", 1, ownerLength,
		func(info []byte, m rules.Match) { putOwner(info, info[ownerGIDs:], ownerGID, m) },
		func(info []byte) (rules.Value, bool) { return idsAt(info[ownerGIDs:]), info[ownerNot] != 0 }, false},
	rules.FieldDestinationPorts: {"multiport", 1, multiportLength, putPorts, portsAt, false},
	rules.FieldCTState: {"conntrack", 3, conntrackLength,
		func(info []byte, m rules.Match) {
			binary.NativeEndian.PutUint16(info[conntrackFlags:], conntrackState)
			binary.NativeEndian.PutUint16(info[conntrackStates:], states(m.Value.(rules.CTState), xtStates))
		},
		func(info []byte) (rules.Value, bool) {
			var state rules.CTState
			for bit, mask := range xtStates {
				if binary.NativeEndian.Uint16(info[conntrackStates:])&mask != 0 {
					state |= 1 << bit
				}
			}
			return state, false
		}, false},
	rules.FieldMark:     {"mark", 1, markLength, putMark, markAt, true},
	rules.FieldConnMark: {"connmark", 1, markLength, putMark, markAt, false},
	rules.FieldComment: {"comment", 0, commentLength,
		func(info []byte, m rules.Match) { copy(info[:commentLength-1], m.Value.(rules.Text)) },
		func(info []byte) (rules.Value, bool) { return rules.Text(unix.ByteSliceToString(info)), false }, false},
}

func (x xtMatch) info(m rules.Match) []byte {
	info := make([]byte, x.length)
	x.put(info, m)
	return info
}

// decodeMatch returns a match that is written with the same name, revision and bytes.
func decodeMatch(name string, revision uint32, info []byte) (rules.Match, bool) {
	for f, x := range xtMatches {
		if x.name == name && x.revision == revision && x.length == len(info) {
			m := rules.Match{Field: rules.Field(f)}
			if m.Value, m.Not = x.get(info); bytes.Equal(x.info(m), info) {
				return m, true
			}
		}
	}
	return rules.Match{}, false
}

func putOwner(info, ids []byte, what byte, m rules.Match) {
	binary.NativeEndian.PutUint32(ids, m.Value.(rules.IDs).First)
	binary.NativeEndian.PutUint32(ids[4:], m.Value.(rules.IDs).Last)
	if info[ownerMatch] = what; m.Not {
		info[ownerNot] = what
	}
}

func idsAt(info []byte) rules.IDs {
	return rules.IDs{First: binary.NativeEndian.Uint32(info), Last: binary.NativeEndian.Uint32(info[4:])}
}

func putMark(info []byte, m rules.Match) {
	binary.NativeEndian.PutUint32(info, uint32(m.Value.(rules.Mark)))
	if binary.NativeEndian.PutUint32(info[4:], allBits); m.Not {
		info[markNot] = 1
	}
}

func markAt(info []byte) (rules.Value, bool) {
	return rules.Mark(binary.NativeEndian.Uint32(info)), info[markNot] != 0
}

// putPorts lists ports; of a range the first one has a mark, and the last one follows it.
func putPorts(info []byte, m rules.Match) {
	info[0] = multiportDestination
	add := func(port uint16, begins byte) {
		if n := int(info[1]); n < multiportMost {
			binary.NativeEndian.PutUint16(info[multiportPorts+2*n:], port)
			info[multiportRanges+n] = begins
			info[1]++
		}
	}
	for _, r := range m.Ports() {
		if r.First == r.Last {
			add(r.First, 0)
		} else {
			add(r.First, 1)
			add(r.Last, 0)
		}
	}
	if m.Not {
		info[multiportNot] = 1
	}
}

func portsAt(info []byte) (rules.Value, bool) {
	var list []rules.PortRange
	count := int(min(info[1], multiportMost))
	at := func(i int) uint16 { return binary.NativeEndian.Uint16(info[multiportPorts+2*i:]) }
	for i := 0; i < count; i++ {
		r := rules.PortRange{First: at(i), Last: at(i)}
		if info[multiportRanges+i] != 0 && i+1 < count {
			i++
			r.Last = at(i)
		}
		list = append(list, r)
	}
	return rules.List(list...), info[multiportNot] != 0
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
