// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

const (
	aroundLL = `IPv6 goes around the mesh: the pod has fe80::1, the proxy speaks only IPv4 (ISTIO_DUAL_STACK is not set); ipv6 = "capture" or "block" in the configuration changes that`
	around   = `IPv6 goes around the mesh: the pod has fd00:10:244::7, the proxy speaks only IPv4 (ISTIO_DUAL_STACK is not set); ipv6 = "capture" or "block" in the configuration changes that`
	captured = `IPv6 is captured although the proxy speaks only IPv4 (ISTIO_DUAL_STACK is not set): connections over IPv6 reach a listener only if the proxy has one`
	blocked  = `IPv6 is refused: the proxy speaks only IPv4 (ISTIO_DUAL_STACK is not set)`
	unknown  = `the pod's addresses are not known yet: this is the plan for an IPv4 address`
)

// kind names a rule set by what it does.
func kind(t *testing.T, rs rules.Ruleset) string {
	t.Helper()
	_, redirects := rs.Table("nat").Chain("ISTIO_REDIRECT")
	_, resets := rs.Table("filter").Chain("MESHNETD_IPV6_OUT")
	switch {
	case rs.Empty():
		return "none"
	case redirects && !resets:
		return "redirect"
	case resets && !redirects:
		return "block"
	}
	t.Fatalf("neither one nor the other:\n%s", rs)
	return ""
}

func TestIPv6(t *testing.T) {
	for _, tt := range []struct {
		name      string
		ips       []netip.Addr
		dualStack bool
		ipv6      rules.WithoutIPv6
		want6     string
		note      string
	}{
		{"v4", only4, false, rules.IPv6Mesh, "none", ""},
		{"v4", only4, false, rules.IPv6Capture, "redirect", captured},
		{"v4", only4, false, rules.IPv6Block, "block", blocked},
		{"v4", only4, true, rules.IPv6Mesh, "redirect", ""},
		{"v4", only4, true, rules.IPv6Capture, "redirect", ""},
		{"v4", only4, true, rules.IPv6Block, "redirect", ""},
		{"v6", only6, false, rules.IPv6Mesh, "redirect", ""},
		{"v6", only6, false, rules.IPv6Capture, "redirect", ""},
		{"v6", only6, false, rules.IPv6Block, "redirect", ""},
		{"v6", only6, true, rules.IPv6Mesh, "redirect", ""},
		{"v6", only6, true, rules.IPv6Capture, "redirect", ""},
		{"v6", only6, true, rules.IPv6Block, "redirect", ""},
		{"v4+v6", first4, false, rules.IPv6Mesh, "none", around},
		{"v4+v6", first4, false, rules.IPv6Capture, "redirect", captured},
		{"v4+v6", first4, false, rules.IPv6Block, "block", blocked},
		{"v4+v6", first4, true, rules.IPv6Mesh, "redirect", ""},
		{"v4+v6", first4, true, rules.IPv6Capture, "redirect", ""},
		{"v4+v6", first4, true, rules.IPv6Block, "redirect", ""},
		// The kernel lists IPv4 first, whatever a manifest says.
		{"v6+v4", first6, false, rules.IPv6Mesh, "none", around},
		{"v6+v4", first6, false, rules.IPv6Capture, "redirect", captured},
		{"v6+v4", first6, false, rules.IPv6Block, "block", blocked},
		{"v6+v4", first6, true, rules.IPv6Mesh, "redirect", ""},
		{"v6+v4", first6, true, rules.IPv6Capture, "redirect", ""},
		{"v6+v4", first6, true, rules.IPv6Block, "redirect", ""},

		{"unknown", nil, false, rules.IPv6Mesh, "none", unknown},
		{"unknown", nil, true, rules.IPv6Mesh, "redirect", unknown},
		{"link-local first", addrs("fe80::1%eth0", "::1", "127.0.0.1", "10.244.1.7"), true, rules.IPv6Block, "redirect", ""},
		{"link-local", addrs("10.244.1.7", "fe80::1%eth0"), false, rules.IPv6Mesh, "none", aroundLL},
		{"link-local", addrs("10.244.1.7", "fe80::1%eth0"), false, rules.IPv6Block, "block", blocked},
		{"mapped", addrs("::ffff:10.244.1.7"), false, rules.IPv6Block, "block", blocked},
		{"mapped, then v6", addrs("::ffff:10.244.1.7", "fd00:10:244::7"), false, rules.IPv6Block, "block", blocked},
		{"link-local v4 first", addrs("169.254.1.1", "fd00:10:244::7"), false, rules.IPv6Block, "redirect", ""},
		{"v4 twice, then v6", addrs("10.0.0.1", "10.0.0.2", "fd00:10:244::7"), false, rules.IPv6Mesh, "none", around},
	} {
		name := tt.name + " " + string(tt.ipv6)
		if tt.dualStack {
			name += " dual-stack proxy"
		}
		t.Run(name, func(t *testing.T) {
			d := istio.Standard()
			d.WithoutIPv6, d.DualStack = tt.ipv6, tt.dualStack
			plan := planOf(t, istio.New(d), injected(mode, "TPROXY"), tt.ips)
			if got := kind(t, plan.V4); got != "redirect" {
				t.Errorf("IPv4: %s, but it is redirected in every pod", got)
			}
			if got := kind(t, plan.V6); got != tt.want6 {
				t.Errorf("IPv6: %s, want %s", got, tt.want6)
			}
			var notes []string
			if tt.note != "" {
				notes = []string{tt.note}
			}
			want := map[string]rules.WithoutIPv6{around: rules.IPv6Mesh, aroundLL: rules.IPv6Mesh, captured: rules.IPv6Capture, blocked: rules.IPv6Block}[tt.note]
			if plan.WithoutIPv6 != want {
				t.Errorf("IPv6 that the proxy does not speak: %q, want %q", plan.WithoutIPv6, want)
			}
			if diff := cmp.Diff(notes, plan.Notes, compare); diff != "" {
				t.Errorf("notes (-want +got):\n%s", diff)
			}
			routes := []rules.PolicyRoute{{Family: rules.IPv4, Mark: 1337, Table: 133}}
			var lo []netip.Prefix
			if tt.want6 == "redirect" {
				routes = append(routes, rules.PolicyRoute{Family: rules.IPv6, Mark: 1337, Table: 133})
				lo = prefixes("::6/128")
			}
			if diff := cmp.Diff(routes, plan.Routes); diff != "" {
				t.Errorf("routes (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(lo, plan.Loopback, compare); diff != "" {
				t.Errorf("addresses on lo (-want +got):\n%s", diff)
			}
		})
	}
}

// A namespace without an address that others can reach has not been finished by the CNI plugins.
func TestNoAddress(t *testing.T) {
	for name, ips := range map[string][]netip.Addr{
		"none": {}, "loopback": addrs("127.0.0.1", "::1"), "link-local": addrs("169.254.3.4", "fe80::1%eth0"),
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := mesh.Decide(injected()).Planner(rules.Network{Addresses: ips})
			if err == nil || !strings.HasPrefix(err.Error(), "pod addresses: ") ||
				!strings.HasSuffix(err.Error(), "no address that others can reach: did the CNI plugins finish?") {
				t.Errorf("got %v", err)
			}
			if plan.Rules() != 0 || plan.Notes != nil {
				t.Errorf("half a plan besides the error: %+v", plan)
			}
		})
	}
}

