// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// connection is an entry of the pod's table of connections. It is there if and only if the first packet came
// through every hook that it met, in the direction it was sent.
type connection struct {
	source, original, to netip.AddrPort // to: what the destination was translated to
	answers              netip.AddrPort // where answers go: the source, unless that was translated
	zone                 uint16
	mark                 uint32
	flow                 *netlink.ConntrackFlow
}

func (c connection) String() string {
	return fmt.Sprintf("connection %s to %s, translated to %s, answers to %s, zone %d, mark %#x", c.source, c.original, c.to, c.answers, c.zone, c.mark)
}

type connectionKey struct {
	protocol         string
	source, original netip.AddrPort
}

// connections reads the table; it is called in the pod.
func connections() (map[connectionKey][]connection, error) {
	all := map[connectionKey][]connection{}
	for _, family := range []netlink.InetFamily{unix.AF_INET, unix.AF_INET6} {
		flows, err := netlink.ConntrackTableList(netlink.ConntrackTable, family)
		if err != nil {
			return nil, fmt.Errorf("read the table of connections: %w", err)
		}
		for _, f := range flows {
			protocol, ok := map[uint8]string{unix.IPPROTO_TCP: rules.TCP, unix.IPPROTO_UDP: rules.UDP}[f.Forward.Protocol]
			if !ok {
				continue
			}
			c := connection{source: at(f.Forward.SrcIP, f.Forward.SrcPort), original: at(f.Forward.DstIP, f.Forward.DstPort),
				to: at(f.Reverse.SrcIP, f.Reverse.SrcPort), answers: at(f.Reverse.DstIP, f.Reverse.DstPort),
				zone: f.Zone, mark: f.Mark, flow: f}
			key := connectionKey{protocol, c.source, c.original}
			all[key] = append(all[key], c)
		}
	}
	return all, nil
}

func at(ip net.IP, port uint16) netip.AddrPort {
	addr, _ := netip.AddrFromSlice(ip)
	return netip.AddrPortFrom(addr.Unmap(), port)
}

// remember gives a connection a mark.
func (c connection) remember(mark uint32) error {
	family := netlink.InetFamily(familyOf(c.source.Addr()))
	flow := *c.flow
	flow.Mark = mark
	if err := netlink.ConntrackUpdate(netlink.ConntrackTable, family, &flow); err != nil {
		return fmt.Errorf("give %s mark %#x: %w", c, mark, err)
	}
	return nil
}

// forget empties the table.
func forget() error {
	if err := netlink.ConntrackTableFlush(netlink.ConntrackTable); err != nil {
		return fmt.Errorf("empty the table of connections: %w", err)
	}
	return nil
}
