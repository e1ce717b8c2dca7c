// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"math/rand/v2"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// What is said of damaged rules, compared with the plan, holds for packets in the kernel: by rules that are equal or take
// more, none goes around.
func TestDamagedPlans(t *testing.T) {
	const perPlan = 60
	pairs, first := sample.Count(t, "MESHNETD_DAMAGED", 2000), sample.Seed(t)
	g := newGallery(t, labtest.Firewall(t, backend.IPTables))
	c := newCounts()
	answers := map[effect.Answer]int{}
	refused, rounds := 0, 0
	for seed := first; c.sent < pairs; seed++ {
		random := rand.New(rand.NewPCG(seed, 0))
		setting, packets := g.draw(random, perPlan)
		other := setting.Plan
		said := map[rules.Family]effect.Answer{}
		for _, rs := range []*rules.Ruleset{&other.V4, &other.V6} {
			if rs.Empty() {
				continue
			}
			*rs = generate.Damaged(random, *rs)
			pod := effect.NewPod(g.interfaces)
			said[rs.Family] = effect.Compare(pod, effect.OfPlan(pod, setting.Plan, rs.Family), effect.OfPlan(pod, other, rs.Family)).Answer
			answers[said[rs.Family]]++
		}
		before, after := effect.NewTracer(setting.Plan, g.interfaces), effect.NewTracer(other, g.interfaces)
		packets = slices.DeleteFunc(packets, func(p rules.Packet) bool { // by rules that the kernel refuses
			_, err := after.Trace(p)
			return err != nil
		})
		rounds++
		g.flush(t)
		shots, err := g.fire(t.Context(), other, other, packets)
		if err != nil {
			if refused++; refused > 10 && refused > rounds/2 {
				t.Fatalf("MESHNETD_SEED=%d: too many of the damaged rules are refused: %v", seed, err)
			}
			continue
		}
		for _, s := range shots {
			was, err := before.Trace(s.packet)
			if err != nil {
				t.Fatal(err)
			}
			if s.got.kind == nobodys { // a damaged rule stops what follows: nothing gets anywhere by it
				s.cannot = nobodys
			}
			for why, other := range s.others() {
				if end, err := after.End(other); err != nil || end.Kind == rules.Dropped || end.Kind == rules.Refused {
					s.cannot = why
				}
			}
			s.got.connMark, s.want.connMark = 0, 0 // answers change it too, where a damaged rule saves the mark of each packet
			if answer := said[s.packet.Family()]; !c.count(s) || s.cannot == "" && !holds(answer, was.End, s) {
				t.Fatalf("MESHNETD_SEED=%d: %s, but the kernel does this by the damaged rules: %s\n%s%s", seed, answer, s.got, was, s.path)
			}
		}
	}
	t.Logf("MESHNETD_SEED=%d: %s\n%v, %d of %d refused by the kernel", first, c, answers, refused, rounds)
	if answers[effect.Less] == 0 || answers[effect.Equal]+answers[effect.More] == 0 {
		t.Errorf("too few of some kind: %v", answers)
	}
}

// flush empties the pod's tables: a damaged rule may be one that no plan's footprint has, and would stay for the next round.
func (g *gallery) flush(t *testing.T) {
	t.Helper()
	err := g.ns.Do(func() error {
		nft := exec.CommandContext(t.Context(), "nft", "-f", "-")
		nft.Stdin = strings.NewReader("flush ruleset\n" + table) // which is the world's own
		return nft.Run()
	})
	if err != nil {
		t.Fatalf("nft flush ruleset: %v", err)
	}
}

// holds reports whether what the kernel did with a packet is within what is said of the rules.
func holds(answer effect.Answer, planned rules.End, s *shot) bool {
	want := wanted(planned, s.way)
	elsewhere := s.got.kind != want.kind || s.got.listener != want.listener
	switch answer {
	case effect.Equal:
		return !elsewhere
	case effect.More:
		switch planned.Kind {
		case rules.Redirected, rules.TProxied:
			return !elsewhere || s.got.kind == dropped || s.got.kind == reset
		case rules.Dropped, rules.Refused:
			return s.got.kind != left
		case rules.Delivered, rules.Leaves:
		}
	case effect.LessWhileAway, effect.CannotTell, effect.Less:
	}
	return true
}
