// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/policy"
)

// try does the work within ctx. Where that goes wrong, the table says what becomes of the sandbox.
func (e *Enforcer) try(ctx context.Context, o Outcome, work func(context.Context, *Outcome) error) Outcome {
	o = e.sharing.within(ctx, o, work)
	first := e.sandboxes.endTurn(o.Pod.SandboxID, o.overrun)
	if o.decided || o.undecided() {
		return o
	}
	return e.fail(o, first)
}

// fail commits what becomes of a sandbox whose outcome is an error.
func (e *Enforcer) fail(o Outcome, first bool) Outcome {
	known, _ := e.sandboxes.get(o.Pod.SandboxID)
	trouble := lifecycle.NotRead
	switch {
	case first && !o.waited && o.Trigger != ByHand:
		trouble = lifecycle.Overrun // nothing is known yet
	case o.Result == Refused:
		trouble = lifecycle.OverTime
	case errors.Is(o.Err, context.Canceled):
		trouble = lifecycle.Stopping
	case errors.Is(o.Err, netns.ErrGone):
		trouble = lifecycle.Gone
	case errors.Is(o.Err, netns.ErrHost) && known.NetNS == (netns.ID{}):
		// CRI-O gives hostNetwork pods a path: only now it is known what it leads to. A sandbox that had a
		// namespace of its own is no such pod.
		trouble, o.Pod.HostNetwork = lifecycle.HostNetNS, true
		o.Decision = e.policy.Load().Decide(o.asDecided()).Decision
	}
	return e.fromMemory(o, lifecycle.Undecided, trouble)
}

// fromMemory takes a sandbox through the table without a look at its namespace.
func (e *Enforcer) fromMemory(o Outcome, want lifecycle.Want, trouble lifecycle.Trouble) Outcome {
	known, _ := e.sandboxes.get(o.Pod.SandboxID)
	f := facts(e.policy.Load(), o, known, e.StopSandbox != nil)
	f.Want, f.Trouble = want, trouble
	lifecycle.Run(f, noted{e, &o})
	return o
}

// facts are what is known before anything is looked at.
func facts(by *policy.Policy, o Outcome, known Sandbox, canStop bool) lifecycle.Facts {
	return lifecycle.Facts{
		Trigger: o.Trigger, State: known.State, Lack: known.lack, Older: known.earlier, Ran: known.running,
		News: !known.knows(o.Pod.Containers) || known.news && o.Trigger == Takeover,
		Policy: lifecycle.Policy{
			Report:   by.CatchUp != config.CatchUpApply,
			Stop:     by.CatchUp == config.CatchUpStop && canStop,
			Leave:    by.OnDrift != config.DriftRepair,
			Replace:  by.ReplaceOutdated,
			Unheeded: o.Unheeded != "",
		},
	}
}

// noted is a sandbox that nobody looks into.
type noted struct {
	*Enforcer
	o *Outcome
}

func (n noted) Do(do lifecycle.Do, f *lifecycle.Facts) {
	if do == lifecycle.Look {
		f.Holds = lifecycle.Less
	}
}

func (noted) Say(lifecycle.Event, bool) {}

func (n noted) Commit(f lifecycle.Facts, s lifecycle.Step, row lifecycle.Row) {
	n.sandboxes.commit(n.policy.Load(), n.o, f, s, row)
}

// because gives the outcome the error that follows from its result, and that of a trouble to no other.
func (o *Outcome) because(f lifecycle.Facts) {
	switch o.Result {
	case lifecycle.Open, Protected, Skipped:
		o.Err = nil
	case Refused:
		if o.Err == nil {
			o.Err = errors.New(o.Decision.Detail)
		}
	case Unproven:
		o.Err = o.cannotTell()
	case Unprotected:
		if f.Trouble == lifecycle.NoTrouble {
			o.Err = fmt.Errorf("the kernel does not hold the pod's rules: %s", o.said())
		}
	case Failed:
		switch {
		case f.Trouble != lifecycle.NoTrouble:
		case f.Holds == lifecycle.Unclear:
			o.Err = o.cannotTell()
		default:
			o.Err = fmt.Errorf("the sandbox has lost its rules: %s", o.said())
		}
	}
}

func (o *Outcome) cannotTell() error {
	return fmt.Errorf("what becomes of the pod's packets cannot be told: %s", o.said())
}

// driftFound returns the outcome that reports the drift, before it is repaired. Its stages have no
// times: those are in the outcome of the repair.
func (o *Outcome) driftFound(event lifecycle.Event) Outcome {
	found := *o
	found.Result, found.Said, found.Took, found.Spent = Unprotected, event, time.Since(o.Began), [len(Stages)]time.Duration{}
	found.Err = fmt.Errorf("the pod's rules were changed: %s", o.said())
	return found
}

// report records what is to be told of a look, or stops the sandbox as the configuration says.
func (e *Enforcer) report(o Outcome) {
	switch {
	case o.stop: // not here: the runtime passes the end of a sandbox to its plugins, and they are all waiting for us
		go e.stop(o)
	case o.Said != lifecycle.Quiet:
		e.record(o)
	}
}
