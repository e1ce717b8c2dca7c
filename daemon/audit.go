// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"time"

	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
)

// Audit reads the rules of every protected sandbox once in each interval, until ctx ends, and tries again where something failed.
// It is also what notices that a sandbox is gone: runtimes do not always say so.
func (e *Enforcer) Audit(ctx context.Context) { e.Auditor.Run(ctx, round{e}) }

// round is what the auditor goes.
type round struct{ *Enforcer }

func (e round) Interval() time.Duration { return e.policy.Load().AuditInterval }

func (e round) Next(now time.Time, interval time.Duration) (id string, turn fair.Turn, comes time.Time) {
	return e.sandboxes.Next(now, interval)
}

// Look ends the sandbox's turn.
func (e round) Look(running context.Context, id string, pass *auditor.Audit) {
	known, ok := e.sandboxes.Get(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(running, known.Turn.Length(e.policy.Load().AuditInterval, e.sandboxes.Count()))
	defer cancel()
	var o outcome.Look
	switch {
	case known.Unsettled():
		o = e.takeOver(ctx, outcome.Begin(lifecycle.Takeover, known.Pod))
	case known.State.Enrolled():
		pass.Pods++
		o = outcome.Begin(lifecycle.Audited, known.Pod)
		o.Pod.Containers = nil // they are in what is known, and events may add to it
		o.Decision = known.Decision
		o = e.lookAgain(ctx, o, known)
		o.End()
	default:
		if e.sandboxes.EndTurn(id, false); known.Gone() {
			e.sandboxes.Forget(id)
			e.sandboxes.Receipts.Remove(id)
		}
		return
	}
	if o.FoundDrift {
		pass.Drifted++
	}
	switch {
	case running.Err() != nil: // the daemon ends
	case o.Result != lifecycle.Unprotected && o.Err != nil && o.Err.Error() == known.Detail: // that was said before
	default:
		e.report(o)
	}
}

// count reads what the sandbox's lockdowns have counted. It takes no lock, so that nobody waits, and that it cannot be read is
// said by who compares the rules.
func (e *Enforcer) count(ctx context.Context, known memory.Sandbox, o outcome.Outcome) {
	if !known.Plan.LocksDown() {
		return
	}
	ns, err := e.visitor.Kernel.Open(known.Pod.NetNS)
	if err != nil {
		return
	}
	defer ns.Close()
	var r lockdown.Reading
	err = ns.Do(func(in kernel.Inside) (err error) {
		r, err = lockdown.Read(ctx, in, known.Counted)
		return err
	})
	if err != nil || ns.ID() != known.NetNS {
		return
	}
	e.sandboxes.UpdateKnown(known.Pod.SandboxID, func(sb *memory.Sandbox) { sb.Counted = r.Counted })
	o.Plan.Notes = known.Plan.Notes // among them which init containers reach nothing
	e.notice(o, outcome.EventLockdown, e.counts.Add(known.Pod, r))
}
