// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"math/rand/v2"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Applying one plan and then another is applying the other: every packet ends where the later plan alone
// says. Rules of the earlier one may stay where they do nothing.
func TestInvariantLaterPlanDecidesAlone(t *testing.T) {
	t.Parallel()
	ours := istio.New(istio.Defaults{}).Footprint()
	const walks, steps, packets = 150, 8, 40
	for _, seed := range sample.Seeds(t, 30, walks) {
		random := rand.New(rand.NewPCG(seed, 11))
		kernels := []*kernel{newKernel(rules.IPv4), newKernel(rules.IPv6)}
		for step := range steps {
			s := generate.Draw(random)
			applied := s.Plan
			for i, want := range s.Plan.Rulesets() {
				kernels[i].apply(t, want, ours)
			}
			applied.V4, applied.V6 = kernels[0].state(t), kernels[1].state(t)
			before, later := effect.NewTracer(s.Plan, s.Interfaces), effect.NewTracer(applied, s.Interfaces)
			for range packets {
				p := s.Packet(random)
				alone, err := before.End(p)
				if err != nil {
					t.Fatal(err)
				}
				after, err := later.End(p)
				if err != nil || after != alone {
					t.Fatalf("seed %d, step %d: %s: %v\nthe plan alone: %s\nafter others: %s", seed, step, p, err, alone, after)
				}
			}
			if t.Failed() {
				t.Fatalf("seed %d, step %d: %v", seed, step, s.Pod.Annotations)
			}
		}
	}
}
