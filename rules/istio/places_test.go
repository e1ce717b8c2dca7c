// SPDX-License-Identifier: Apache-2.0

package istio

import "github.com/meshnetd/meshnetd/rules"

// Place names what a packet comes to in the end.
type Place string

// Where a packet of a pod can end.
const (
	ProxyOutbound Place = "proxy outbound" // the proxy's listener for what the app sends
	ProxyInbound  Place = "proxy inbound"  // the proxy's listener for what the app is sent
	ProxyDNS      Place = "DNS proxy"      // the agent's listener for name lookups
	App           Place = "app"            // whoever listens in the pod at the address it was sent to
	Dropped       Place = "dropped"
	Reset         Place = "reset"
	NotCaptured   Place = "not captured" // leaves the pod
)

// Place tells what a packet's end is for a pod of this intent. A packet that is sent to a listener of the
// proxy by its own address and port ends there as well, whether a rule redirected it or not.
func (in Intent) Place(end rules.End) Place {
	switch end.Kind {
	case rules.Dropped:
		return Dropped
	case rules.Refused:
		return Reset
	case rules.Leaves:
		return NotCaptured
	case rules.Delivered, rules.Redirected, rules.TProxied:
	}
	switch end.Port {
	case in.OutboundPort:
		return ProxyOutbound
	case in.InboundPort:
		return ProxyInbound
	case in.DNSPort:
		return ProxyDNS
	}
	return App
}
