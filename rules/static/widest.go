// SPDX-License-Identifier: Apache-2.0

package static

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// widest is a profile that sets all that it can, in either mode, and its IPv6 refused. It is of any
// profile, since a reload may bring others.
func widest() []Profile {
	ports := []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}}
	p := Profile{UID: 1, GID: 2, InboundPort: 3, Inbound: ports, InboundExclude: ports, OutboundPort: 4, OutboundPorts: ports, OutboundPortsExclude: ports,
		Outbound:          []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		OutboundExclude:   []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")},
		ExcludeInterfaces: []string{"net1"}, ExemptUIDs: []uint32{5, 6}, DNSPort: 5, ProxyIPv6: true}
	everything, tproxy, blocked := p, p, p
	everything.Inbound, everything.Outbound, everything.OutboundPorts = nil, nil, nil
	tproxy.TProxy = true
	blocked.ProxyIPv6, blocked.WithoutIPv6 = false, rules.IPv6Block
	return []Profile{p, everything, tproxy, blocked}
}
