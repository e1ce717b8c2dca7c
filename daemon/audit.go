// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// auditTimeout bounds what the auditor does to one pod; no runtime waits for it.
const auditTimeout = 10 * time.Second

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

// Audit reads the rules of every protected sandbox once in each interval, spread over it, until ctx ends.
// It is also what notices that a sandbox is gone: runtimes do not always say so.
func (e *Enforcer) Audit(ctx context.Context) {
	for {
		all := e.sandboxes.all()
		pause := e.policy.Load().AuditInterval / time.Duration(len(all)+1)
		var pass Audit
		for _, sandbox := range all {
			if !sleep(ctx, pause) {
				return
			}
			began := time.Now()
			e.auditOne(ctx, sandbox, &pass)
			pass.Took += time.Since(began)
		}
		if !sleep(ctx, pause) {
			return
		}
		pass.Ended = time.Now()
		e.audit.Store(&pass)
	}
}

func sleep(ctx context.Context, pause time.Duration) bool {
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return false
	case <-timer.C:
		return true
	}
}

func (e *Enforcer) auditOne(running context.Context, was Sandbox, pass *Audit) {
	ctx, cancel := context.WithTimeout(running, auditTimeout)
	defer cancel()
	known, ok := e.sandboxes.get(was.Pod.SandboxID)
	if !ok {
		return
	}
	if !known.enrolled() {
		e.forgetIfGone(known)
		return
	}
	pass.Pods++
	o := e.try(ctx, begin(Audited, known.Pod), func(ctx context.Context, o *Outcome) error {
		if known.State != StateFailing {
			if intact, err := e.intact(ctx, known); err == nil && intact {
				o.Result = Protected
				return nil
			}
		}
		return e.settle(ctx, o)
	})
	o.Took = time.Since(o.Began)
	switch {
	case running.Err() != nil: // the daemon ends
		return
	case errors.Is(o.Err, netns.ErrGone):
		e.sandboxes.forget(known.Pod.SandboxID)
		return
	case o.Drifted || o.Err != nil:
		pass.Drifted++
	default: // as it was, or somebody wrote there without changing what counts
		return
	}
	e.record(o)
}

func (e *Enforcer) forgetIfGone(known Sandbox) {
	if known.Pod.NetNS == "" {
		return
	}
	ns, err := netns.Open(known.Pod.NetNS, e.host)
	if err == nil {
		ns.Close()
	}
	if errors.Is(err, netns.ErrGone) {
		e.sandboxes.forget(known.Pod.SandboxID)
	}
}
