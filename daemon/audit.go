// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
)

// AuditTimeout bounds what the auditor does to one pod; no runtime waits for it.
const AuditTimeout = fair.LongestLook

// heartbeat is the longest pause after which the auditor shows that it is alive.
const heartbeat = 10 * time.Second

// Audit is one pass of the auditor: an interval, and longer where pods that had not used up their time were still due.
type Audit struct {
	Ended   time.Time
	Took    time.Duration // without the pauses between sandboxes
	Pods    int           // whose rules were read
	Drifted int           // of them, how many had other rules than when they were verified

	began time.Time
}

// LastAudit returns the last pass that was finished; false if there was none.
func (e *Enforcer) LastAudit() (Audit, bool) {
	last := e.audit.Load()
	if last == nil {
		return Audit{}, false
	}
	return *last, true
}

// Audit reads the rules of every protected sandbox once in each interval, counted from when that was last looked at,
// until ctx ends, and tries again where something failed. It is also what notices that a sandbox is gone: runtimes do
// not always say so.
func (e *Enforcer) Audit(ctx context.Context) {
	pass := Audit{began: time.Now()}
	for ctx.Err() == nil {
		e.hear()
		now, interval := time.Now(), e.policy.Load().AuditInterval
		id, turn, comes := e.sandboxes.next(now, interval)
		ends := pass.began.Add(interval)
		if seen := id == "" || turn.Missed > 0 || !turn.Looked.Before(pass.began); seen && !now.Before(ends) {
			done := pass
			done.Ended = now
			e.audit.Store(&done)
			pass, ends = Audit{began: now}, now.Add(interval)
		}
		if id == "" {
			if !comes.IsZero() && comes.Before(ends) {
				ends = comes
			}
			e.pause(ctx, ends.Sub(now))
			continue
		}
		e.auditOne(ctx, id, &pass)
		pass.Took += time.Since(now)
	}
}

// pause waits, but not for long, since new sandboxes may have come. It ends at once when the interval is changed.
func (e *Enforcer) pause(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(min(pause, heartbeat))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-e.reloaded:
	case <-timer.C:
	}
}

func (e *Enforcer) hear() {
	now := time.Now()
	e.heard.Store(&now)
}

// AuditorHeard returns when the auditor last showed that it is alive, which it does at least every 20 seconds; false
// before its first step.
func (e *Enforcer) AuditorHeard() (time.Time, bool) {
	heard := e.heard.Load()
	if heard == nil {
		return time.Time{}, false
	}
	return *heard, true
}

func (e *Enforcer) auditOne(running context.Context, id string, pass *Audit) {
	known, ok := e.sandboxes.get(id)
	if !ok {
		return
	}
	ctx, cancel := context.WithTimeout(running, known.turn.Length(e.policy.Load().AuditInterval, e.sandboxes.count()))
	defer cancel()
	var o Outcome
	switch {
	case known.unsettled():
		o = e.takeOver(ctx, begin(Takeover, known.Pod))
	case known.State.Enrolled():
		pass.Pods++
		o = begin(Audited, known.Pod)
		o.Pod.Containers = nil // they are in what is known, and events may add to it
		o.Decision = known.Decision
		o = e.lookAgain(ctx, o, known)
		o.end()
	default:
		if e.sandboxes.endTurn(id, false); known.gone() {
			e.sandboxes.forget(id)
			e.sandboxes.receipts.Remove(id)
		}
		return
	}
	if o.drifted {
		pass.Drifted++
	}
	switch {
	case running.Err() != nil: // the daemon ends
	case o.Result != Unprotected && o.Err != nil && o.Err.Error() == known.Detail: // that was said before
	default:
		e.report(o)
	}
}