// A planner is asked more than once, with other addresses: one answer must not show in the next.
func TestPlannerKeepsNothing(t *testing.T) {
	d := istio.New(istio.Standard()).Decide(withProxy(injected(excludeInterfaces, "net1"), "INVALID_DROP", "x"))
	first, err := d.Planner(rules.Network{Addresses: first4})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := d.Planner(rules.Network{Addresses: only6}); err != nil {
		t.Fatal(err)
	}
	again, err := d.Planner(rules.Network{Addresses: first4})
	if err != nil {
		t.Fatal(err)
	}
	if first.V4.String() != again.V4.String() || !cmp.Equal(first.Notes, again.Notes) {
		t.Errorf("first %q\nagain %q", first.Notes, again.Notes)
	}
}

// TPROXY needs its route only where something inbound is captured.
func TestRoutes(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  rules.Pod
		want int
	}{
		{"redirect", injected(), 0},
		{"tproxy", injected(mode, "TPROXY"), 1},
		{"tproxy of a list", injected(mode, "TPROXY", inboundPorts, "80"), 1},
		{"tproxy of nothing", injected(mode, "TPROXY", inboundPorts, ""), 0},
	} {
		if got := len(planOf(t, mesh, tt.pod, only4).Routes); got != tt.want {
			t.Errorf("%s: %d routes, want %d", tt.name, got, tt.want)
		}
	}
}

func TestBlockGolden(t *testing.T) {
	for _, tt := range []struct {
		name string
		pod  rules.Pod
	}{
		{"default", injected()},
		{"lists", injected(inboundPorts, "8080,9090", inboundExcluded, "22", outboundRanges, "10.0.0.0/8,fd00:10:96::/112",
			outboundExcluded, "10.1.0.0/16,fd00:10:96::a/128", outboundPorts, "443", outboundNotPorts, "25", excludeInterfaces, "net1,net2")},
		{"nothing", injected(inboundPorts, "", outboundRanges, "", outboundNotPorts, "")},
		{"lookups", withProxy(injected(excludeInterfaces, "net1", outboundNotPorts, "25", outboundRanges, "10.0.0.0/8"), "ISTIO_META_DNS_CAPTURE", "true")},
		{"excluded", injected(inboundExcluded, "22", outboundNotPorts, "25")},
		{"groups", withProxy(injected(), "ISTIO_OUTBOUND_OWNER_GROUPS", "7,8")},
		{"groups-excluded", users(injected(mode, "TPROXY"), 2102, 3102)},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := istio.Standard()
			d.WithoutIPv6 = rules.IPv6Block
			if tt.name == "groups-excluded" {
				d.OwnerGroupsExclude = []uint32{888}
			}
			plan := planOf(t, istio.New(d), tt.pod, first4)
			golden.Check(t, "block-"+tt.name+".golden", plan.V6.String())
			if len(plan.Loopback) > 0 {
				t.Errorf("addresses on lo: %v", plan.Loopback)
			}
			for _, r := range plan.Routes {
				if r.Family == rules.IPv6 {
					t.Errorf("route %+v", r)
				}
			}
		})
	}
}
