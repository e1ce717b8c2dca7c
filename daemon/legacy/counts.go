// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"encoding/binary"
	"errors"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// Counts returns how many packets the rules of lockdowns have counted, of both families together, by the names of their counters,
// in the network namespace of the calling thread.
func Counts() (map[string]uint64, error) {
	counts, left := map[string]uint64{}, most
	for _, b := range []blobs{blobs4, blobs6} {
		if err := b.eachTable(func(fd int, name string) error {
			if name != rules.LockdownTable {
				return nil
			}
			_, entries, err := b.counted(fd, name, &left)
			if errors.Is(err, netlink.ErrMoved) {
				return nil // they are read again soon
			}
			if err != nil {
				return err
			}
			chain := ""
			return b.each(entries, func(entry []byte) {
				e, err := b.entryOf(entry)
				switch n := binary.NativeEndian.Uint64(entry[b.counter:]); {
				case err != nil:
				case e.Head:
					chain = e.name()
				case n > 0:
					if counter := b.rule(e).Counter(chain); counter != "" {
						counts[counter] += n
					}
				}
			})
		}); err != nil {
			return nil, err
		}
	}
	return counts, nil
}

// struct xt_conntrack_mtinfo3, for which states a rule asks: bits of xt_conntrack.h.
const (
	stateMask    = 150
	stateInvalid = 1
)

// ownerNot is where struct xt_owner_match_info says what is inverted; it begins with the first and the last user.
const ownerNot = 17

// verdictOfDrop is -NF_DROP - 1.
const verdictOfDrop = -1

// rule returns as much of an entry as tells for what it counts.
func (b blobs) rule(e Entry) (r rules.Rule) {
	switch {
	case e.Target.Name == "REJECT":
		r.Target = rules.RejectPort
	case e.Target.Name == "" && e.Verdict == verdictOfDrop:
		r.Target = rules.Drop
	case e.Target.Name == "CONNMARK":
		r.Target = rules.SetConnMark(0)
	default:
		return r
	}
	protocols := map[uint16]string{unix.IPPROTO_TCP: rules.TCP, unix.IPPROTO_UDP: rules.UDP, unix.IPPROTO_ICMP: rules.ICMP, unix.IPPROTO_ICMPV6: rules.ICMPv6}
	if p, known := protocols[binary.NativeEndian.Uint16(e.Packet[b.protocol:])]; known {
		r.Match = append(r.Match, rules.Protocol(p))
	}
	if out := unix.ByteSliceToString(e.Packet[b.out : b.out+unix.IFNAMSIZ]); out != "" {
		r.Match = append(r.Match, rules.OutInterface(out))
	}
	for _, m := range e.Matches {
		if m.Name == "conntrack" && len(m.Info) > stateMask && binary.NativeEndian.Uint16(m.Info[stateMask:]) == stateInvalid {
			r.Match = append(r.Match, rules.InState(rules.StateInvalid))
		}
		if m.Name == "owner" && len(m.Info) > ownerNot && m.Info[ownerNot] == 0 && string(m.Info[:4]) == string(m.Info[4:8]) {
			r.Match = append(r.Match, rules.OwnerUID(0))
		}
	}
	return r
}
