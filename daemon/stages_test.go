// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
)

// spent returns the times of an outcome by stage, in whole seconds, where there are any.
func spent(o Outcome) map[Stage]int {
	all := map[Stage]int{}
	for i, took := range o.Spent {
		if took > 0 {
			all[Stages[i]] = int(took / time.Second)
		}
	}
	return all
}

func TestTimeOfStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := begin(SandboxStarted, rules.Pod{})
		for _, stage := range []Stage{StageEnter, StageDecide, StageVerify, StageApply, StageVerify} {
			time.Sleep(time.Second)
			o.enter(stage)
		}
		time.Sleep(3 * time.Second)
		o.end()
		o.end() // nothing is counted twice
		want := map[Stage]int{StageDecide: 2, StageEnter: 1, StageVerify: 4, StageApply: 1}
		if diff := cmp.Diff(want, spent(o)); diff != "" || o.Took != 8*time.Second {
			t.Errorf("took %s, %s", o.Took, diff)
		}
		o.overdue()
		time.Sleep(time.Second)
		o.end()
		if diff := cmp.Diff(map[Stage]int{StageBudget: 9}, spent(o)); diff != "" {
			t.Errorf("what was not finished: %s", diff)
		}
	})
}

// Each stage's time is counted where it is spent, and together they are what the pod took.
func TestStagesOfTheFlow(t *testing.T) {
	const pause = 20 * time.Millisecond
	slow := firewall{
		apply:  func(context.Context) (bool, error) { time.Sleep(2 * pause); return true, nil },
		verify: func() ([]rules.Difference, error) { time.Sleep(pause); return nil, nil },
	}
	e, _ := newEnforcer(t, slow)
	pod := meshed(newNetNS(t))
	o := e.Enforce(t.Context(), SandboxStarted, pod)
	at := map[Stage]time.Duration{}
	var sum time.Duration
	for i, took := range o.Spent {
		at[Stages[i]] = took
		sum += took
	}
	if o.Result != Protected || at[StageApply] < 2*pause || at[StageVerify] < pause || at[StageEnter] <= 0 || at[StageDecide] <= 0 || at[StageBudget] != 0 || sum != o.Took {
		t.Errorf("%s took %s, %v", o.Result, o.Took, at)
	}
}

func TestStageOfWhatIsNotFinished(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	e, _ := newEnforcer(t, firewall{apply: func(context.Context) (bool, error) { <-release; return false, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	o := e.Enforce(ctx, SandboxStarted, meshed(newNetNS(t)))
	for i, took := range o.Spent {
		if (Stages[i] == StageBudget) != (took > 0) || (took > 0 && took != o.Took) {
			t.Errorf("%s of %s in %s", took, o.Took, Stages[i])
		}
	}
}

// What is found and then repaired is one piece of work: its time is counted once.
func TestFoundDriftHasNoTimes(t *testing.T) {
	o := begin(Audited, rules.Pod{})
	o.Spent[0] = time.Second
	if got := o.driftFound(lifecycle.EventDrift); got.Spent != [len(Stages)]time.Duration{} {
		t.Errorf("got %v", got.Spent)
	}
}

// A look at what was verified is time of that stage, whoever looks.
func TestStageOfALook(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	pod := meshed(newNetNS(t))
	pod.SandboxID = "a"
	if o := e.Enforce(t.Context(), SandboxStarted, pod); o.Result != Protected {
		t.Fatal(o.Err)
	}
	known, _ := e.Sandbox("a")
	auditor := e.lookAgain(t.Context(), begin(Audited, pod), known)
	auditor.end()
	for name, o := range map[string]Outcome{"gate": e.Validate(t.Context(), pod, rules.Container{Name: "app"}), "auditor": auditor} {
		if at := spent(o); o.Result != Protected || o.Stage != StageVerify || len(at) != 2 || o.Spent[slices.Index(Stages[:], StageVerify)] <= 0 {
			t.Errorf("%s: %s in %s, %v", name, o.Result, o.Stage, o.Spent)
		}
	}
}
