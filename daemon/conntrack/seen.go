// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"fmt"
	"time"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// markMask is CTA_MARK_MASK of linux/netfilter/nfnetlink_conntrack.h.
const markMask = 21

// answerTime is generous: the kernel goes through its table once.
const answerTime = 2 * time.Second

// Table is all the connections that the kernel remembers.
type Table struct{}

// Seen returns the connections whose first packet a lockdown counted and let go; so many at most. The kernel passes over all
// others, and what is left of its answer goes with the socket.
func (Table) Seen(most int) (all []rules.Seen, err error) {
	s, err := netlink.Open(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	defer s.Close()
	request := netlink.AppendRequest(nil, unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP, 0)
	request = append(request, unix.AF_UNSPEC, unix.NFNETLINK_V0, 0, 0) // struct nfgenmsg
	request = netlink.AppendAttribute(request, nl.CTA_MARK, binary.BigEndian.AppendUint32(nil, rules.CountedMark))
	request = netlink.AppendAttribute(request, markMask, binary.BigEndian.AppendUint32(nil, rules.CountedMask))
	netlink.End(request)
	if err := s.Send(request); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	room := make([]byte, netlink.LongestPacket)
	for begun := time.Now(); time.Since(begun) < answerTime; {
		packet, err := s.Receive(room)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUntold, err)
		}
		for len(packet) >= unix.NLMSG_HDRLEN {
			var m netlink.Message
			if m, packet, err = netlink.Next(packet); err == nil && m.Ends() {
				err = m.Refusal()
			}
			if err != nil {
				return all, fmt.Errorf("%w: %w", ErrUntold, err)
			}
			if m.Ends() || len(all) == most {
				return all, nil
			}
			if one, counted, err := seen(m.Body); err != nil {
				return nil, err
			} else if counted {
				all = append(all, one)
			}
		}
	}
	return nil, fmt.Errorf("%w: no whole answer within %s", ErrUntold, answerTime)
}

// seen reads a connection, if a lockdown counted it.
func seen(message []byte) (s rules.Seen, counted bool, err error) {
	if mark := netlink.Attribute(message[min(nl.SizeofNfgenmsg, len(message)):], nl.CTA_MARK); len(mark) == 4 {
		s.Class, counted = rules.ClassOf(binary.BigEndian.Uint32(mark))
	}
	if !counted {
		return s, false, nil
	}
	origin, err := tupleOf(message, nl.CTA_TUPLE_ORIG)
	if err != nil {
		return s, false, err
	}
	reply, err := tupleOf(message, nl.CTA_TUPLE_REPLY)
	s.Protocol, s.Peer, s.Port = name(origin.protocol), reply.source.Addr(), reply.source.Port()
	if s.Class == rules.ClassInbound {
		s.Peer = origin.source.Addr()
	}
	if s.Protocol != rules.TCP && s.Protocol != rules.UDP {
		s.Port = 0
	}
	return s, true, err
}

// name returns a protocol as packets name it.
func name(number byte) string {
	known := map[byte]string{unix.IPPROTO_TCP: rules.TCP, unix.IPPROTO_UDP: rules.UDP, unix.IPPROTO_ICMP: rules.ICMP, unix.IPPROTO_ICMPV6: rules.ICMPv6,
		unix.IPPROTO_SCTP: "sctp", unix.IPPROTO_GRE: "gre"}
	if s := known[number]; s != "" {
		return s
	}
	return fmt.Sprintf("protocol %d", number)
}
