// SPDX-License-Identifier: Apache-2.0

//go:build linux

package outcome

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// Look is the work on one pod, with the outcome as far as it is known.
type Look struct {
	Outcome

	Want       lifecycle.Want // what was decided
	By         *policy.Policy // that enrolled the pod as it is; nil where none has yet
	Decided    bool           // the table has had its last word
	Stop       bool           // its sandbox is to be stopped
	FoundDrift bool           // as Drifted, also where that was told before
	Node       rules.Node     // that decided
	Spec       rules.Pod      // what the kubelet says of the pod of a container; the zero Pod where that is nothing
	Key        string         // of the plan
	Network    rules.Network  // that it was made for
	Generation string         // of the rules that are there; "" where they changed meanwhile, or may without a new one
	Around     string         // what else the judgement of them depends on
	entered    time.Time      // the stage
	Watch      *Watch         // of whoever waits for it; nil where nobody does
	Waited     bool           // the runtime waits for it, and every other pod of the node with it
	Overrun    bool           // it used up its time, other than by waiting for a lock
}

// Watch is what the work has in common with whoever waits for it.
type Watch struct {
	stage atomic.Pointer[Stage]
	taken atomic.Bool // the last word
}

// Watched gives the look somebody who waits for it.
func (o *Look) Watched() {
	stage := o.Stage
	o.Watch = new(Watch)
	o.Watch.stage.Store(&stage)
}

// At is the stage that the work is at.
func (w *Watch) At() Stage { return *w.stage.Load() }

// LastWord gives the one who asks first the last word: the work, which then records what came of it and is waited for, or
// whoever waited, and then nothing is recorded.
func (w *Watch) LastWord() bool { return w == nil || w.taken.CompareAndSwap(false, true) }

// Begin begins the work.
func Begin(trigger lifecycle.Trigger, pod rules.Pod) Look {
	now := time.Now()
	return Look{Outcome: Outcome{Pod: pod, Trigger: trigger, Began: now, Stage: StageDecide}, entered: now, Waited: trigger.Waits()}
}

// Enter begins a stage, and ends the one before it.
func (o *Look) Enter(stage Stage) {
	o.leave(time.Now())
	o.Stage = stage
	if o.Watch != nil {
		o.Watch.stage.Store(&stage)
	}
}

// Step begins a stage unless nobody waits for it any more.
func (o *Look) Step(ctx context.Context, stage Stage) error {
	if err := fair.GivenUp(ctx); err != nil {
		return fmt.Errorf("before stage %s: %w", stage, err)
	}
	o.Enter(stage)
	return nil
}

// leave counts the time until now for the stage.
func (o *Look) leave(now time.Time) {
	for i, stage := range Stages {
		if stage == o.Stage {
			o.Spent[i] += now.Sub(o.entered)
		}
	}
	o.entered = now
}

// Overdue counts all of the time for StageBudget: the work is still running, and what it spent where is not known.
func (o *Look) Overdue() {
	o.Stage, o.Spent, o.entered = StageBudget, [len(Stages)]time.Duration{}, o.Began
}

// End ends the flow, for now.
func (o *Look) End() {
	now := time.Now()
	o.leave(now)
	o.Took = now.Sub(o.Began)
}

// Found notes what was judged.
func (o *Look) Found(f judge.Finding) {
	o.Judged, o.Generation, o.Around, o.Differences, o.Effect = f.Verdict, f.Generation, f.Around, f.Differences, f.Effect
	o.Backend = cmp.Or(f.Backend, o.Backend)
}

// Difference is how the rules that are there differ from the plan.
func (o Outcome) Difference() string { return o.Judged.Said(o.Pod) }

// Planned sets the plan and its key, which belong together.
func (o *Look) Planned(plan rules.Plan) { o.Plan, o.Key = plan, plan.Key() }

// Undecided reports whether the result is still to come.
func (o Look) Undecided() bool { return o.Result == "" }

// Case is what was decided about the pod, for its policy.
func (o *Look) Case() policy.Case {
	return policy.Case{Pod: o.Pod, Node: o.Node, Decision: o.Decision, Result: o.Result, Err: o.Err}
}

// Take takes over what was decided.
func (o *Look) Take(c policy.Case) {
	o.Node, o.Decision, o.Result, o.Err = c.Node, c.Decision, c.Result, c.Err
}

// Decide is the pure part: it makes no system call.
func (o *Look) Decide(by *policy.Policy) { o.Take(by.Decide(o.Case())) }

// OwnInit takes the decision of a mesh whose init container writes the pod's rules by itself, where the pod's containers show one.
func (o *Look) OwnInit(by *policy.Policy, before bool) bool {
	c, own := by.OwnInit(o.Case(), before)
	o.Take(c)
	return own
}

// Settle takes over what the table's last row says.
func (o *Look) Settle(f lifecycle.Facts, step lifecycle.Step, row lifecycle.Row) {
	o.Decided, o.Result, o.Said, o.Why, o.Stop = true, step.Result, step.Event, row.Why, step.Stop
	o.because(f)
}

// because gives the outcome the error that follows from its result, and that of a trouble to no other.
func (o *Look) because(f lifecycle.Facts) {
	switch o.Result {
	case lifecycle.Open, lifecycle.Protected, lifecycle.Skipped:
		o.Err = nil
	case lifecycle.Refused:
		if o.Err == nil {
			o.Err = errors.New(o.Decision.Detail)
		}
	case lifecycle.Unproven:
		o.Err = o.cannotTell()
	case lifecycle.Unprotected:
		if f.Trouble == lifecycle.NoTrouble {
			o.Err = fmt.Errorf("the kernel does not hold the pod's rules: %s", o.Difference())
		}
	case lifecycle.Failed:
		switch {
		case f.Trouble != lifecycle.NoTrouble:
		case f.Holds == lifecycle.Unclear:
			o.Err = o.cannotTell()
		default:
			o.Err = fmt.Errorf("the sandbox has lost its rules: %s", o.Difference())
		}
	}
}

func (o *Look) cannotTell() error {
	return fmt.Errorf("what becomes of the pod's packets cannot be told: %s", o.Difference())
}

// DriftFound returns the outcome that reports the drift, before it is repaired. Its stages have no
// times: those are in the outcome of the repair.
func (o *Look) DriftFound(event lifecycle.Event) Outcome {
	found := o.Outcome
	found.Result, found.Said, found.Took, found.Spent = lifecycle.Unprotected, event, time.Since(o.Began), [len(Stages)]time.Duration{}
	found.Err = fmt.Errorf("the pod's rules were changed: %s", o.Difference())
	return found
}

// Rejecting refuses a container of a sandbox that is well.
func (o Look) Rejecting(reason rules.Reason, err error) Look {
	o.Result, o.Said, o.Err = lifecycle.Refused, lifecycle.EventBlocked, err
	if o.Unheeded != "" {
		o.Said = lifecycle.EventUnprotected
	}
	if reason != "" {
		o.Decision.Reason = reason
	}
	return o
}

// ReceiptID is what the receipt is for. A command may name a namespace and no sandbox: no takeover believes that one.
func (o *Look) ReceiptID() string {
	if o.Pod.SandboxID == "" {
		return fmt.Sprintf("netns-%d", o.NetNS.Ino)
	}
	return o.Pod.SandboxID
}
