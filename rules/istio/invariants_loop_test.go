// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What the proxy sends never ends at its outbound listener or at its own name server, and no rule stops it.
func TestInvariantProxyNeverComesBackToItsOutbound(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !x.proxys() || x.packet.State == rules.StateInvalid {
			return false, ""
		}
		if x.taken() && x.place != istio.ProxyInbound {
			return wrong("what the proxy sends ends at %s", x.place)
		}
		if x.place == istio.Dropped || x.place == istio.Reset {
			return wrong("what the proxy sends is %s", x.place)
		}
		return true, ""
	})
}

// It comes to its inbound listener only where it calls its own pod by an address that others know it by: that
// call is a request to the app like any other.
func TestInvariantProxyReachesItsInboundOnlyByItsOwnAddress(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !x.proxys() || x.place != istio.ProxyInbound || !x.taken() {
			return false, ""
		}
		if !x.stays() || !x.tcp() {
			return wrong("what the proxy sends elsewhere comes back to it")
		}
		if x.packet.Destination.Addr().String() == "127.0.0.1" || x.packet.Destination.Addr().String() == "::1" {
			return wrong("what the proxy sends by loopback comes back to it")
		}
		return true, ""
	})
}

// What the proxy passes on to the app gets there: otherwise it would go round for ever.
//
// Istio's own rules have two gaps here, which ours share so as to be the same rules. Both are TPROXY's,
// where the proxy passes on from the client's address as root of its group: the rule that keeps the traffic
// of other users on lo is what lets it pass. That rule is not there where a range of loopback is captured,
// and with DNS capture it leaves out port 53: an app that listens there is not reached by TCP.
func TestInvariantPassedOnReachesTheApp(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !x.passedOn() || !x.stays() || !x.tcp() || x.packet.State == rules.StateInvalid {
			return false, ""
		}
		if !x.fromPassthrough() && (capturesLoopback(x.Intent) || x.lookup()) {
			return false, ""
		}
		if x.taken() {
			return wrong("what the proxy passes on ends at %s", x.place)
		}
		return true, ""
	})
}

func capturesLoopback(in istio.Intent) bool {
	return slices.ContainsFunc(in.Outbound, func(p netip.Prefix) bool { return p.Addr().IsLoopback() })
}
