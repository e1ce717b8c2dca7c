// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// withLists is the plan of a dual-stack pod that excludes so many ranges of each family and ports each way.
func withLists(t testing.TB, n int) rules.Plan {
	t.Helper()
	var ranges, outbound, inbound []string
	for i := range n {
		ranges = append(ranges, fmt.Sprintf("10.%d.%d.0/25", i/250, i%250), fmt.Sprintf("fd00:%x::/33", 2*i+1))
		outbound = append(outbound, fmt.Sprint(20000+2*i))
		inbound = append(inbound, fmt.Sprint(30000+2*i))
	}
	defaults := istio.Standard()
	defaults.DualStack = true
	defaults.Budget = rules.Budget{Bytes: 1 << 20, Items: 1 << 14, Rules: 1 << 16}
	return plans.Of(t, defaults, rules.Pod{Name: "lists", IPs: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")},
		Annotations: map[string]string{"sidecar.istio.io/status": "{}",
			"traffic.sidecar.istio.io/excludeOutboundIPRanges": strings.Join(ranges, ","),
			"traffic.sidecar.istio.io/excludeOutboundPorts":    strings.Join(outbound, ","),
			"traffic.sidecar.istio.io/excludeInboundPorts":     strings.Join(inbound, ",")}})
}

func benchmarkPlans(b *testing.B, run func(b *testing.B, plan rules.Plan)) {
	b.Run("default", func(b *testing.B) { run(b, plans.DualStack(b)) })
	b.Run("1000", func(b *testing.B) { run(b, withLists(b, 1000)) })
}

// A plan is written into a namespace that holds none.
func BenchmarkNativeApply(b *testing.B) {
	benchmarkPlans(b, func(b *testing.B, plan rules.Plan) {
		s := newSandbox(b)
		b.ReportAllocs()
		for b.Loop() {
			if !s.native(b, plan) {
				b.Fatal("nothing was written")
			}
			b.StopTimer()
			s.native(b, plans.Nothing())
			b.StartTimer()
		}
	})
}

func BenchmarkNativeVerify(b *testing.B) {
	benchmarkPlans(b, func(b *testing.B, plan rules.Plan) {
		s := newSandbox(b)
		s.native(b, plan)
		b.ReportAllocs()
		for b.Loop() {
			if diffs, err := New(Native).Verify(b.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
				b.Fatal(diffs, err)
			}
		}
	})
}

func BenchmarkNativeCompile(b *testing.B) {
	benchmarkPlans(b, func(b *testing.B, plan rules.Plan) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := compile(plan); err != nil {
				b.Fatal(err)
			}
		}
	})
}
