// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/static"
)

// staticProfiles are profiles that use everything there is, in both modes.
func staticProfiles() []static.Profile {
	everything := static.Profile{Name: "everything", Labels: []static.Term{{Key: "proxy", Any: true}}, UID: 4000, GID: 4001, Proxies: []string{"proxy"},
		InboundPort: 16006, InboundExclude: []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}},
		OutboundPort: 16001, OutboundPortsExclude: []rules.PortRange{{First: 3306, Last: 3306}},
		OutboundExclude:   []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/48")},
		ExcludeInterfaces: []string{"docker0"}, ExemptUIDs: []uint32{5000}, DNSPort: 16053, ProxyIPv6: true, WithoutIPv6: rules.IPv6Mesh}
	tproxy := everything
	tproxy.Name, tproxy.TProxy = "tproxy", true
	included := everything
	included.Name, included.Inbound, included.OutboundPorts = "included", []rules.PortRange{{First: 80, Last: 80}}, []rules.PortRange{{First: 443, Last: 443}}
	included.Outbound = []netip.Prefix{netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	block := everything
	block.Name, block.ProxyIPv6, block.WithoutIPv6 = "block", false, rules.IPv6Block
	return []static.Profile{everything, tproxy, included, block}
}

// Each profile's plan, over each other, is what the kernel then holds, and does, whoever writes it; and nothing of it
// is left when the rules of every mesh are taken out.
func TestStaticPlansInTheKernel(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		firewall := labtest.Firewall(t, variant)
		pod := nstest.New(t)
		pod.Peer(t, "10.9.0.0/24", "fd09::/64")
		n := opened(t, pod)
		for _, p := range staticProfiles() {
			t.Run(p.Name, func(t *testing.T) {
				plan := meshtest.Plan(t, static.New(p), rules.Pod{Namespace: "shop", Name: "cart", Labels: map[string]string{"proxy": "on"},
					IPs: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}})
				hold(t, firewall, variant, pod, plan)
				if len(plan.Routes) > 0 {
					return // what TPROXY does to packets needs its routes, which the daemon writes
				}
				settled(t, n)
				checks, err := traffic.Run(t.Context(), n, plan)
				if err != nil {
					t.Fatal(err)
				}
				if counts := traffic.Counts(checks); counts[traffic.Right] < 20 {
					t.Errorf("too little was proved: %s", traffic.Summary(checks))
				}
				for _, c := range checks {
					if c.Verdict == traffic.Wrong {
						t.Error(c)
					}
				}
			})
		}
		all := rules.Union(static.New(static.Profile{}).Footprint(), meshPods()[0].mesh.Footprint())
		if _, err := firewall.Apply(t.Context(), n, rules.Plan{Footprint: all}); err != nil {
			t.Fatal(err)
		}
		if left := labtest.Shown(t, pod.Path, tools(variant)); len(left) > 0 {
			t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
		}
	})
}
