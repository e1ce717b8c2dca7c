// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
)

// try does the work within ctx. Where that goes wrong, the table says what becomes of the sandbox.
func (e *Enforcer) try(ctx context.Context, o outcome.Look, work func(context.Context, *outcome.Look) error) outcome.Look {
	o = e.sharing.Within(ctx, o, work)
	first := e.sandboxes.EndTurn(o.Pod.SandboxID, o.Overrun)
	if o.Decided || o.Undecided() {
		return o
	}
	return e.fail(o, first)
}

// reconcile takes the sandbox through the table, within its namespace.
func (e *Enforcer) reconcile(ctx context.Context, o *outcome.Look) error {
	return e.visitor.Reconcile(ctx, o, e.StopSandbox != nil)
}

// fail commits what becomes of a sandbox whose outcome is an error.
func (e *Enforcer) fail(o outcome.Look, first bool) outcome.Look {
	known, _ := e.sandboxes.Get(o.Pod.SandboxID)
	trouble := lifecycle.NotRead
	switch {
	case first && !o.Waited && o.Trigger != lifecycle.ByHand:
		trouble = lifecycle.Overrun // nothing is known yet
	case o.Result == lifecycle.Refused:
		trouble = lifecycle.OverTime
	case errors.Is(o.Err, context.Canceled):
		trouble = lifecycle.Stopping
	case errors.Is(o.Err, netns.ErrGone):
		trouble = lifecycle.Gone
	case errors.Is(o.Err, netns.ErrHost) && known.NetNS == (netns.ID{}):
		// CRI-O gives hostNetwork pods a path: only now it is known what it leads to. A sandbox that had a
		// namespace of its own is no such pod.
		trouble, o.Pod.HostNetwork = lifecycle.HostNetNS, true
		o.Decision = e.policy.Load().Decide(o.Case()).Decision
	}
	return e.fromMemory(o, lifecycle.Undecided, trouble)
}

// fromMemory takes a sandbox through the table without a look at its namespace.
func (e *Enforcer) fromMemory(o outcome.Look, want lifecycle.Want, trouble lifecycle.Trouble) outcome.Look {
	known, _ := e.sandboxes.Get(o.Pod.SandboxID)
	f := known.Facts(e.policy.Load(), o, e.StopSandbox != nil)
	f.Want, f.Trouble = want, trouble
	lifecycle.Run(f, noted{e, &o})
	return o
}

// noted is a sandbox that nobody looks into.
type noted struct {
	*Enforcer
	o *outcome.Look
}

func (n noted) Do(do lifecycle.Do, f *lifecycle.Facts) {
	if do == lifecycle.Look {
		f.Holds = lifecycle.Less
	}
}

func (noted) Say(lifecycle.Event, bool) {}

func (n noted) Commit(f lifecycle.Facts, s lifecycle.Step, row lifecycle.Row) {
	n.sandboxes.Commit(n.policy.Load(), n.o, f, s, row)
}

// report records what is to be told of a look, or stops the sandbox as the configuration says.
func (e *Enforcer) report(o outcome.Look) {
	switch {
	case o.Stop: // not here: the runtime passes the end of a sandbox to its plugins, and they are all waiting for us
		go e.stop(o)
	case o.Said != lifecycle.Quiet:
		e.visitor.Record(o.Outcome)
	}
	if o.Said == lifecycle.EventSkipped { // it starts, or was there before
		e.notice(o.Outcome, outcome.EventUnmeshed, o.Decision.Unmeshed)
	}
}
