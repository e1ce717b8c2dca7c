// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"math/rand/v2"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// A packet of a drawn pod, and what each drawn pod leaves out.
func BenchmarkDrawn(b *testing.B) {
	random := rand.New(rand.NewPCG(1, 7))
	type question struct {
		generate.Setting
		tracer  *effect.Tracer
		packets []rules.Packet
	}
	all := make([]question, 50)
	for i := range all {
		s := generate.Draw(random)
		q := question{Setting: s, tracer: effect.NewTracer(s.Plan, s.Interfaces)}
		for range 40 {
			q.packets = append(q.packets, s.Packet(random))
		}
		all[i] = q
	}
	b.Run("trace", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			q := &all[i%len(all)]
			_, _ = q.tracer.End(q.packets[i/len(all)%len(q.packets)])
		}
	})
	b.Run("gaps", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			q := &all[i%len(all)]
			gaps.Of(q.Plan, q.Interfaces, rules.Proxy{UID: q.Intent.UID, GID: q.Intent.GID})
		}
	})
}
