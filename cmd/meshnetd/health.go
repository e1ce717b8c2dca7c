// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"

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
