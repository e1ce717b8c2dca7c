// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"maps"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Settings that no list of cases thinks of: any random plan over any other gives exactly the other, and
// nothing is left when it is removed. A failure names its seed.
func TestRandomPlansOverEachOther(t *testing.T) {
	ours := istio.New(istio.Defaults{}).Footprint()
	const walks, steps = 100, 12
	for _, seed := range sample.Seeds(t, 20, walks) {
		random := rand.New(rand.NewPCG(seed, 0))
		kernels := []*kernel{newKernel(rules.IPv4), newKernel(rules.IPv6)}
		for step := range steps {
			pod, defaults := randomPod(random)
			for i, want := range planFor(t, defaults, pod).Rulesets() {
				k, fresh := kernels[i], newKernel(want.Family)
				k.apply(t, want, ours)
				k.holds(t, want, ours)
				fresh.apply(t, want, ours)
				wanted := sorted(fresh.lines())
				if diff := cmp.Diff(wanted, withoutIdle(sorted(k.lines()), wanted)); diff != "" {
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

// withoutIdle leaves out exceptions that may stay where the next plan differs in nothing else: only their
// place tells that they are ours, and they do nothing where no rule of nat follows.
func withoutIdle(lines, wanted []string) []string {
	count := map[string]int{}
	for _, line := range wanted {
		count[line]++
	}
	return slices.DeleteFunc(lines, func(line string) bool {
		idle := strings.HasPrefix(line, "nat PREROUTING -i ") && strings.HasSuffix(line, " -j RETURN")
		count[line]--
		return idle && count[line] < 0
	})
}

// randomPod draws each setting from values that have once made trouble, and from none.
func randomPod(random *rand.Rand) (rules.Pod, istio.Defaults) {
	annotations := map[string]string{"sidecar.istio.io/status": "{}"}
	settings := map[string][]string{
		"sidecar.istio.io/interceptionMode":                {"REDIRECT", "TPROXY"},
		"traffic.sidecar.istio.io/includeOutboundIPRanges": {"", "*", "10.0.0.0/8", "fd00::/8,10.0.0.0/8,10.0.0.0/8", "0.0.0.0/0", "127.0.0.0/8"},
		"traffic.sidecar.istio.io/excludeOutboundIPRanges": {"", "10.1.2.3/16", "::/0"},
		"traffic.sidecar.istio.io/includeInboundPorts":     {"", "*", "80", "80,80"},
		"traffic.sidecar.istio.io/excludeInboundPorts":     {"", "22, 23"},
		"traffic.sidecar.istio.io/includeOutboundPorts":    {"", "80,80"},
		"traffic.sidecar.istio.io/excludeOutboundPorts":    {"", "25"},
		"traffic.sidecar.istio.io/excludeInterfaces":       {"", "net1", "net1,net1", "net1,k6t0"},
		"istio.io/reroute-virtual-interfaces":              {"", "k6t0", "k6t0,net1", "k6t0,k6t0"},
	}
	for _, key := range slices.Sorted(maps.Keys(settings)) { // a map's own order would spoil the seed
		values := settings[key]
		if i := random.IntN(len(values) + 1); i < len(values) {
			annotations[key] = values[i]
		}
	}
	defaults := istio.Standard()
	flip := func() bool { return random.IntN(2) == 0 }
	defaults.DNSCapture, defaults.DualStack, defaults.InvalidDrop = flip(), flip(), flip()
	defaults.WithoutIPv6 = []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block}[random.IntN(3)]
	return rules.Pod{Annotations: annotations,
		IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}}, defaults
}
