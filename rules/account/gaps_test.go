// SPDX-License-Identifier: Apache-2.0

package account_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// What a packet shows is not of anything that the settings name.
func TestPacketsAreOfNothingNamed(t *testing.T) {
	g := account.Gaps{UID: 1000, GID: 1002, IDs: []uint32{1001}, Ports: []rules.PortRange{{First: 8080, Last: 8081}},
		Ranges: []netip.Prefix{netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("192.0.2.0/24")}}
	sent := g.Sent(rules.IPv4, rules.TCP, g.Outside(rules.IPv4), g.FreePort(8082))
	if got, want := sent.String(), "tcp 192.0.2.2:40000 to 198.51.100.10:8083 of uid 1002 gid 1000"; got != want {
		t.Errorf("sends %s, want %s", got, want)
	}
	if got, want := g.Arrives(rules.IPv4, rules.TCP, g.Own(rules.IPv4), 80).Source.String(), "8.8.8.8:40000"; got != want {
		t.Errorf("arrives from %s, want %s", got, want)
	}
}

// A pod with an IPv6 address and no rules for it is told why, and what changes that.
func TestWithoutIPv6(t *testing.T) {
	pod := []rules.Interface{{Name: "eth0", Addresses: []netip.Addr{netip.MustParseAddr("fd00::7")}}}
	for want, say := range map[string]func(*account.Gaps){
		`speaks only IPv4 (a reason); ipv6 = "capture" or "block" in the configuration changes that`: func(g *account.Gaps) { g.WithoutIPv6("a reason") },
		"speaks only IPv4, in other words": func(g *account.Gaps) { g.OnlyIPv4(", in other words") },
	} {
		g := account.Gaps{Interfaces: pod}
		say(&g)
		if got := g.All()[0].What; !strings.HasSuffix(got, "the pod has fd00::7, and its proxy "+want) {
			t.Errorf("%q, want ... %q", got, want)
		}
	}
}
