// SPDX-License-Identifier: Apache-2.0

//go:build linux

package sharing

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

func laborious(wishes int) outcome.Look {
	return outcome.Begin(lifecycle.SandboxStarted, rules.Pod{UID: "one", Namespace: "hostile", Annotations: map[string]string{"example.com/much": strings.Repeat("8080,", wishes)}})
}

func untouched(t *testing.T) func(context.Context, *outcome.Look) error {
	return func(context.Context, *outcome.Look) error {
		t.Error("looked at")
		return nil
	}
}

// To refuse a pod from memory costs little, whatever its inputs.
func TestARefusalFromMemoryIsCheap(t *testing.T) {
	s, o := New(), laborious(50_000)
	s.ledger.Overran("one", "hostile", s.inputHash(o.Pod), true, "it used up its time", time.Now())
	work := untouched(t)
	refuse := func() {
		if refused := s.Within(t.Context(), o, work); refused.Decision.Reason != rules.ReasonOverTime {
			t.Fatal(refused.Err)
		}
	}
	refuse() // what is made once does not count
	const times = 20
	bytes := heap.Allocated(func() {
		for range times {
			refuse()
		}
	}) / times
	if t.Logf("%d bytes allocated for wishes of %d", bytes, Weight(o.Pod)); bytes > 32<<10 {
		t.Error("too many")
	}
}

// Either the work records what came of it, and is heard, or nobody hears it, and it records nothing: what is remembered and
// what was said never differ.
func TestTheLastWord(t *testing.T) {
	for name, first := range map[string]bool{"the work has it": true, "whoever waits has it": false} {
		t.Run(name, func(t *testing.T) {
			s := New()
			ctx, cancel := context.WithCancel(t.Context())
			left, had := make(chan struct{}), make(chan bool, 1)
			o := s.Within(ctx, outcome.Begin(lifecycle.Audited, rules.Pod{UID: "one"}), func(_ context.Context, its *outcome.Look) error {
				if first {
					had <- its.Watch.LastWord()
					cancel()
				} else {
					cancel()
					<-left
					had <- its.Watch.LastWord()
				}
				its.Result = lifecycle.Protected
				return nil
			})
			close(left)
			if <-had != first {
				t.Errorf("the work's was the last word: %v", !first)
			}
			if heard := o.Result == lifecycle.Protected; heard != first {
				t.Errorf("it was heard: %v, as %s, %v", heard, o.Result, o.Err)
			}
		})
	}
}

// Where the work sees by itself that its time is up, and is first, the pod used it up all the same.
func TestWorkThatGivesUpUsedUpItsTime(t *testing.T) {
	for stage, blamed := range map[outcome.Stage]bool{outcome.StageDecide: true, outcome.StageEnter: false, outcome.StageApply: true, outcome.StageVerify: true} {
		s, o := New(), laborious(4<<10)
		ctx, cancel := context.WithDeadline(t.Context(), time.Now())
		o.Enter(stage)
		o.Result, o.Err = lifecycle.Failed, o.Step(ctx, outcome.StageVerify)
		o = s.ended(ctx, o)
		cancel()
		if o.Overrun != blamed || o.Stage != outcome.StageBudget {
			t.Errorf("in %s: blamed %v, in %s", stage, o.Overrun, o.Stage)
		}
		again := laborious(4 << 10)
		if refused := s.rejects(&again, time.Now()); refused != blamed {
			t.Errorf("in %s: the next try is refused: %v", stage, refused)
		}
	}
}
