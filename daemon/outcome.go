// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"cmp"
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// The words of package lifecycle that others need.
type (
	State   = lifecycle.State
	Trigger = lifecycle.Trigger
	Result  = lifecycle.Result
)

// The states of sandboxes.
const (
	StateProtected   = lifecycle.StateProtected
	StateOutdated    = lifecycle.StateOutdated
	StateUnproven    = lifecycle.StateUnproven
	StateUnprotected = lifecycle.StateUnprotected
	StatePending     = lifecycle.StatePending
	StateFailing     = lifecycle.StateFailing
	StateExempt      = lifecycle.StateExempt
	StateSkipped     = lifecycle.StateSkipped
)

// States are all of them.
var States = lifecycle.States

// The triggers.
const (
	SandboxStarted     = lifecycle.SandboxStarted
	ContainerCreated   = lifecycle.ContainerCreated
	ContainerValidated = lifecycle.ContainerValidated
	ContainerStarted   = lifecycle.ContainerStarted
	Takeover           = lifecycle.Takeover
	Audited            = lifecycle.Audited
	ByHand             = lifecycle.ByHand
)

// The results.
const (
	Protected   = lifecycle.Protected
	Skipped     = lifecycle.Skipped
	Refused     = lifecycle.Refused
	Failed      = lifecycle.Failed
	Unproven    = lifecycle.Unproven
	Unprotected = lifecycle.Unprotected
)

// Stage is where a pod's way through the flow ended.
type Stage string

// The stages in their order.
const (
	StageDecide Stage = "decide"
	StageEnter  Stage = "enter"
	StageApply  Stage = "apply"
	StageVerify Stage = "verify"
	StageBudget Stage = "budget" // the time was up; which of the others it was in is not known
)

// Stages are all of them.
var Stages = [...]Stage{StageDecide, StageEnter, StageApply, StageVerify, StageBudget}

// Outcome is what happened to one pod.
type Outcome struct {
	Pod         rules.Pod
	Trigger     Trigger
	Container   string // of ContainerCreated, ContainerValidated and ContainerStarted
	Decision    rules.Decision
	Plan        rules.Plan
	Result      Result
	Said        lifecycle.Event // what is told of it
	Why         string          // it was decided so
	Drifted     bool            // its rules had been verified and were found changed, which is counted with this outcome
	Changed     bool            // the kernel was changed
	Unheeded    string          // why the container may run although it is refused; "" where it does not
	Impostor    string          // why the container goes around the mesh; "" is not
	Differences []string        // how the kernel does not hold the plan, or did not before it was changed
	Effect      effect.Result   // what becomes of packets beside what the plan says
	Stage       Stage
	Spent       [len(Stages)]time.Duration // in each of Stages
	NetNS       netns.ID                   // zero where it was not entered
	Backend     string                     // what writes the rules of that namespace
	Err         error                      // of Refused, Failed, Unproven and Unprotected
	Began       time.Time
	Took        time.Duration

	notice     notice                 // what is said beside what became of it
	want       lifecycle.Want         // what was decided
	by         *policy.Policy         // that enrolled the pod as it is; nil where none has yet
	decided    bool                   // the table has had its last word
	stop       bool                   // its sandbox is to be stopped
	drifted    bool                   // as Drifted, also where that was told before
	node       rules.Node             // that decided
	key        string                 // of the plan
	earlier    bool                   // the plan is one that was verified there by another configuration
	network    rules.Network          // that it was made for
	judged     judge.Verdict          // of the rules that are there, by the plan
	generation string                 // of those; "" where they changed meanwhile
	entered    time.Time              // the stage
	now        *atomic.Pointer[Stage] // for whoever waits for it; nil where nobody does
	waited     bool                   // the runtime waits for it, and every other pod of the node with it
	overrun    bool                   // it used up its time, other than by waiting for a lock
}

// enter begins a stage, and ends the one before it.
func (o *Outcome) enter(stage Stage) {
	o.leave(time.Now())
	o.Stage = stage
	if o.now != nil {
		o.now.Store(&stage)
	}
}

// step begins a stage unless nobody waits for it any more.
func (o *Outcome) step(ctx context.Context, stage Stage) error {
	if err := fair.GivenUp(ctx); err != nil {
		return fmt.Errorf("before stage %s: %w", stage, err)
	}
	o.enter(stage)
	return nil
}

// leave counts the time until now for the stage.
func (o *Outcome) leave(now time.Time) {
	for i, stage := range Stages {
		if stage == o.Stage {
			o.Spent[i] += now.Sub(o.entered)
		}
	}
	o.entered = now
}

// overdue counts all of the time for StageBudget: the work is still running, and what it spent where is not known.
func (o *Outcome) overdue() {
	o.Stage, o.Spent, o.entered = StageBudget, [len(Stages)]time.Duration{}, o.Began
}

// end ends the flow, for now.
func (o *Outcome) end() {
	now := time.Now()
	o.leave(now)
	o.Took = now.Sub(o.Began)
}

// found notes what was judged.
func (o *Outcome) found(f judge.Finding) {
	o.judged, o.generation, o.Differences, o.Effect = f.Verdict, f.Generation, f.Differences, f.Effect
	o.Backend = cmp.Or(f.Backend, o.Backend)
}

// said is how the rules that are there differ from the plan.
func (o Outcome) said() string { return o.judged.Said(o.Pod) }

// planned sets the plan and its key, which belong together.
func (o *Outcome) planned(plan rules.Plan) { o.Plan, o.key = plan, plan.Key() }

// Error returns nil for a pod that may run, or what its author is to read: what, on which pod, why, and
// what to do next.
func (o Outcome) Error() error {
	what := fmt.Sprintf("pod %s/%s", o.Pod.Namespace, o.Pod.Name)
	switch o.Result {
	case lifecycle.Open, Protected, Skipped, Unproven, Unprotected:
	case Refused:
		next := "Ask the administrator of the node"
		if o.Impostor != "" || o.Decision.Reason.Mendable() {
			next = "Correct the pod; it starts at the next retry"
		}
		if o.Container != "" {
			what = "container " + o.Container + " of " + what
		}
		return fmt.Errorf("meshnetd refuses %s: %w. %s", what, o.Err, next)
	case Failed:
		return fmt.Errorf("meshnetd could not protect %s (%s): %w. It is retried; if this persists, "+
			"look at meshnetd's log on the node", what, o.Stage, o.Err)
	}
	return nil
}

// undecided reports whether the result is still to come.
func (o Outcome) undecided() bool { return o.Result == "" }

// asDecided is what was decided about the pod, for its policy.
func (o *Outcome) asDecided() policy.Case {
	return policy.Case{Pod: o.Pod, Node: o.node, Decision: o.Decision, Result: o.Result, Err: o.Err}
}

func (o *Outcome) decidedAs(c policy.Case) {
	o.node, o.Decision, o.Result, o.Err = c.Node, c.Decision, c.Result, c.Err
}

// decide is the pure part: it makes no system call.
func (o *Outcome) decide(by *policy.Policy) { o.decidedAs(by.Decide(o.asDecided())) }

// ownInit takes the decision of a mesh whose init container writes the pod's rules by itself, where the pod's containers show one.
func (o *Outcome) ownInit(by *policy.Policy, before bool) bool {
	c, own := by.OwnInit(o.asDecided(), before)
	o.decidedAs(c)
	return own
}
