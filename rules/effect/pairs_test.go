// SPDX-License-Identifier: Apache-2.0

package effect_test

import (
	"math/rand/v2"
	"testing"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Of no damaged plan that is said to be equal or to take more does any packet go around, and each witness is as it is
// said.
func TestPairs(t *testing.T) {
	random := rand.New(rand.NewPCG(3, uint64(draws(t, 4))))
	counts := map[effect.Answer]int{}
	replayed := 0
	total := draws(t, 60)
	for i := range total {
		s := generate.Draw(random)
		other := s.Plan
		family, rs, damage := rules.IPv4, s.Plan.V4, &other.V4
		if rs.Empty() || !s.Plan.V6.Empty() && random.IntN(2) == 0 {
			family, rs, damage = rules.IPv6, s.Plan.V6, &other.V6
		}
		if rs.Empty() {
			continue
		}
		*damage = generate.Damaged(random, rs)
		pod := effect.NewPod(s.Interfaces)
		r := effect.Compare(pod, effect.OfPlan(pod, s.Plan, family), effect.OfPlan(pod, other, family))
		counts[r.Answer]++
		for _, d := range r.Differences {
			if d.Followed || d.Away {
				continue
			}
			was, err := effect.Trace(s.Plan, d.Witness, s.Interfaces)
			now, err2 := effect.Trace(other, d.Witness, s.Interfaces)
			if err == nil && err2 == nil && was.End == now.End {
				t.Fatalf("not so: %s\n%s%s", d, was, now)
			}
			replayed++
		}
		before, after := effect.NewTracer(s.Plan, s.Interfaces), effect.NewTracer(other, s.Interfaces)
		var all []rules.Packet
		if i%8 == 0 { // they take long to find
			all = append(generate.Witnesses(rs, s.Interfaces), generate.Witnesses(*damage, s.Interfaces)...)
		}
		for range 300 {
			p := s.Packet(random)
			if k := random.IntN(len(all) + 1); k < len(all) {
				p = all[k]
			}
			if p.Family() == family {
				holdsFor(t, p, before, after, r.Answer)
			}
		}
	}
	if counts[effect.CannotTell] > total/100 {
		t.Errorf("of %d pairs in which nothing is unknown, %d cannot be told", total, counts[effect.CannotTell])
	}
	if counts[effect.Equal] == 0 || counts[effect.More] == 0 || counts[effect.Less] < total/10 || replayed < total/2 {
		t.Errorf("too few of some kind: %v, %d witnesses", counts, replayed)
	}
}

// holdsFor fails where a packet shows that an answer is wrong.
func holdsFor(t *testing.T, p rules.Packet, before, after *effect.Tracer, answer effect.Answer) {
	t.Helper()
	was, err := before.End(p)
	now, err2 := after.End(p)
	if err != nil || err2 != nil {
		return
	}
	wanted := was.Kind != rules.Leaves && was.Kind != rules.Delivered
	around := now.Kind == rules.Leaves || now.Kind == rules.Delivered
	if wanted && around && answer != effect.Less || answer == effect.Equal && (was.Kind != now.Kind || was.Port != now.Port) {
		t.Fatalf("%s, but %s: %s, and then %s", answer, p, was, now)
	}
}
