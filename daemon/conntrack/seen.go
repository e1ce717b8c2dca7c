// SPDX-License-Identifier: Apache-2.0

//go:build linux

package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"syscall"
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
	s, err := nl.Subscribe(unix.NETLINK_NETFILTER)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	defer s.Close()
	timeout := unix.NsecToTimeval(int64(answerTime))
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|nl.IPCTNL_MSG_CT_GET, unix.NLM_F_DUMP)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: unix.NFNETLINK_V0})
	req.AddData(nl.NewRtAttr(nl.CTA_MARK, binary.BigEndian.AppendUint32(nil, rules.CountedMark)))
	req.AddData(nl.NewRtAttr(markMask, binary.BigEndian.AppendUint32(nil, rules.CountedMask)))
	if err := errors.Join(s.SetReceiveTimeout(&timeout), s.Send(req)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrUntold, err)
	}
	for begun := time.Now(); time.Since(begun) < answerTime; {
		messages, from, err := s.Receive()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUntold, err)
		}
		if from.Pid != nl.PidKernel { // others in the pod can send to the socket as well
			continue
		}
		for _, m := range messages {
			if end, err := ends(m); end || err != nil || len(all) == most {
				return all, err
			}
			if one, counted, err := seen(m.Data); err != nil {
				return nil, err
			} else if counted {
				all = append(all, one)
			}
		}
	}
	return nil, fmt.Errorf("%w: no whole answer within %s", ErrUntold, answerTime)
}

// ends reports whether a message ends the answer, and with which error.
func ends(m syscall.NetlinkMessage) (bool, error) {
	if m.Header.Type != unix.NLMSG_DONE && m.Header.Type != unix.NLMSG_ERROR {
		return false, nil
	}
	if len(m.Data) >= 4 {
		if code := int32(binary.NativeEndian.Uint32(m.Data)); code < 0 {
			return true, fmt.Errorf("%w: %w", ErrUntold, unix.Errno(-code))
		}
	}
	return true, nil
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
