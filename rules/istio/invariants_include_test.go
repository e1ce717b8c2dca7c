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

// appOutbound reports whether the packet opens a connection of the app to the outside that nothing excludes.
func (x sent) appOutbound() bool {
	return x.outbound() && x.first() && x.tcp() && !x.stays() && x.apps() && !x.excludedOwner() && !x.excludedInterface() &&
		!slices.Contains(x.Intent.OutboundPortsExclude, x.port()) && !x.within(x.Intent.OutboundExclude)
}

func (x sent) includedOutbound() bool {
	return x.Intent.OutboundAll || x.within(x.Intent.Outbound) || slices.Contains(x.Intent.OutboundPorts, x.port())
}

// What is included goes to the outbound listener, whatever else is set, unless it is excluded; where the
// family is to be reset, it is reset.
func TestInvariantIncludedOutbound(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.appOutbound() || !x.includedOutbound() || x.lookup() {
			return false, ""
		}
		switch {
		case x.captured() && x.place != istio.ProxyOutbound:
			return wrong("included, but: %s", x.end)
		case x.resets() && x.place != istio.Reset:
			return wrong("to be reset, but: %s", x.end)
		}
		return x.captured() || x.resets(), ""
	})
}

// And what is not included leaves.
func TestInvariantNotIncludedOutbound(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.appOutbound() || x.includedOutbound() || x.lookup() {
			return false, ""
		}
		if x.place != istio.NotCaptured {
			return wrong("not included, but: %s", x.end)
		}
		return true, ""
	})
}

func (x sent) includedInbound() bool {
	in := x.Intent
	if in.InboundAll {
		return !slices.Contains(in.InboundExclude, x.port())
	}
	return slices.Contains(in.Inbound, x.port())
}

// toPod reports whether the packet opens a connection from outside to the pod itself.
func (x sent) toPod() bool {
	return !x.outbound() && x.first() && x.tcp() && x.end.Kind != rules.Leaves && !x.excludedInterface()
}

// An included port goes to the inbound listener. The tunnel port goes there by itself, except that Istio's
// TPROXY takes it like any other; what a rerouted interface brings in is outbound, except that TPROXY takes
// it for inbound all the same.
func TestInvariantIncludedInbound(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.toPod() || !x.includedInbound() || x.rerouted() {
			return false, ""
		}
		own := x.port() == x.Intent.TunnelPort && (!x.Intent.TProxy || !x.captured())
		switch {
		case own && (x.taken() || x.place == istio.Reset):
			return wrong("the tunnel port: %s", x.end)
		case own:
		case x.captured() && (!x.taken() || x.place != istio.ProxyInbound):
			return wrong("included, but: %s", x.end)
		case x.resets() && x.place != istio.Reset:
			return wrong("to be reset, but: %s", x.end)
		}
		return x.captured() || x.resets(), ""
	})
}

func TestInvariantNotIncludedInbound(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.toPod() || x.includedInbound() || x.rerouted() {
			return false, ""
		}
		if x.taken() || x.place == istio.Reset {
			return wrong("not included, but: %s", x.end)
		}
		return true, ""
	})
}

// What a rerouted interface brings in for an included range goes to the outbound listener.
func TestInvariantReroutedInterface(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		in := x.Intent
		if !x.rerouted() || !x.first() || !x.tcp() || !x.captured() || in.TProxy {
			return false, ""
		}
		included := in.OutboundAll || x.within(in.Outbound)
		switch {
		case included && (!x.taken() || x.place != istio.ProxyOutbound):
			return wrong("rerouted, but: %s", x.end)
		case !included && x.taken():
			return wrong("no range names it, but: %s", x.end)
		}
		return true, ""
	})
}

// An app's name lookups go to the agent, whoever is asked, over UDP and TCP. Istio leaves alone those of
// an excluded port, interface or group, and the proxy's own.
func TestInvariantNameLookups(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.lookup() || !x.outbound() || !x.first() || !x.apps() || x.excludedOwner() || x.excludedInterface() ||
			!x.captured() || (x.fromPassthrough() && x.stays()) || slices.Contains(x.Intent.OutboundPortsExclude, 53) {
			return false, ""
		}
		if !x.taken() || x.place != istio.ProxyDNS {
			return wrong("a name lookup: %s", x.end)
		}
		return true, ""
	})
}

// The agent's questions and the app's are in different zones, so that neither takes the other's ports.
func TestInvariantZonesKeepLookupsApart(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if x.tcp() || !x.captured() || x.packet.State&(rules.StateInvalid|rules.StateUntracked) != 0 {
			return false, ""
		}
		want := uint16(0)
		fromDNS := x.packet.Source.Port() == 53
		switch in := x.Intent; {
		case !in.DNSCapture:
		case !x.outbound() && fromDNS:
			want = 1
		case !x.outbound():
		case x.port() == 53 && x.proxys():
			want = 1
		case x.port() == 53, x.packet.Source.Port() == in.DNSPort && x.proxys():
			want = 2
		}
		if got := x.end.Zone; got != want {
			return wrong("zone %d, want %d", got, want)
		}
		return true, ""
	})
}

// What is within an included loopback range, and only then what is to the pod's own addresses, goes to the
// outbound listener too. The first loopback address, or the range that is set for it, stays the app's own.
func TestInvariantIncludedLoopback(t *testing.T) {
	draw := func(s generate.Setting, random *rand.Rand) rules.Packet {
		to := append(addrs("127.0.0.1", "127.0.0.2", "127.1.2.3", "::1"), s.Pod.IPs...)[random.IntN(4+len(s.Pod.IPs))]
		port := []uint16{80, 8080, 9999, 53}[random.IntN(4)]
		return rules.Packet{Protocol: rules.TCP, Source: netip.AddrPortFrom(to, 40000), Destination: netip.AddrPortFrom(to, port),
			Socket: true, UID: 1000, GID: []uint32{1000, 7}[random.IntN(2)]}
	}
	everyPacketOf(t, draw, func(x sent) (bool, string) {
		in := x.Intent
		if !capturesLoopback(in) || !x.stays() || !x.apps() || !x.first() || !x.tcp() || !x.captured() || !x.within(in.Outbound) ||
			x.excludedOwner() || x.excludedInterface() || x.lookup() || x.fromPassthrough() ||
			slices.Contains(in.OutboundPortsExclude, x.port()) || x.within(in.OutboundExclude) {
			return false, ""
		}
		own := in.Loopback.Contains(x.packet.Destination.Addr()) || x.packet.Destination.Addr().String() == "::1"
		if own == x.taken() || x.taken() && x.place != istio.ProxyOutbound {
			return wrong("within an included range: %s", x.end)
		}
		return true, ""
	})
}

// Packets out of their connection's window are dropped where that is asked for, and only there. With TPROXY
// an excluded interface is excluded from this as well.
func TestInvariantInvalidIsDropped(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if x.packet.State != rules.StateInvalid || !x.captured() || x.outbound() && !x.stays() {
			return false, ""
		}
		excluded := x.Intent.TProxy && !x.outbound() && x.excludedInterface()
		if want := x.Intent.InvalidDrop && !excluded; (x.place == istio.Dropped) != want {
			return wrong("out of its window: %s", x.end)
		}
		return true, ""
	})
}

// A connection that exists is never reset, so that rules that come late break none.
func TestInvariantExistingConnectionsAreNotReset(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.resets() || x.packet.State&(rules.StateEstablished|rules.StateRelated) == 0 {
			return false, ""
		}
		if x.place == istio.Reset {
			return wrong("it exists: %s", x.end)
		}
		return true, ""
	})
}
