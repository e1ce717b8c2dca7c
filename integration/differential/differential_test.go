// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"math/rand/v2"
	"os"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// backends with the share of the packets or plans that each is given: programs take longer to write a plan.
var backends = []struct {
	name    string
	percent int
}{{backend.IPTables, 100}, {backend.NFTables, 100}, {"iptables-nft", 40}, {"iptables-legacy", 20}}

// Packets of every kind through random plans end in the kernel where the tracer says.
func TestRandomPlans(t *testing.T) {
	const perPlan = 60
	pairs, first := sample.Count(t, "MESHNETD_PAIRS", 2000), sample.Seed(t)
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			g := newGallery(t, labtest.Firewall(t, b.name))
			c := newCounts()
			for seed := first; c.sent < max(1, pairs*b.percent/100); seed++ {
				setting, packets := g.draw(rand.New(rand.NewPCG(seed, 0)), perPlan)
				shots, err := g.fire(t.Context(), setting.Plan, setting.Plan, packets)
				if err != nil {
					t.Fatalf("MESHNETD_SEED=%d: %v", seed, err)
				}
				for _, s := range shots {
					if !c.count(s) {
						f := g.shrink(t.Context(), failure{&setting, setting.Plan, s.packet, s})
						t.Fatalf("MESHNETD_SEED=%d: the tracer and the kernel differ:\n%s", seed, f)
					}
				}
			}
			t.Logf("MESHNETD_SEED=%d: %s", first, c)
		})
	}
}

// counts is what was sent and what was not.
type counts struct {
	sent   int
	ends   map[string]int
	cannot map[string]int
}

func newCounts() *counts { return &counts{ends: map[string]int{}, cannot: map[string]int{}} }

// count reports whether the tracer and the kernel agree about a packet.
func (c *counts) count(s *shot) bool {
	if s.cannot != "" {
		c.cannot[s.cannot]++
		return true
	}
	c.sent++
	c.ends[s.want.kind]++
	return s.got == s.want
}

func (c *counts) String() string {
	return fmt.Sprintf("%d packets ended where the tracer said: %v\nnot sent: %v", c.sent, c.ends, c.cannot)
}

// named is a plan with a name for messages.
type named struct {
	name string
	plan rules.Plan
}

// recordedPlans returns the different plans of the recorded pods, of all or of those with a name.
func recordedPlans(t *testing.T, names ...string) []named {
	t.Helper()
	var all []named
	seen := map[string]bool{}
	for _, c := range plans.Recorded(t) {
		plan := plans.Of(t, istio.Standard(), c.Pod())
		if !seen[plan.Key()] && (len(names) == 0 || slices.Contains(names, c.Name)) {
			seen[plan.Key()] = true
			all = append(all, named{c.Name, plan})
		}
	}
	return all
}

// drawnPlans returns plans of pods that say what no recorded one does.
func drawnPlans(n uint64) []named {
	var all []named
	for seed := range n {
		setting := generate.Draw(rand.New(rand.NewPCG(seed, 0)))
		all = append(all, named{fmt.Sprintf("drawn with seed %d", seed), setting.Plan})
	}
	return all
}

// tellAll finds out what tells the changes of plans.
func tellAll(t *testing.T, w *world, all []named) []subject {
	t.Helper()
	var subjects []subject
	for _, n := range all {
		var witnesses []rules.Packet
		for _, rs := range n.plan.Rulesets() {
			if !rs.Empty() {
				witnesses = append(witnesses, generate.Witnesses(rs, w.interfaces)...)
			}
		}
		s, err := w.tell(n.name, n.plan, witnesses)
		if err != nil {
			t.Fatal(err)
		}
		subjects = append(subjects, s)
	}
	return subjects
}

