// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Settings that no list of cases thinks of: any random plan over any other gives exactly the other, and
// nothing is left when it is removed. The seed of a failure is in its name.
func TestRandomPlansOverEachOther(t *testing.T) {
	ours := istio.Mesh{}.Footprint()
	const walks, steps = 60, 12
	for seed := range uint64(walks) {
		random := rand.New(rand.NewPCG(seed, 0))
		kernels := []*kernel{newKernel(rules.IPv4), newKernel(rules.IPv6)}
		for step := range steps {
			pod, defaults := randomPod(random)
			for i, want := range planFor(t, defaults, pod).Rulesets() {
				k, fresh := kernels[i], newKernel(want.Family)
				k.apply(t, want, ours)
				k.holds(t, want, ours)
				fresh.apply(t, want, ours)
				if diff := cmp.Diff(sorted(fresh.lines()), sorted(k.lines())); diff != "" {
					t.Fatalf("seed %d, step %d: %v: not what an empty namespace gets (-want +got):\n%s", seed, step, pod.Annotations, diff)
				}
			}
		}
		for _, k := range kernels {
			k.apply(t, rules.Ruleset{}, ours)
			if left := k.lines(); len(left) > 0 {
				t.Fatalf("seed %d: left behind:\n%s", seed, strings.Join(left, "\n"))
			}
		}
	}
}

// randomPod draws each setting from values that have once made trouble, and from none.
func randomPod(random *rand.Rand) (rules.Pod, istio.Defaults) {
	annotations := map[string]string{"sidecar.istio.io/status": "{}"}
	for key, values := range map[string][]string{
		"sidecar.istio.io/interceptionMode":                {"REDIRECT", "TPROXY"},
		"traffic.sidecar.istio.io/includeOutboundIPRanges": {"", "*", "10.0.0.0/8", "fd00::/8,10.0.0.0/8,10.0.0.0/8", "0.0.0.0/0", "127.0.0.0/8"},
		"traffic.sidecar.istio.io/excludeOutboundIPRanges": {"", "10.1.2.3/16", "::/0"},
		"traffic.sidecar.istio.io/includeInboundPorts":     {"", "*", "80", "80,80"},
		"traffic.sidecar.istio.io/excludeInboundPorts":     {"", "22, 23"},
		"traffic.sidecar.istio.io/includeOutboundPorts":    {"", "80,80"},
		"traffic.sidecar.istio.io/excludeOutboundPorts":    {"", "25"},
		"traffic.sidecar.istio.io/excludeInterfaces":       {"", "net1", "net1,net1", "net1,k6t0"},
		"istio.io/reroute-virtual-interfaces":              {"", "k6t0", "k6t0,net1", "k6t0,k6t0"},
	} {
		if i := random.IntN(len(values) + 1); i < len(values) {
			annotations[key] = values[i]
		}
	}
	defaults := istio.Standard()
	flip := func() bool { return random.IntN(2) == 0 }
	defaults.DNSCapture, defaults.DualStack, defaults.InvalidDrop = flip(), flip(), flip()
	defaults.IPv6 = []istio.IPv6{istio.IPv6Mesh, istio.IPv6Capture, istio.IPv6Block}[random.IntN(3)]
	return rules.Pod{Annotations: annotations,
		IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}}, defaults
}
