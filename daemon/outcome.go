// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Result is how a pod ended.
type Result string

// The ends.
const (
	Protected   Result = "protected"   // belongs to the mesh, and the kernel was read to hold its rules
	Skipped     Result = "skipped"     // not to be touched
	Refused     Result = "refused"     // must not run as it is: its author or the operator has to change something
	Failed      Result = "failed"      // must not run now: the next try may work
	Unproven    Result = "unproven"    // belongs to the mesh, and nobody can tell what its rules do; they stay so
	Unprotected Result = "unprotected" // runs without its rules, and the configuration says to leave it so
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

// Trigger is what made the daemon look at a pod.
type Trigger string

// The triggers.
const (
	SandboxStarted     Trigger = "sandbox"     // before its first container
	ContainerCreated   Trigger = "container"   // before one of its containers
	ContainerValidated Trigger = "validate"    // the same, when every plugin has been asked
	ContainerStarted   Trigger = "start"       // before one of its containers runs, and after hooks of the runtime
	Takeover           Trigger = "synchronize" // it was there before the session with the runtime
	Audited            Trigger = "audit"
	ByHand             Trigger = "command"
)

// Outcome is what happened to one pod.
type Outcome struct {
	Pod         rules.Pod
	Trigger     Trigger
	Container   string // of ContainerCreated, ContainerValidated and ContainerStarted
	Decision    rules.Decision
	Plan        rules.Plan
	Result      Result
	Changed     bool          // the kernel was changed
	Running     bool          // of Takeover: one of its containers had been started
	WasEnrolled bool          // it was known to belong to the mesh before this look
	Refined     bool          // its rules are other ones than before: a container said more about it
	Readdressed bool          // its addresses are other ones, and so are its rules, or what goes around them
	Outdated    bool          // protected by other rules than those of its plan, or of today's configuration
	Drifted     bool          // its rules had been verified and were found changed
	Stopped     bool          // its sandbox was stopped over CRI
	Unheeded    string        // why the container may run although it is refused; "" where it does not
	Impostor    string        // why the container goes around the mesh; "" is not
	Differences []string      // how the kernel does not hold the plan, or did not before it was changed
	Effect      effect.Result // what becomes of packets beside what the plan says
	Stage       Stage
	Spent       [len(Stages)]time.Duration // in each of Stages
	NetNS       netns.ID                   // zero where it was not entered
	Backend     string                     // what writes the rules of that namespace
	Err         error                      // of Refused, Failed, Unproven and Unprotected
	Began       time.Time
	Took        time.Duration

	found   int                    // of Differences, also those that are not kept
	notice  notice                 // what is said beside what became of it
	node    rules.Node             // that decided
	key     string                 // of the plan
	earlier bool                   // the plan is one that was verified there by another configuration
	network rules.Network          // that it was made for
	seen    reading                // of the rules that were judged; the zero one where they changed meanwhile
	judged  judgement              // of them, by the plan
	entered time.Time              // the stage
	now     *atomic.Pointer[Stage] // for whoever waits for it; nil where nobody does
	waited  bool                   // the runtime waits for it, and every other pod of the node with it
	overrun bool                   // it used up its time, other than by waiting for a lock
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
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w before stage %s: %w", errGivenUp, stage, err)
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

// planned sets the plan and its key, which belong together.
func (o *Outcome) planned(plan rules.Plan) { o.Plan, o.key = plan, plan.Key() }

// Error returns nil for a pod that may run, or what its author is to read: what, on which pod, why, and
// what to do next.
func (o Outcome) Error() error {
	what := fmt.Sprintf("pod %s/%s", o.Pod.Namespace, o.Pod.Name)
	switch o.Result {
	case Protected, Skipped, Unproven, Unprotected:
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

// admits reports whether a container of the pod may run, as far as its sandbox's rules go.
func (r Result) admits() bool { return r == Protected || r == Unproven }

// undecided reports whether the result is still to come.
func (o Outcome) undecided() bool { return o.Result == "" }
