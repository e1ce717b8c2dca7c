// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// opening returns the first packet of a TCP connection that arrives for the pod by eth0.
func opening(s generate.Setting, random *rand.Rand, ports ...uint16) rules.Packet {
	to, from := s.Pod.IPs[random.IntN(len(s.Pod.IPs))], netip.MustParseAddr("10.9.9.9")
	if to.Is6() {
		from = netip.MustParseAddr("fd00:9::9")
	}
	return rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, In: "eth0", Source: netip.AddrPortFrom(from, 40000),
		Destination: netip.AddrPortFrom(to, ports[random.IntN(len(ports))])}
}

// The agent's ports, to which kubelet and Prometheus speak without the mesh, are reached from outside as
// they are, where all inbound ports are captured; in a list of captured ports each is what it says.
func TestInvariantProbePortsAreReachedFromOutside(t *testing.T) {
	draw := func(s generate.Setting, random *rand.Rand) rules.Packet {
		return opening(s, random, 15020, 15021, 15090)
	}
	everyPacketOf(t, draw, func(x sent) (bool, string) {
		if slices.Contains(x.Intent.Inbound, x.port()) {
			return false, ""
		}
		if x.end.Kind != rules.Delivered || x.end.To != x.packet.Destination {
			return wrong("a probe: %s", x.end)
		}
		return true, ""
	})
}

// A listener of the proxy that is called by its own port from outside is like any other port: where it is
// captured, the connection comes to the inbound listener.
func TestInvariantListenersAreNoWayIn(t *testing.T) {
	draw := func(s generate.Setting, random *rand.Rand) rules.Packet {
		in := s.Intent
		return opening(s, random, in.OutboundPort, in.InboundPort, in.DNSPort, 15000)
	}
	everyPacketOf(t, draw, func(x sent) (bool, string) {
		if !x.includedInbound() || !x.captured() {
			return false, ""
		}
		if !x.taken() || x.place != istio.ProxyInbound {
			return wrong("port %d from outside: %s", x.port(), x.end)
		}
		return true, ""
	})
}

// What Istio's own validation container does: as the proxy's user it calls the passthrough address on port
// 15002, which must come to the inbound listener. It does not where that port is excluded, or where the
// address lies in a wider loopback range.
func TestInvariantValidationPasses(t *testing.T) {
	draw := func(s generate.Setting, random *rand.Rand) rules.Packet {
		from, to := "127.0.0.1", "127.0.0.6"
		if len(s.Plan.Loopback) > 0 && random.IntN(2) == 0 {
			from, to = "::1", "::6"
		}
		return rules.Packet{Protocol: rules.TCP, Source: netip.AddrPortFrom(netip.MustParseAddr(from), 40000),
			Destination: netip.AddrPortFrom(netip.MustParseAddr(to), 15002), Socket: true, UID: s.Intent.UID, GID: s.Intent.GID}
	}
	everyPacketOf(t, draw, func(x sent) (bool, string) {
		if slices.Contains(x.Intent.OutboundPortsExclude, 15002) || x.Intent.Loopback.Contains(x.packet.Destination.Addr()) {
			return false, ""
		}
		if !x.taken() || x.place != istio.ProxyInbound {
			return wrong("the probe: %s", x.end)
		}
		return true, ""
	})
}

// What is taken comes to a listener that the settings name, with the destination it was sent to.
func TestInvariantTakenComesToAKnownListener(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.taken() {
			return false, ""
		}
		in := x.Intent
		if !slices.Contains([]uint16{in.OutboundPort, in.InboundPort, in.DNSPort}, x.end.Port) ||
			x.end.Original != x.packet.Destination {
			return wrong("%s", x.end)
		}
		return true, ""
	})
}
