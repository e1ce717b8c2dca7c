// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// widest is a pod that sets all that it can, one of which only some ports are redirected, and their IPv6 refused.
func widest() (all []Intent) {
	ports := []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}}
	in := Intent{InboundPort: 4143, OutboundPort: 4140, ControlPort: 4190, AdminPort: 4191, UID: 2102, GID: 2102, SkipInbound: ports, SkipOutbound: ports,
		SkipSources: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}}
	some := in
	some.RedirectPorts = []uint16{80, 443}
	for _, intent := range []Intent{in, some} {
		for _, speaksIPv6 := range []bool{true, false} {
			intent.ProxyIPv6, intent.WithoutIPv6 = speaksIPv6, rules.IPv6Block
			all = append(all, intent)
		}
	}
	return all
}
