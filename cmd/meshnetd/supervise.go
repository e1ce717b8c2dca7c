// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/systemd/notify"
)

// linePause is the shortest time between two status lines for systemd.
const linePause = 200 * time.Millisecond

// supervise tells systemd how the daemon is until ctx ends, and answers its watchdog as long as the daemon is alive. It
// takes the daemon's locks, so that one that is held forever ends the answers.
func supervise(ctx context.Context, socket string, w *watch, e *daemon.Enforcer, log *slog.Logger) {
	if !notify.Listening() {
		return
	}
	said := ""
	complain := func(event string, err error) {
		if err != nil && err.Error() != said {
			log.Error("systemd is not told how meshnetd is", "event", event, "error", err)
			said = err.Error()
		}
	}
	pause, err := notify.Pause()
	complain("no_notify", err)
	ticker := time.NewTicker(pause)
	defer ticker.Stop()
	for {
		text := w.sentence(socket, e)
		if sick := w.alive(e, time.Now()); sick != nil {
			complain("not_alive", sick)
			text += "; " + sick.Error()
			complain("no_notify", notify.Status(text))
		} else {
			complain("no_notify", notify.Alive(text))
		}
		if w.nowReady(e) {
			err := notify.Ready(w.sentence(socket, e)) // it may just have become so
			complain("no_notify", err)
			w.announce(err == nil)
		}
		select { // many changes at once make few status lines
		case <-ctx.Done():
		case <-time.After(linePause):
		}
		select {
		case <-ctx.Done():
			complain("no_notify", notify.Stopping("stopping; the rules of running pods stay"))
			return
		case <-w.changed:
		case <-ticker.C:
		}
	}
}

// nowReady reports whether the daemon is ready, and systemd does not know it.
func (w *watch) nowReady(e *daemon.Enforcer) bool {
	why := w.ready(e)
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.announced && why == nil
}

func (w *watch) announce(told bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.announced = told
}

func (w *watch) isAnnounced() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.announced
}

// sentence returns the status line for systemd.
func (w *watch) sentence(socket string, e *daemon.Enforcer) string {
	counts := map[lifecycle.State]int{}
	for _, sb := range e.View().Sandboxes() {
		counts[sb.State]++
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	var parts []string
	whole := counts[lifecycle.StateProtected] + counts[lifecycle.StateOutdated]
	switch rt := w.shown(e); {
	case rt == nil:
		parts = append(parts, "waiting for the runtime's NRI socket "+socket)
	case !w.connected:
		parts = append(parts, fmt.Sprintf("no session with %s since %s; %d pods keep their rules", rt, w.since.Format(time.TimeOnly), whole))
	default:
		parts = append(parts, fmt.Sprintf("protecting %d pods, %s, tier %s", whole, rt, rt.Tier))
	}
	for _, c := range []struct {
		state lifecycle.State
		text  string
	}{
		{lifecycle.StatePending, "not taken over yet"}, {lifecycle.StateFailing, "failing"}, {lifecycle.StateUnproven, "of which nobody can tell what their rules do"}, {lifecycle.StateUnprotected, "without rules"},
	} {
		if n := counts[c.state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, c.text))
		}
	}
	if w.waiting.Why != nil && w.waiting.Cause != nriplugin.NoSocket {
		parts = append(parts, w.waiting.Why.Error())
	}
	if w.rejected != nil {
		parts = append(parts, "the configuration on disk is bad and not in force: "+w.rejected.Error())
	}
	return strings.Join(parts, "; ")
}
