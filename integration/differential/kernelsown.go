// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"cmp"
	"fmt"
	"net/netip"
	"os/exec"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// What the kernel sends of its own has no owner. Datagrams are the tunnels': what the peer sends to the
// network behind one is wrapped in a datagram to wherever the tunnel leads. Segments are resets, by which it
// answers what belongs to no connection.

// tunnels make datagrams of either family, from one address and port.
var tunnels = map[bool]tunnel{
	false: {"vx4", netip.MustParseAddrPort("10.244.1.7:61000"), netip.MustParseAddrPort("198.19.4.1:9"), 4789},
	true:  {"vx6", netip.MustParseAddrPort("[fd00:10:244::7]:61000"), netip.MustParseAddrPort("198.19.6.1:9"), 4790},
}

type tunnel struct {
	name   string
	source netip.AddrPort // of the datagrams
	behind netip.AddrPort // what the peer sends to
	port   int            // at which the tunnel itself listens
}

// remote is the hardware address of what is behind a tunnel.
const remote = "02:00:00:00:02:01"

// digging returns what ip is to do in the pod.
func digging() string {
	text := ""
	for _, t := range tunnels {
		text += fmt.Sprintf("link add %s type vxlan id %d local %s dstport %d srcport %d %d nolearning\n", t.name, t.port,
			t.source.Addr(), t.port, t.source.Port(), t.source.Port()+1)
		text += fmt.Sprintf("link set %s addrgenmode none up\nroute add %s/32 dev %s\n", t.name, t.behind.Addr(), t.name)
		text += fmt.Sprintf("neigh replace %s lladdr %s dev %s nud permanent\n", t.behind.Addr(), remote, t.name)
	}
	return text
}

// ownWay tells how the kernel can be made to send a packet that nobody owns, or why it cannot.
func (w *world) ownWay(p rules.Packet) (way, string) {
	switch {
	case w.has(p.Destination.Addr()) || inLoopback(p.Source.Addr()) || p.Mark != 0:
		return 0, "no owner, and within the pod, from a loopback address or with a mark"
	case p.Protocol == rules.UDP && p.State == rules.StateNew:
		return byTunnel, ""
	case p.Protocol == rules.TCP && (p.State == rules.StateInvalid || p.State == rules.StateUntracked):
		return byReset, ""
	}
	return 0, fmt.Sprintf("no owner: %s in another state", p.Protocol)
}

// throughTunnel makes the tunnel lead to the destination and lets the peer send through it.
func (g *gallery) throughTunnel(s *shot) error {
	dst := s.packet.Destination
	t := tunnels[dst.Addr().Is6()]
	args := []string{"--net=" + g.path, "bridge", "fdb", "replace", remote, "dev", t.name, "dst", dst.Addr().String(), "port", fmt.Sprint(dst.Port())}
	if out, err := exec.Command("nsenter", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("bridge fdb: %w: %s", err, out)
	}
	return g.peer.do(func() error {
		if err := unix.Sendto(g.markers["eth0"], []byte(s.id), 0, sockaddr(t.behind, 0)); err != nil {
			return fmt.Errorf("send through tunnel: %w", err)
		}
		return nil
	})
}

// others returns the packets without which nothing is seen of this one, by what there is to say where one is stopped: what the
// kernel sends its own packets for, and the reset that tells a sender that its packet was refused.
func (s *shot) others() map[string]rules.Packet {
	all := map[string]rules.Packet{}
	back := rules.Packet{Direction: rules.Inbound, Protocol: s.packet.Protocol, Source: s.packet.Destination, Destination: s.packet.Source}
	switch {
	case s.way == byTunnel:
		t := tunnels[s.packet.Source.Addr().Is6()]
		back.Source, back.Destination, back.In, back.Out, back.State = markerSource, t.behind, "eth0", t.name, rules.StateUntracked
		all["the kernel does not get what it would send it for"] = back
	case s.way == byReset:
		back.In, back.State = "eth0", rules.StateUntracked
		all["the kernel does not get what it would send it for"] = back
	case s.want.kind == reset: // its sender is in the pod, unless it came in
		back.Direction, back.Out, back.State = rules.Outbound, cmp.Or(s.packet.In, "lo"), rules.StateRelated
		all["the sender is not told that it was refused"] = back
	}
	return all
}

// provokeReset lets the peer send what the pod's kernel answers with a reset.
func (g *gallery) provokeReset(s *shot) error {
	p := s.packet
	codePoint := uint8(untrackedIn)
	if p.State == rules.StateUntracked {
		codePoint = untracked // the answer has it too
	}
	seg := segment{protocol: rules.TCP, source: p.Destination, destination: p.Source, flags: tcpACK}
	return g.peer.do(func() error { return g.put("eth0", p.Source.Addr(), seg.bytes(codePoint, false)) })
}
