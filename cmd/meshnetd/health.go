// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/daemon"
)

// ready returns why the daemon does not protect the node's pods yet: it has no session with the runtime, or pods that
// were there before the session are not taken over.
func (w *watch) ready(e *daemon.Enforcer) error {
	w.mu.Lock()
	connected := w.connected
	w.mu.Unlock()
	if !connected {
		return errors.New("no session with the runtime")
	}
	pending := 0
	for _, sb := range e.Sandboxes() {
		if sb.State == daemon.StatePending {
			pending++
		}
	}
	if pending > 0 {
		return fmt.Errorf("%d pods that were there before the session are not taken over yet", pending)
	}
	return nil
}

// What a pass of the auditor may take beside its interval, at most: auditOnce for each pod of the mesh, which is
// what the auditor allows one, and auditSlack for a busy node.
const (
	auditOnce  = 10 * time.Second
	auditSlack = time.Minute
)

// alive returns why the daemon should be started anew, for the watchdog: nil says that its locks are free, and that
// its auditor comes around. It does not return at all where a lock is held for good, which says the same. A runtime
// that is away is no reason.
func (w *watch) alive(e *daemon.Enforcer, now time.Time) error {
	w.mu.Lock()
	interval, begun := w.auditInterval, w.auditing
	w.mu.Unlock()
	if last, ok := e.LastAudit(); ok && last.Ended.After(begun) {
		begun = last.Ended
	}
	limit := interval + auditSlack + time.Duration(len(e.Sandboxes()))*auditOnce
	if silent := now.Sub(begun); silent > limit {
		return fmt.Errorf("the auditor has not come around for %s", silent.Round(time.Second))
	}
	return nil
}
