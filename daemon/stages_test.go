// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// spent returns the times of an outcome by stage, in whole seconds, where there are any.
func spent(o outcome.Outcome) map[outcome.Stage]int {
	all := map[outcome.Stage]int{}
	for i, took := range o.Spent {
		if took > 0 {
			all[outcome.Stages[i]] = int(took / time.Second)
		}
	}
	return all
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
	o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod)
	at := map[outcome.Stage]time.Duration{}
	var sum time.Duration
	for i, took := range o.Spent {
		at[outcome.Stages[i]] = took
		sum += took
	}
	if o.Result != lifecycle.Protected || at[outcome.StageApply] < 2*pause || at[outcome.StageVerify] < pause || at[outcome.StageEnter] <= 0 || at[outcome.StageDecide] <= 0 || at[outcome.StageBudget] != 0 || sum != o.Took {
		t.Errorf("%s took %s, %v", o.Result, o.Took, at)
	}
}

func TestStageOfWhatIsNotFinished(t *testing.T) {
	release := make(chan struct{})
	defer close(release)
	e, _ := newEnforcer(t, firewall{apply: func(context.Context) (bool, error) { <-release; return false, nil }})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	o := e.Enforce(ctx, lifecycle.SandboxStarted, meshed(newNetNS(t)))
	for i, took := range o.Spent {
		if (outcome.Stages[i] == outcome.StageBudget) != (took > 0) || (took > 0 && took != o.Took) {
			t.Errorf("%s of %s in %s", took, o.Took, outcome.Stages[i])
		}
	}
}

// A look at what was verified is time of that stage, whoever looks.
func TestStageOfALook(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	pod := meshed(newNetNS(t))
	pod.SandboxID = "a"
	if o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	known, _ := e.View().Sandbox("a")
	auditor := e.lookAgain(t.Context(), outcome.Begin(lifecycle.Audited, pod), known)
	auditor.End()
	for name, o := range map[string]outcome.Outcome{"gate": e.Validate(t.Context(), pod, rules.Container{Name: "app"}), "auditor": auditor.Outcome} {
		if at := spent(o); o.Result != lifecycle.Protected || o.Stage != outcome.StageVerify || len(at) != 2 || o.Spent[slices.Index(outcome.Stages[:], outcome.StageVerify)] <= 0 {
			t.Errorf("%s: %s in %s, %v", name, o.Result, o.Stage, o.Spent)
		}
	}
}
