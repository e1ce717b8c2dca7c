// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/fair"
)

// ready returns why the daemon does not protect the node's pods yet.
func (w *watch) ready(e *daemon.Enforcer) error { return unready(w.status(e), time.Now()) }

// auditSilence is how long nothing may be heard of the auditor, at most: what it allows one pod, and a busy node.
const auditSilence = fair.LongestLook + time.Minute

// alive returns why the daemon should be restarted, for the watchdog: nil means that its locks are free and its auditor
// goes on. Where a lock is held forever it never returns, which has the same effect. A runtime that is away is no reason.
func (w *watch) alive(e *daemon.Enforcer, now time.Time) error {
	_ = e.View().Sandboxes() // by its lock
	w.mu.Lock()
	heard := w.started
	w.mu.Unlock()
	if last, ok := e.Auditor.Heard(); ok {
		heard = last
	}
	if silent := now.Sub(heard); silent > auditSilence {
		return fmt.Errorf("nothing was heard of the auditor for %s", silent.Round(time.Second))
	}
	return nil
}
