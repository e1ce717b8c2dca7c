// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"log/slog"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/kubelet"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/status"
)

// watch keeps what the status tells beside the pods: the session with the runtime, and counts.
type watch struct {
	started time.Time
	backend string

	kubelet *kubelet.Source // nil where nobody asks it; set before the first reading

	mu        sync.Mutex
	runtime   *nriplugin.Runtime // of the last session; nil before the first
	connected bool
	since     time.Time
	waiting   nriplugin.Waiting // why there is no session, where that is known
	events    map[string]int
	recent    recent
	rejected  error // why the configuration that was read last is not in force; nil where it is

	linesLost atomic.Int64 // of the log

	auditInterval time.Duration
	configuredAt  time.Time // when the configuration in force was read

	announced bool          // systemd was told that the daemon is ready
	reload    func() error  // see status.Status
	changed   chan struct{} // tells supervise that there is something to tell
}

func newWatch(backend string) *watch {
	return &watch{started: time.Now(), backend: backend, events: map[string]int{}, changed: make(chan struct{}, 1)}
}

// counting counts the outcomes that go to record.
func (w *watch) counting(record func(outcome.Outcome)) func(outcome.Outcome) {
	return func(o outcome.Outcome) {
		w.mu.Lock()
		event := o.Event()
		w.events[event]++
		w.recent.add(o)
		w.mu.Unlock()
		if event != outcome.EventSkipped { // which changes nothing in the status
			w.poke()
		}
		record(o)
	}
}

// change changes what is told, and tells supervise.
func (w *watch) change(to func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to()
	w.poke()
}

func (w *watch) synced(rt nriplugin.Runtime) {
	w.change(func() { w.runtime, w.connected, w.since, w.waiting = &rt, true, time.Now(), nriplugin.Waiting{} })
}

func (w *watch) lost(error) { w.change(func() { w.connected, w.since = false, time.Now() }) }

// waits remembers why there is no session.
func (w *watch) waits(why nriplugin.Waiting) { w.change(func() { w.waiting = why }) }

// configured remembers the configuration that is in force.
func (w *watch) configured(cfg config.Config) {
	w.change(func() { w.auditInterval, w.configuredAt, w.rejected = cfg.AuditInterval, time.Now(), nil })
}

// refused remembers why another configuration is not in force.
func (w *watch) refused(err error) { w.change(func() { w.rejected = err }) }

func (w *watch) poke() {
	select {
	case w.changed <- struct{}{}:
	default:
	}
}

// runtimeName returns the name of the runtime of the last session, or "".
func (w *watch) runtimeName() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.runtime == nil {
		return ""
	}
	return w.runtime.Name
}

// shown is the runtime of the last session as containers of the mesh have shown it: without its validator nothing keeps them
// back. It is nil before the first one. The caller holds the lock.
func (w *watch) shown(e *daemon.Enforcer) *nriplugin.Runtime {
	if w.runtime == nil {
		return nil
	}
	rt := *w.runtime
	if rt.Tier != nriplugin.BestEffort && e.View().ValidatorOff() {
		rt.Tier, rt.Why = nriplugin.BestEffort, "Its validator is off, as its last question about a container of the mesh showed: nothing keeps "+
			"containers from starting without meshnetd."
	}
	return &rt
}

// status puts together what there is to tell.
func (w *watch) status(e *daemon.Enforcer) status.Status {
	w.mu.Lock()
	s := status.Status{Version: buildVersion(), Started: w.started, Backend: w.backend, Connected: w.connected,
		Since: w.since, Reload: w.reload, Pods: status.Counts{}, Events: maps.Clone(w.events), Recent: w.recent.all()}
	if rt := w.shown(e); rt != nil {
		s.Runtime = &status.Runtime{Name: rt.Name, Version: rt.Version, Tier: string(rt.Tier), Why: rt.Why,
			Validates: rt.Validates, TellsUser: rt.TellsUser, Limits: rt.Limits}
	}
	if w.waiting.Why != nil {
		s.Waiting = &status.Waiting{Cause: string(w.waiting.Cause), Why: w.waiting.Why.Error()}
	}
	if w.rejected != nil {
		s.Rejected = w.rejected.Error()
	}
	w.mu.Unlock()
	if last, ok := e.Auditor.Last(); ok {
		s.Audit = &status.Audit{Last: last.Ended, Took: status.Milliseconds(last.Took), Pods: last.Pods, Drifted: last.Drifted}
	}
	for _, sb := range e.View().Sandboxes() {
		s.Pods[string(sb.State)]++
		s.Sandboxes = append(s.Sandboxes, status.Sandbox{Namespace: sb.Pod.Namespace, Name: sb.Pod.Name, ID: sb.Pod.SandboxID,
			State: string(sb.State), Reason: string(sb.Decision.Reason), Mesh: sb.Decision.Mesh, Plan: sb.Key, Source: e.View().Source(sb),
			Rules: sb.Plan.Rules(), Backend: sb.Backend, Since: sb.Since, Took: status.Milliseconds(sb.Took), Detail: sb.Detail, Why: sb.Why,
			NetNS: sb.Pod.NetNS, NotHeld: e.View().Loose(sb).Why(), Beside: sb.Beside, Misspelt: e.View().Misspelt(sb), Loosened: sb.Loosened(), Around: ipv6Around(sb), Drift: status.Drift{Times: sb.Drift.Times, Last: sb.Drift.Last}, CanBypass: bypassOf(e, sb), Lockdown: lockdownOf(sb), Live: live{e, sb.Pod.SandboxID}})
	}
	if w.kubelet != nil {
		k := w.kubelet.State()
		s.Kubelet = &status.Kubelet{Socket: k.Socket, Condition: string(k.Condition), Since: k.Since, Why: k.Why, Pods: k.Pods, Left: k.Left, LeftWhy: k.LeftWhy,
			Known: k.Known, Asked: k.Asked, Unanswered: k.Unanswered}
	}
	s.Lacks, s.LacksMore = lacksOf(e)
	s.Synchronized = s.Connected && s.Pods[string(lifecycle.StatePending)] == 0
	return s
}

func lockdownOf(sb memory.Sandbox) (all []status.Lockdown) {
	for _, c := range sb.Counted {
		all = append(all, status.Lockdown{Class: string(c.Class), Action: lockdownAction(c.Closed), Packets: c.Packets})
	}
	return all
}

func lacksOf(e *daemon.Enforcer) (all []status.Lack, more []string) {
	lacks, more := e.View().Lacks()
	for _, l := range lacks {
		all = append(all, status.Lack{Namespace: l.Namespace, Lockdown: l.Lockdown.Place, Key: l.Key, Value: l.Value, Seen: l.Seen.String(), Pods: l.Pods, MorePods: l.More})
	}
	return all, more
}

// statusPause is how long a socket that cannot be had is left alone: another daemon may hold it.
const statusPause = 10 * time.Second

// serveStatus serves the status until ctx ends. That it cannot is no reason to leave pods alone.
func serveStatus(ctx context.Context, socket string, read func() status.Status, pages []status.Page, log *slog.Logger) {
	insist(ctx, func() error { return status.Serve(ctx, socket, read, pages...) }, func(err error) {
		log.Error("cannot serve the status socket; retrying", "event", "no_status", "error", err)
	})
}

// insist serves until ctx ends, tries again where it cannot, and says so once.
func insist(ctx context.Context, serve func() error, say func(error)) {
	said := false
	for ctx.Err() == nil {
		if err := serve(); err != nil && !said {
			say(err)
			said = true
		}
		select {
		case <-ctx.Done():
		case <-time.After(statusPause):
		}
	}
}
