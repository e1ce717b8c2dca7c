// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

// ErrUnknown is within the error about a sandbox of which nothing is remembered.
var ErrUnknown = errors.New("is not known: it is gone, or does not belong to the mesh")

// errNotTakenOver is that of a sandbox for which there is no plan yet.
var errNotTakenOver = errors.New("was there before meshnetd and has not been looked at yet, so that there is nothing to compare with: " +
	"wait for the next audit, or repair it")

// Sandbox returns what is known of a sandbox; false where that is nothing.
func (e *Enforcer) Sandbox(id string) (Sandbox, bool) { return e.sandboxes.get(id) }

// Compare reads the kernel rule by rule and returns every way in which a sandbox's namespace does not hold the
// plan that is remembered for it. It changes nothing, in the kernel or in what is remembered. Its outcome has no
// result unless it fails.
func (e *Enforcer) Compare(ctx context.Context, id string) Outcome {
	known, ok := e.sandboxes.get(id)
	o := begin(ByHand, known.Pod)
	o.Decision, o.Plan, o.key, o.node, o.WasEnrolled = known.Decision, known.Plan, known.key, known.node, known.enrolled()
	o = e.within(ctx, o, func(ctx context.Context, o *Outcome) error {
		switch {
		case !ok:
			return fmt.Errorf("sandbox %s %w", id, ErrUnknown)
		case known.State == StatePending:
			return fmt.Errorf("pod %s %w", known.Pod, errNotTakenOver)
		}
		return e.visit(ctx, o, func(ns entered) error {
			if err := known.inNetNS(ns); err != nil {
				return err
			}
			return e.compare(ctx, ns, o)
		})
	})
	o.end()
	return o
}

// compare judges the namespace anew, and remembers nothing of it.
func (e *Enforcer) compare(ctx context.Context, ns entered, o *Outcome) error {
	around, err := surroundingsOf(ns, o.Plan)
	if err != nil {
		return err
	}
	return e.judge(ctx, ns, o, around)
}

// Repair makes a sandbox's namespace hold what today's configuration says of its pod, whatever it was left with
// before. Where that would leave out or refuse a pod that has rules, they are brought back as they were: a running
// pod does not lose its rules by a command. The differences of the outcome are those that were found.
func (e *Enforcer) Repair(ctx context.Context, id string) Outcome {
	known, ok := e.sandboxes.get(id)
	o := begin(ByHand, known.Pod)
	o.Decision = known.Decision
	if !ok {
		o.Result, o.Err = Failed, fmt.Errorf("sandbox %s %w", id, ErrUnknown)
		return o
	}
	o = e.try(ctx, o, e.restore)
	o.end()
	if o.Changed || o.Err != nil {
		e.record(o)
	}
	return o
}

func (e *Enforcer) restore(ctx context.Context, o *Outcome) error {
	return e.visit(ctx, o, func(ns entered) error {
		known, ok := e.sandboxes.get(o.Pod.SandboxID) // read again, with the lock held
		if !ok {
			return fmt.Errorf("sandbox %s %w", o.Pod.SandboxID, ErrUnknown)
		}
		if err := known.inNetNS(ns); err != nil {
			return err
		}
		o.enter(StageDecide)
		o.Pod, o.WasEnrolled = known.Pod, known.enrolled()
		e.decide(o)
		if e.setsItselfUp(o, known) {
			if stays, err := e.leaveSelfManaged(ctx, ns, o, known); err != nil || stays {
				return err
			}
		}
		switch {
		case o.Decision.Action == rules.Enrol:
			if err := e.plan(ns, o); err != nil {
				return err
			}
		case o.WasEnrolled:
			o.Result, o.Err = "", nil
			o.Decision, o.node = known.Decision, known.node
			o.planned(known.Plan)
			o.earlier = known.earlier
		case e.shownByContainers(*o):
			return e.exempt(ctx, ns, o)
		default:
			return nil
		}
		return e.mend(ctx, ns, o, known)
	})
}

// mend protects the sandbox and keeps the differences that were found before.
func (e *Enforcer) mend(ctx context.Context, ns entered, o *Outcome, known Sandbox) error {
	found, err := e.differences(ctx, ns, o)
	if err != nil {
		return err
	}
	o.Running = known.State == StateUnprotected && known.running
	o.Drifted = o.WasEnrolled && known.key == o.key && len(found) > 0
	err = e.applyAndVerify(ctx, ns, o)
	if err == nil {
		o.Differences = found
	}
	return err
}
