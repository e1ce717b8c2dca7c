// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// An excluded outbound port is left alone whatever else is set, name lookups included. With TPROXY the
// proxy's call of its own pod is inbound traffic, to which the exclusion does not apply.
func TestInvariantExcludedOutboundPort(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !slices.Contains(x.Intent.OutboundPortsExclude, x.port()) || !x.captured() {
			return false, ""
		}
		if x.end.Kind == rules.Redirected || (x.taken() && x.apps()) {
			return wrong("excluded port %d ends at %s", x.port(), x.place)
		}
		return true, ""
	})
}

func TestInvariantExcludedInboundPort(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		in := x.Intent
		if x.outbound() || x.rerouted() || !x.tcp() || !x.first() || !in.InboundAll || !slices.Contains(in.InboundExclude, x.port()) {
			return false, ""
		}
		if x.taken() || x.place == istio.Reset {
			return wrong("excluded port %d: %s", x.port(), x.end)
		}
		return true, ""
	})
}

// An excluded range is left alone by all but the proxy. Name lookups are captured whoever is asked; a
// rerouted interface knows no exclusions.
func TestInvariantExcludedRange(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !x.within(x.Intent.OutboundExclude) || x.lookup() || !x.apps() {
			return false, ""
		}
		if x.taken() || (x.place == istio.Reset && !x.stays()) {
			return wrong("excluded address %s: %s", x.packet.Destination, x.end)
		}
		return true, ""
	})
}

// Nothing that goes by an excluded interface is taken or stopped. One that is to be rerouted as well is
// rerouted; with TPROXY what it brings in is not even taken for inbound traffic.
func TestInvariantExcludedInterface(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.excludedInterface() || x.rerouted() || x.packet.State == rules.StateInvalid {
			return false, ""
		}
		if x.taken() || x.place == istio.Reset {
			return wrong("by an excluded interface: %s", x.end)
		}
		return true, ""
	})
}

// An excluded owner is never taken to the outbound listener, nor are its name lookups. An owner that is the
// proxy as well is the proxy.
func TestInvariantExcludedOwner(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.outbound() || !x.excludedOwner() || !x.apps() {
			return false, ""
		}
		if x.taken() || x.place == istio.Reset {
			return wrong("of an excluded group: %s", x.end)
		}
		return true, ""
	})
}

// What nobody asked for is left alone: the app's own traffic within the pod, unless loopback is captured.
func TestInvariantAppWithinThePodIsItsOwnBusiness(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if !x.stays() || !x.apps() || x.lookup() || capturesLoopback(x.Intent) || x.packet.State == rules.StateInvalid {
			return false, ""
		}
		if x.end.Kind != rules.Delivered {
			return wrong("within the pod: %s", x.end)
		}
		return true, ""
	})
}

// UDP is left alone, name lookups apart.
func TestInvariantOnlyTCPIsTaken(t *testing.T) {
	everyPacket(t, func(x sent) (bool, string) {
		if x.tcp() || x.lookup() || x.packet.State == rules.StateInvalid {
			return false, ""
		}
		if kind := x.end.Kind; kind != rules.Delivered && kind != rules.Leaves {
			return wrong("UDP: %s", x.end)
		}
		return true, ""
	})
}