// Every rule of the plans of the recorded pods, and of others, is met by packets that would end elsewhere if the
// rule were not there, or if it asked for one thing less: they end where the tracer says. A backend has its
// share of the plans, with MESHNETD_EVERY_PAIR each; a short run has some plans.
func TestWitnesses(t *testing.T) {
	w := newWorld(t)
	recorded, drawn := tellAll(t, w, sample.Of(t, 2, recordedPlans(t))), tellAll(t, w, sample.Of(t, 1, drawnPlans(16)))
	score(t, "recorded", recorded)
	score(t, "drawn", drawn)
	all := slices.Concat(recorded, drawn)
	seed := sample.Seed(t)
	t.Logf("MESHNETD_SEED=%d", seed)
	random := rand.New(rand.NewPCG(seed, 0))
	for _, b := range backends {
		t.Run(b.name, func(t *testing.T) {
			g, c := newGallery(t, labtest.Firewall(t, b.name)), newCounts()
			for _, s := range all {
				if random.IntN(100) >= b.percent && os.Getenv("MESHNETD_EVERY_PAIR") == "" {
					continue
				}
				for packets := s.packets(); len(packets) > 0; {
					shots, err := g.fire(t.Context(), s.plan, s.plan, packets)
					if err != nil {
						t.Fatalf("%s: %v", s.name, err)
					}
					packets = nil
					for _, shot := range shots {
						if shot.cannot == sameSource {
							packets = append(packets, shot.packet) // next time
						} else if !c.count(shot) {
							f := g.shrink(t.Context(), failure{plan: s.plan, packet: shot.packet, shot: shot})
							t.Fatalf("%s: the tracer and the kernel differ:\n%s", s.name, f)
						}
					}
				}
			}
			t.Log(c)
			if len(c.cannot) > 0 {
				t.Error("these packets tell changes, and were not sent")
			}
		})
	}
}

// score prints how many changes are told. A rule that is left out is told by a packet that can be sent, or by
// none at all.
func score(t *testing.T, which string, all []subject) {
	t.Helper()
	var whole, parts struct{ told, untold, same int }
	for _, s := range all {
		for _, told := range s.told {
			if told.condition < 0 {
				whole.told++
			} else {
				parts.told++
			}
		}
		for i, c := range s.untold {
			if c.condition < 0 {
				whole.untold++
				t.Errorf("%s: %s: told only by packets that are not sent: %s", s.name, c, s.reasons[i])
			} else {
				parts.untold++
			}
		}
		for _, c := range s.same {
			if c.condition < 0 {
				whole.same++
			} else {
				parts.same++
			}
		}
	}
	t.Logf("%d %s plans. Of their rules, packets tell %d; %d make no difference to any packet.", len(all), which, whole.told, whole.same)
	t.Logf("Of the conditions of their rules, packets tell %d, and %d only by packets that are not sent; %d make no difference.",
		parts.told, parts.untold, parts.same)
	if whole.told == 0 || parts.told == 0 {
		t.Error("no change is told")
	}
}

// A rule that is missing in the kernel, or asks for one thing less there than it should, is noticed: by the
// packet that tells it. This is what makes the other tests worth something. A short run has some of the changes.
func TestChangesInTheKernelAreNoticed(t *testing.T) {
	subjects := tellAll(t, newWorld(t), recordedPlans(t, "dns", "dns_tproxy"))
	if len(subjects) != 2 {
		t.Fatalf("%d recorded pods have these names, want 2", len(subjects))
	}
	for _, b := range backends[:2] {
		t.Run(b.name, func(t *testing.T) {
			g := newGallery(t, labtest.Firewall(t, b.name))
			changes := 0
			for _, s := range subjects {
				for _, told := range sample.Of(t, 20, s.told) {
					if _, save := told.rule.Target.(rules.SaveMark); !recognized(told.plan) || save && told.condition >= 0 {
						continue // it would stay for ever; and what it saves, the answers save again
					}
					shots, err := g.fire(t.Context(), s.plan, told.plan, []rules.Packet{told.packet})
					if err != nil {
						t.Fatalf("%s: %v", told, err)
					}
					changes++
					if shot := shots[0]; shot.cannot != "" || shot.got == shot.want {
						t.Errorf("not noticed: %s\n%s%s %v", told, shot.path, shot.cannot, shot.got)
					}
				}
			}
			t.Logf("%d changes", changes)
		})
	}
}
