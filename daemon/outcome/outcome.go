// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package outcome is what came of a look at a pod, what is said of it, and the look itself: how far it has come, in which
// stages, and what it knows by then.
package outcome

import (
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
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
	Trigger     lifecycle.Trigger
	Container   string // of ContainerCreated, ContainerValidated and ContainerStarted
	Decision    rules.Decision
	Plan        rules.Plan
	Result      lifecycle.Result
	Said        lifecycle.Event // what is told of it
	Why         string          // it was decided so
	Drifted     bool            // its rules had been verified and were found changed, which is counted with this outcome
	Changed     bool            // the kernel was changed
	Unheeded    string          // why the container may run although it is refused; "" where it does not
	Impostor    string          // why the container goes around the mesh; "" is not
	Untold      bool            // the kubelet tells of the container's pod, and not of the container yet
	Differences []string        // how the kernel does not hold the plan, or did not before it was changed
	Effect      effect.Result   // what becomes of packets beside what the plan says
	Stage       Stage
	Spent       [len(Stages)]time.Duration // in each of Stages
	NetNS       netns.ID                   // zero where it was not entered
	Backend     string                     // what writes the rules of that namespace
	Err         error                      // of Refused, Failed, Unproven and Unprotected
	Began       time.Time
	Took        time.Duration
	Judged      judge.Verdict // of the rules that are there, by the plan
	Earlier     bool          // the plan is one that was verified there by another configuration

	news string // what is said beside what became of it
}

// Error returns nil for a pod that may run, or what its author is to read: what, on which pod, why, and
// what to do next.
func (o Outcome) Error() error {
	what := fmt.Sprintf("pod %s/%s", o.Pod.Namespace, o.Pod.Name)
	switch o.Result {
	case lifecycle.Open, lifecycle.Protected, lifecycle.Skipped, lifecycle.Unproven, lifecycle.Unprotected:
	case lifecycle.Refused:
		next := "Ask the administrator of the node"
		if o.Impostor != "" || o.Decision.Reason.Mendable() {
			next = "Correct the pod; it starts at the next retry"
		}
		if o.Untold {
			next = "It is tried again, and starts once the kubelet tells of it"
		}
		if o.Container != "" {
			what = "container " + o.Container + " of " + what
		}
		return fmt.Errorf("meshnetd refuses %s: %w. %s", what, o.Err, next)
	case lifecycle.Failed:
		return fmt.Errorf("meshnetd could not protect %s (%s): %w. It is retried; if this persists, "+
			"look at meshnetd's log on the node", what, o.Stage, o.Err)
	}
	return nil
}

// Noting returns the outcome that says something beside what became of the pod. It counts no time again.
func (o Outcome) Noting(event, text string) Outcome {
	o.Said, o.news, o.Took, o.Spent = lifecycle.Event(event), text, time.Since(o.Began), [len(Stages)]time.Duration{}
	return o
}
