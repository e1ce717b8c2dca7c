// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
)

// widest is a pod that sets all that it can, one that includes ports, and their IPv6 refused.
func widest() (all []Intent) {
	ranges := []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	in := Intent{UID: 5678, DNSCapture: true, DNSPort: 15053, DropInvalid: true,
		Inbound:  Direction{Enabled: true, Port: 15006, Exclude: rules.ManyPorts(), RangeExclude: ranges},
		Outbound: Direction{Enabled: true, Port: 15001, Exclude: rules.ManyPorts(), RangeExclude: ranges},
		Users: []User{{Protocol: rules.TCP, Ports: []rules.PortRange{{First: 22, Last: 22}}, First: 1, Last: 5},
			{Protocol: rules.UDP, Ports: []rules.PortRange{{First: 53, Last: 53}, {First: 100, Last: 110}}, First: 7, Last: 7}},
		Networks: []Network{{"docker0", netip.MustParsePrefix("172.17.0.0/16")}, {"docker+", netip.MustParsePrefix("fd17::/16")}}}
	included := in
	included.Inbound.Include, included.Outbound.Include = rules.ManyPorts(), rules.ManyPorts()
	for _, intent := range []Intent{in, included} {
		for _, only4 := range []bool{false, true} {
			intent.IPv4Only, intent.WithoutIPv6 = only4, rules.IPv6Block
			all = append(all, intent)
		}
	}
	return all
}
