// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// widest is lookups of one address by DNAT to another port, those of all without one, and IPv6 refused.
func widest() []Intent {
	in := Intent{UID: 5995, InboundPort: 20000, OutboundPort: outboundPort, DNSAddress: netip.MustParseAddr("192.0.2.53"), DNSPort: 8600,
		InboundExclude: []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}}, OutboundExclude: []rules.PortRange{{First: 80, Last: 80}, {First: 6000, Last: 6010}},
		RangesExclude: []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}, UIDsExclude: []uint32{1, 2}}
	dual, blocked := in, in
	dual.DualStack, dual.DNSAddress = true, netip.MustParseAddr("2001:db8::53")
	blocked.WithoutIPv6, blocked.DNSPort = rules.IPv6Block, 0
	return []Intent{in, dual, blocked}
}
