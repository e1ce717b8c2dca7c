// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// house is a pod with both families on eth0, IPv4 on net1, and an app and a proxy that listen.
func house(t *testing.T) scene {
	t.Helper()
	prefixes := map[string][]netip.Prefix{
		"lo":   {netip.MustParsePrefix("127.0.0.1/8"), netip.MustParsePrefix("::1/128"), netip.MustParsePrefix("::6/128")},
		"eth0": {netip.MustParsePrefix("10.9.0.1/32"), netip.MustParsePrefix("fe80::1/64"), netip.MustParsePrefix("fd09::1/64")},
		"net1": {netip.MustParsePrefix("192.0.2.9/24")},
	}
	s := scene{links: map[string]link{}, listeners: []listener{
		{at: netip.MustParseAddrPort("0.0.0.0:8080")}, {at: netip.MustParseAddrPort("[::]:62000")}, {at: netip.MustParseAddrPort("127.0.0.1:15000")}}}
	for i, name := range []string{"lo", "eth0", "net1"} {
		s.links[name] = link{index: i + 1, mac: []byte{2, 0, 0, 0, 0, byte(i)}, prefixes: prefixes[name]}
		s.interfaces = append(s.interfaces, rules.Interface{Name: name, Addresses: addresses(prefixes[name])})
	}
	s.route = func(to netip.Addr) (way, error) {
		switch {
		case s.local(to):
			return way{loopback, to, true}, nil
		case to.Is6():
			return way{"eth0", netip.MustParseAddr("fd09::1"), false}, nil
		case netip.MustParsePrefix("10.8.0.0/16").Contains(to):
			return way{}, errors.New("the pod has no route to it")
		case netip.MustParsePrefix("192.0.2.0/24").Contains(to):
			return way{"net1", netip.MustParseAddr("192.0.2.9"), false}, nil
		}
		return way{"eth0", netip.MustParseAddr("10.9.0.1"), false}, nil
	}
	return s
}

func planFor(t *testing.T, dns bool, annotations ...string) rules.Plan {
	t.Helper()
	defaults := istio.Standard()
	defaults.DualStack, defaults.DNSCapture = true, dns
	pod := rules.Pod{Namespace: "default", Name: "web", Annotations: map[string]string{"sidecar.istio.io/status": "{}"},
		IPs: []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}}
	for i := 0; i+1 < len(annotations); i += 2 {
		pod.Annotations[annotations[i]] = annotations[i+1]
	}
	return plans.Of(t, defaults, pod)
}

func TestProbes(t *testing.T) {
	for name, plan := range map[string]rules.Plan{
		"default": planFor(t, false),
		"everything": planFor(t, true, "sidecar.istio.io/interceptionMode", "TPROXY", "traffic.sidecar.istio.io/excludeInterfaces", "net1,net2",
			"traffic.sidecar.istio.io/excludeOutboundIPRanges", "10.8.0.0/16,10.7.0.0/16,198.51.100.1/32,fd08::/64,10.9.0.1/32",
			"traffic.sidecar.istio.io/excludeOutboundPorts", "19091", "traffic.sidecar.istio.io/excludeInboundPorts", "18082"),
	} {
		t.Run(name, func(t *testing.T) {
			var out strings.Builder
			for _, p := range probes(plan, house(t)) {
				if p.err != nil {
					fmt.Fprintf(&out, "%s: %v\n", p.about, p.err)
					continue
				}
				path, err := effect.Trace(plan, p.packet, house(t).interfaces)
				if err != nil {
					t.Errorf("%s: %v", p.packet, err)
				}
				fmt.Fprintf(&out, "%s: %s: %s\n", p.about, p.packet, path.End)
			}
			golden.Check(t, "probes-"+name+".golden", out.String())
		})
	}
}

// Nothing is sent for a family without rules, and nothing at all for a pod without any.
func TestNoProbes(t *testing.T) {
	if got := probes(plans.Nothing(), house(t)); len(got) > 0 {
		t.Errorf("sends %v", got)
	}
	plan := planFor(t, false)
	plan.V4 = rules.Ruleset{}
	for _, p := range probes(plan, house(t)) {
		if p.err == nil && p.packet.Family() == rules.IPv4 {
			t.Errorf("sends %s", p.packet)
		}
	}
}

// A pod that cannot reach anybody says so once for each owner, and is still tried over loopback.
func TestProbesWithoutARoute(t *testing.T) {
	s := house(t)
	s.route = func(netip.Addr) (way, error) { return way{}, errors.New("the pod has no route to it") }
	said := map[string]int{}
	sent := 0
	for _, p := range probes(planFor(t, false), s) {
		if p.err != nil {
			said[p.about]++
		} else {
			sent++
		}
	}
	if said["the app, out of the pod"] != 2 || said["user 1337, out of the pod"] != 2 || sent == 0 {
		t.Errorf("says %v, sends %d", said, sent)
	}
}

// To an address that is not in use yet nothing is sent, and that is said; the rest is.
func TestProbesBeforeAnAddressIsInUse(t *testing.T) {
	s := house(t)
	route, late := s.route, netip.MustParseAddr("fd09::1")
	s.route = func(to netip.Addr) (way, error) {
		if to == late {
			return way{"eth0", late, false}, nil
		}
		return route(to)
	}
	said := map[string]bool{}
	for _, p := range probes(planFor(t, false), s) {
		if p.err == nil && p.packet.Destination.Addr() == late {
			t.Errorf("sends %s", p.packet)
		}
		if p.err != nil && strings.Contains(p.err.Error(), "does not use the pod's address fd09::1 yet") {
			said[p.about] = true
		}
	}
	if !said["to the pod's own address"] || !said["into the pod by eth0"] {
		t.Errorf("says it of %v", said)
	}
}

func TestWithin(t *testing.T) {
	for prefix, want := range map[string]string{"10.8.0.0/16": "10.8.0.1", "10.8.0.7/32": "10.8.0.7", "10.8.0.6/31": "10.8.0.6",
		"fd08::/64": "fd08::1", "10.8.3.4/16": "10.8.0.1"} {
		if got := within(netip.MustParsePrefix(prefix)); got.String() != want {
			t.Errorf("%s: %s, want %s", prefix, got, want)
		}
	}
}
