// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// By its effect, a mutant is another plan where some packet ends elsewhere, and the same where it is shown
// that none does. Of nine mutants one is asked; with MESHNETD_MUTANTS=all each is.
func TestEffectOfMutants(t *testing.T) {
	step := 9
	if os.Getenv("MESHNETD_MUTANTS") == "all" {
		step = 1
	}
	n, counts := 0, map[effect.Answer]int{}
	for _, s := range allSubjects(t) {
		worlds := worldsOf(t, s)
		for _, m := range Mutants(s.rules()) {
			if n++; n%step != 0 {
				continue
			}
			answer := judged(t, s, worlds, m)
			counts[answer]++
			equivalent := reason(s.rules(), m) != ""
			if equivalent && answer != effect.Equal || answer == effect.Equal && endsElsewhere(worlds, s.with(m.Rules)) {
				t.Errorf("%s %s: %s: %s, equivalent %t", s.name, s.family, m, answer, equivalent)
			}
		}
	}
	t.Logf("of %d mutants: %v", n, counts)
	if counts[effect.Less] < 3*n/step/10 || counts[effect.More] < n/step/10 || counts[effect.Equal] == 0 || counts[effect.CannotTell] > 0 {
		t.Errorf("of %d mutants: %v", n, counts)
	}
}

// endsElsewhere reports whether any witness ends elsewhere, whatever it leaves behind: a mark that no rule asks for is none.
func endsElsewhere(worlds []world, mutated rules.Plan) bool {
	return slices.ContainsFunc(worlds, func(w world) bool {
		tracer := effect.NewTracer(mutated, w.interfaces)
		for i, p := range w.packets {
			end, err := tracer.End(p)
			if err != nil || end.Kind != w.fates[i].end.Kind || end.Port != w.fates[i].end.Port {
				return true
			}
		}
		return false
	})
}

func worldsOf(t *testing.T, s subject) []world {
	t.Helper()
	worlds, _, err := s.worlds()
	if err != nil {
		t.Fatal(err)
	}
	return worlds
}

// judged returns how a mutant compares with the plan. Where a packet is shown, it must end elsewhere.
func judged(t *testing.T, s subject, worlds []world, m Mutant) (answer effect.Answer) {
	t.Helper()
	mutated := s.with(m.Rules)
	for _, w := range worlds {
		pod := effect.NewPod(w.interfaces)
		r := effect.Compare(pod, effect.OfPlan(pod, s.plan, s.family), effect.OfPlan(pod, mutated, s.family))
		answer = max(answer, r.Answer)
		before, after := effect.NewTracer(s.plan, w.interfaces), effect.NewTracer(mutated, w.interfaces)
		for _, d := range r.Differences {
			if d.Followed || d.Away {
				continue
			}
			was, err := before.Trace(d.Witness)
			if err != nil {
				t.Fatal(err)
			}
			if now, err := after.Trace(d.Witness); err == nil && was.End == now.End {
				t.Errorf("%s %s: %s: not so: %s\n%s", s.name, s.family, m, d, now)
			}
		}
	}
	return answer
}
