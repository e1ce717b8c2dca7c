// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/visit"
)

// errNotTakenOver is that of a sandbox for which there is no plan yet.
var errNotTakenOver = errors.New("was there before meshnetd and has not been looked at yet, so that there is nothing to compare with: " +
	"wait for the next audit, or repair it")

// Compare reads the kernel rule by rule and returns every way in which a sandbox's namespace does not hold the
// plan that is remembered for it. It changes nothing, in the kernel or in what is remembered. Its outcome has no
// result unless it fails.
func (e *Enforcer) Compare(ctx context.Context, id string) outcome.Outcome {
	known, ok := e.sandboxes.Get(id)
	o := outcome.Begin(lifecycle.ByHand, known.Pod)
	o.Decision, o.Plan, o.Key, o.Node = known.Decision, known.Plan, known.Key, known.Node
	o = e.sharing.Within(ctx, o, func(ctx context.Context, o *outcome.Look) error {
		switch {
		case !ok:
			return fmt.Errorf("sandbox %s %w", id, visit.ErrUnknown)
		case known.State == lifecycle.StatePending:
			return fmt.Errorf("pod %s %w", known.Pod, errNotTakenOver)
		}
		return e.visitor.Compare(ctx, o, known)
	})
	o.End()
	return o.Outcome
}

// Repair makes a sandbox's namespace hold what today's configuration says of its pod, whatever it was left with
// before. Where that would leave out or refuse a pod that has rules, they are brought back as they were: a running
// pod does not lose its rules by a command. The differences of the outcome are those that were found.
func (e *Enforcer) Repair(ctx context.Context, id string) outcome.Outcome {
	known, ok := e.sandboxes.Get(id)
	o := outcome.Begin(lifecycle.ByHand, known.Pod)
	o.Decision = known.Decision
	if !ok {
		o.Result, o.Err = lifecycle.Failed, fmt.Errorf("sandbox %s %w", id, visit.ErrUnknown)
		return o.Outcome
	}
	o = e.try(ctx, o, e.reconcile)
	o.End()
	e.report(o)
	return o.Outcome
}
