// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"syscall"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// entry is what connection tracking knows of a packet's connection: to where its destination was translated,
// or its own destination where it was not. The kernel lists it once nothing can drop the packet any more at
// the hook where it leaves, or is delivered.
type entry struct {
	to   netip.AddrPort
	zone uint16
}

// errUntold is within the error where the kernel does not list its connections.
var errUntold = errors.New("connection tracking cannot be asked (nf_conntrack_netlink is needed)")

// track asks for the packet's connection in these zones; nil is none.
func track(p rules.Packet, zones []uint16) (*entry, error) {
	for _, zone := range zones {
		messages, err := tupleRequest(nl.IPCTNL_MSG_CT_GET, p, zone).Execute(unix.NETLINK_NETFILTER, 0)
		if errors.Is(err, unix.ENOENT) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errUntold, err)
		}
		for _, m := range messages {
			to, err := translated(m)
			return &entry{to: to, zone: zone}, err
		}
	}
	return nil, nil
}

// untrack takes the connection out of the kernel's table, so that nothing is left of the packet.
func untrack(p rules.Packet, zone uint16) error {
	_, err := tupleRequest(nl.IPCTNL_MSG_CT_DELETE, p, zone).Execute(unix.NETLINK_NETFILTER, 0)
	if err != nil && !errors.Is(err, unix.ENOENT) {
		return fmt.Errorf("delete the connection of %s: %w", p, err)
	}
	return nil
}

// tupleRequest names a connection by its first packet. It asks for an acknowledgement to end the answer: the kernel flags
// even a single entry as one of many, and sends no end.
func tupleRequest(command int, p rules.Packet, zone uint16) *nl.NetlinkRequest {
	family, protocol := byte(unix.AF_INET), byte(unix.IPPROTO_TCP)
	source, destination := nl.CTA_IP_V4_SRC, nl.CTA_IP_V4_DST
	if p.Family() == rules.IPv6 {
		family, source, destination = unix.AF_INET6, nl.CTA_IP_V6_SRC, nl.CTA_IP_V6_DST
	}
	if p.Protocol == rules.UDP {
		protocol = unix.IPPROTO_UDP
	}
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_CTNETLINK<<8|command, unix.NLM_F_ACK)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: family, Version: unix.NFNETLINK_V0})
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

// translated returns the address that the answer is expected from.
func translated(message []byte) (netip.AddrPort, error) {
	fail := func() (netip.AddrPort, error) {
		return netip.AddrPort{}, fmt.Errorf("%w: its answer cannot be read", errUntold)
	}
	if len(message) < nl.SizeofNfgenmsg {
		return fail()
	}
	reply := attribute(message[nl.SizeofNfgenmsg:], nl.CTA_TUPLE_REPLY)
	ip, proto := attribute(reply, nl.CTA_TUPLE_IP), attribute(reply, nl.CTA_TUPLE_PROTO)
	source := attribute(ip, nl.CTA_IP_V4_SRC)
	if source == nil {
		source = attribute(ip, nl.CTA_IP_V6_SRC)
	}
	addr, ok := netip.AddrFromSlice(source)
	port := attribute(proto, nl.CTA_PROTO_SRC_PORT)
	if !ok || len(port) != 2 {
		return fail()
	}
	return netip.AddrPortFrom(addr, binary.BigEndian.Uint16(port)), nil
}

// attribute returns the value of the attribute of that type; nil where there is none.
func attribute(list []byte, kind int) []byte {
	all, err := nl.ParseRouteAttr(list)
	if err != nil {
		return nil
	}
	for _, a := range all {
		if kindOf(a) == kind {
			return a.Value
		}
	}
	return nil
}

func kindOf(a syscall.NetlinkRouteAttr) int { return int(a.Attr.Type & nl.NLA_TYPE_MASK) }
