// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// widest is pods that set all that they can, in either mode, and one of whose rules refuse IPv6.
func widest() []Intent {
	d := Standard()
	in := Intent{OutboundPort: d.OutboundPort, InboundPort: d.InboundPort, TunnelPort: d.TunnelPort, DNSPort: d.DNSPort, UID: d.UID, GID: d.GID,
		InboundAll: true, InboundExclude: rules.ManyPorts(), OutboundAll: true, OutboundPortsExclude: rules.ManyPorts(),
		OutboundPorts:     rules.ManyPorts(),
		Outbound:          []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("fd00::/8"), netip.MustParsePrefix("2001:db8::/32")},
		OutboundExclude:   []netip.Prefix{netip.MustParsePrefix("172.16.0.0/12"), netip.MustParsePrefix("2001:db8:1::/48")},
		ExcludeInterfaces: []string{"net1"}, RerouteInterfaces: []string{"docker0"}, OwnerGroupsExclude: []uint32{1, 2},
		DNSCapture: true, DualStack: true, InvalidDrop: true, Loopback: d.Loopback}
	groups := in
	groups.OwnerGroups = []uint32{1, 2}
	tproxy := in
	tproxy.TProxy = true
	blocked := groups
	blocked.DualStack, blocked.WithoutIPv6 = false, rules.IPv6Block
	return []Intent{in, groups, tproxy, blocked}
}
