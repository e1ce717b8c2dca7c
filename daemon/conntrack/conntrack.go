// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package conntrack asks the kernel for the connections of the namespace that the calling thread is in.
package conntrack

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/rules"
)

// Entry is what connection tracking knows of a packet's connection. The kernel lists it once nothing can drop the packet any more at
// the hook where it leaves, or is delivered.
type Entry struct {
	To   netip.AddrPort // to where its destination was translated, or that itself where it was not
	Zone uint16
}

// ErrUntold is within the error where the kernel does not list its connections.
var ErrUntold = errors.New("connection tracking cannot be asked (nf_conntrack_netlink is needed)")

// Find asks for the packet's connection in these zones; nil is none.
func Find(p rules.Packet, zones []uint16) (*Entry, error) {
	for _, zone := range zones {
		messages, err := tupleRequest(nl.IPCTNL_MSG_CT_GET, p, zone).Execute(unix.NETLINK_NETFILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", ErrUntold, err)
		}
		for _, m := range messages {
			reply, err := tupleOf(m, nl.CTA_TUPLE_REPLY)
			return &Entry{To: reply.source, Zone: zone}, err
		}
	}
	return nil, nil
}

// Forget takes the connection out of the kernel's table, so that nothing is left of the packet.
func Forget(p rules.Packet, zone uint16) error {
	_, err := tupleRequest(nl.IPCTNL_MSG_CT_DELETE, p, zone).Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the connection of %s: %w", p, err)
	}
	return nil
}

// tupleRequest names a connection by its first packet. It asks for an acknowledgement to end the answer: the kernel flags
// even a single entry as one of many, and sends no end.
func tupleRequest(command int, p rules.Packet, zone uint16) *nl.NetlinkRequest {
	protocol := byte(unix.IPPROTO_TCP)
	source, destination := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if p.Family() == rules.IPv6 {
		source, destination = nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	if p.Protocol == rules.UDP {
		protocol = unix.IPPROTO_UDP
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: netlink.Family(p.Family()), Version: unix.NFNETLINK_V0})
	tuple := nl.NewRtAttr(int(nl.NLA_F_NESTED)|nl.CTA_TUPLE_ORIG, nil)
	ip := tuple.AddRtAttr(int(nl.NLA_F_NESTED)|nl.CTA_TUPLE_IP, nil)
	ip.AddRtAttr(source, p.Source.Addr().AsSlice())
	ip.AddRtAttr(destination, p.Destination.Addr().AsSlice())
	proto := tuple.AddRtAttr(int(nl.NLA_F_NESTED)|nl.CTA_TUPLE_PROTO, nil)
	proto.AddRtAttr(nl.CTA_PROTO_NUM, []byte{protocol})
	proto.AddRtAttr(nl.CTA_PROTO_SRC_PORT, binary.BigEndian.AppendUint16(nil, p.Source.Port()))
	proto.AddRtAttr(nl.CTA_PROTO_DST_PORT, binary.BigEndian.AppendUint16(nil, p.Destination.Port()))
	req.AddData(tuple)
	if zone != 0 {
		req.AddData(nl.NewRtAttr(nl.CTA_ZONE, binary.BigEndian.AppendUint16(nil, zone)))
	}
	return req
}

// tuple is one direction of a connection, as far as it is asked for.
type tuple struct {
	protocol byte
	source   netip.AddrPort // the port is 0 where the protocol has none
}

// tupleOf reads a direction out of a message. Answers come from where a connection went, whatever its destination was changed to.
func tupleOf(message []byte, direction uint16) (t tuple, err error) {
	list := netlink.Attribute(message[min(nl.SizeofNfgenmsg, len(message)):], direction)
	ip, proto := netlink.Attribute(list, nl.CTA_TUPLE_IP), netlink.Attribute(list, nl.CTA_TUPLE_PROTO)
	source := netlink.Attribute(ip, nl.CTA_IP_V4_SRC)
	if source == nil {
		source = netlink.Attribute(ip, nl.CTA_IP_V6_SRC)
	}
	addr, ok := netip.AddrFromSlice(source)
	number, port := netlink.Attribute(proto, nl.CTA_PROTO_NUM), netlink.Attribute(proto, nl.CTA_PROTO_SRC_PORT)
	if !ok || len(number) != 1 || len(port) != 0 && len(port) != 2 {
		return t, fmt.Errorf("%w: its answer cannot be read", ErrUntold)
	}
	t.protocol, t.source = number[0], netip.AddrPortFrom(addr, 0)
	if len(port) == 2 {
		t.source = netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port))
	}
	return t, nil
}
