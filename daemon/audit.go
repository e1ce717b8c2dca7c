// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// AuditTimeout bounds what the auditor does to one pod; no runtime waits for it.
const AuditTimeout = 10 * time.Second

// heartbeat is how long a pause of the auditor may be without a sign of it.
const heartbeat = 10 * time.Second

// Audit is one pass over all sandboxes.
type Audit struct {
	Ended   time.Time
	Took    time.Duration // without the pauses between sandboxes
	Pods    int           // whose rules were read
	Drifted int           // of them, how many had other rules than when they were verified
}

// LastAudit returns the last pass that was finished; false if there was none.
func (e *Enforcer) LastAudit() (Audit, bool) {
	last := e.audit.Load()
	if last == nil {
		return Audit{}, false
	}
	return *last, true
}

// Audit reads the rules of every protected sandbox once in each interval, spread over it, until ctx ends,
// and tries again where something failed. It is also what notices that a sandbox is gone: runtimes do not
// always say so.
func (e *Enforcer) Audit(ctx context.Context) {
	for ctx.Err() == nil {
		all := e.sandboxes.all()
		pause := e.policy.Load().AuditInterval / time.Duration(len(all)+1)
		var pass Audit
		whole := e.pause(ctx, pause)
		for _, sandbox := range all {
			if !whole {
				break
			}
			began := time.Now()
			e.auditOne(ctx, sandbox.Pod.SandboxID, &pass)
			pass.Took += time.Since(began)
			whole = e.pause(ctx, pause)
		}
		if whole {
			pass.Ended = time.Now()
			e.audit.Store(&pass)
		}
	}
}

// pause waits; false means that the pass is to be given up: the daemon ends, or has another interval.
func (e *Enforcer) pause(ctx context.Context, pause time.Duration) bool {
	for {
		now := time.Now()
		e.heard.Store(&now)
		part := min(pause, heartbeat)
		timer := time.NewTimer(part)
		select {
		case <-ctx.Done():
			timer.Stop()
			return false
		case <-e.reloaded:
			timer.Stop()
			return false
		case <-timer.C:
		}
		if pause -= part; pause <= 0 {
			return true
		}
	}
}

// AuditorHeard returns when the auditor last went on, which a sound one does every 20 seconds at least; false before
// its first step.
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
	var o Outcome
	switch {
	case known.unsettled():
		o = e.takeOver(running, known.Pod)
	case known.enrolled():
		pass.Pods++
		o = e.reread(running, known)
	default:
		e.forgetIfGone(known)
		return
	}
	if o.Drifted {
		pass.Drifted++
	}
	failed := o.Result == Failed || o.Result == Refused
	if now, _ := e.sandboxes.get(id); o.Result == Skipped && now.unsettled() {
		e.sandboxes.forget(id) // as the configuration is now, it is none of the mesh
	}
	switch {
	case running.Err() != nil: // the daemon ends
	case errors.Is(o.Err, netns.ErrGone):
		e.sandboxes.forget(id)
	case failed && o.Err.Error() == known.Detail: // that was said before
	case known.unsettled():
		e.conclude(o)
	case failed || o.Drifted || o.Changed || known.State == StateFailing:
		e.record(o)
	} // else it is as it was, or somebody wrote there without changing what counts
}

// reread looks at a sandbox that is protected, or should be.
func (e *Enforcer) reread(running context.Context, known Sandbox) Outcome {
	ctx, cancel := context.WithTimeout(running, AuditTimeout)
	defer cancel()
	pod := known.Pod
	pod.Containers = nil // they are in what is known, and events may add to it
	o := begin(Audited, pod)
	o.Decision = known.Decision
	o = e.try(ctx, o, func(ctx context.Context, o *Outcome) error {
		if known.State != StateFailing {
			o.enter(StageVerify)
			if intact, err := e.intact(ctx, known); err == nil && intact {
				o.Result = Protected
				return nil
			}
		}
		return e.settle(ctx, o)
	})
	o.end()
	return o
}

func (e *Enforcer) forgetIfGone(known Sandbox) {
	ns, err := netns.Open(known.Pod.NetNS, e.host)
	if err == nil {
		ns.Close()
	}
	if errors.Is(err, netns.ErrGone) {
		e.sandboxes.forget(known.Pod.SandboxID)
	}
}
