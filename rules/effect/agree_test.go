// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// draws is how many settings a test draws.
func draws(t testing.TB, usual int) int { return sample.Count(t, "MESHNETD_DRAWS", usual) }

func traced(e rules.End) string {
	if e.Kind == rules.Dropped || e.Kind == rules.Refused {
		return fmt.Sprintln(e.Kind)
	}
	return fmt.Sprintln(e.Kind, e.Port, netip.AddrPortFrom(e.To.Addr().WithZone(""), e.To.Port()), e.Zone, e.ConnMark)
}

// Every packet that can be traced is in one end of the walk of all packets, and ends there when it goes alone.
func TestAsTraced(t *testing.T) {
	random := rand.New(rand.NewPCG(1, 2))
	packets := 0
	total := draws(t, 20)
	for range total {
		s := generate.Draw(random)
		if random.IntN(8) == 0 {
			s.Plan.Routes = nil
		}
		tracer := effect.NewTracer(s.Plan, s.Interfaces)
		for _, rs := range s.Plan.Rulesets() {
			pod := effect.NewPod(s.Interfaces)
			side := effect.OfPlan(pod, s.Plan, rs.Family)
			all, ok := effect.Ends(pod, side)
			if !ok {
				t.Fatal("too much to walk through")
			}
			var sent []rules.Packet
			for range 100 {
				sent = append(sent, s.Packet(random))
			}
			if witnesses := generate.Witnesses(rs, s.Interfaces); len(witnesses) > 0 {
				for range 600 {
					sent = append(sent, witnesses[random.IntN(len(witnesses))])
				}
			}
			for _, p := range sent {
				path, err := tracer.Trace(p)
				if p.Family() != rs.Family || err != nil || p.Direction == rules.Outbound && p.Out == "" {
					continue
				}
				packets++
				var in []effect.End
				for _, f := range all {
					if f.Has(pod, p) {
						in = append(in, f)
					}
				}
				if len(in) != 1 {
					t.Fatalf("%s is in %d ends\n%s", p, len(in), path)
				}
				if got, want := in[0].Of(pod, p), traced(path.End); got != want {
					t.Fatalf("got %s, want %s\n%s", got, want, path)
				}
			}
		}
	}
	if packets < 500*total {
		t.Errorf("only %d packets were asked about", packets)
	}
}
