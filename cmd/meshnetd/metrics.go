// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"log/slog"
	"time"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/kubelet"
	"github.com/meshnetd/meshnetd/metrics"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
	"github.com/meshnetd/meshnetd/systemd/journal"
)

// metered counts and measures the outcomes that go to record.
func metered(m *metrics.Metrics, record func(outcome.Outcome)) func(outcome.Outcome) {
	return func(o outcome.Outcome) {
		event := o.Event()
		m.Outcome(metrics.Outcome{Event: event, Reason: string(o.Decision.Reason), Mesh: o.Decision.Mesh})
		for i, spent := range o.Spent {
			if spent > 0 {
				m.Stage(string(outcome.Stages[i]), spent)
			}
		}
		if o.Drifted {
			m.Drifted()
		}
		if event == outcome.EventRepaired {
			m.Repaired()
		}
		record(o)
	}
}

// answered measures how long the runtime had to wait, and returns what it is told.
func answered(m *metrics.Metrics, o outcome.Outcome, trigger lifecycle.Trigger) error {
	m.Hook(metrics.Hook{Trigger: string(trigger), Result: string(o.Result)}, time.Since(o.Began))
	return o.Error()
}

func (w *watch) lineLost() { w.linesLost.Add(1) }

// state puts together what the metrics tell beside what they count. The queue may be nil.
func (w *watch) state(e *daemon.Enforcer, queue *journal.Queue) metrics.State {
	s := metrics.State{Ready: w.ready(e) == nil, Backend: w.backend, Sandboxes: map[string]int{}, IPv6Around: map[string]int{}, NotHeld: map[string]int{}, LinesLost: w.linesLost.Load(),
		Waiting: map[string]bool{}}
	if queue != nil {
		s.LinesLost += queue.Lost()
	}
	count(&s, e.View().Sandboxes())
	for _, loose := range memory.Looses {
		s.NotHeld[string(loose)] = 0
	}
	for _, sb := range e.View().Sandboxes() {
		if loose := e.View().Loose(sb); loose != "" {
			s.NotHeld[string(loose)]++
		}
	}
	s.CanBypass, s.Lockdown = canBypass(e), lockdownTotals(e)
	if w.kubelet != nil {
		k := w.kubelet.State()
		s.Kubelet = &metrics.Kubelet{Complete: k.Condition == kubelet.Complete, Pods: k.Pods,
			Started: map[string]int{"known": k.Known, "asked": k.Asked, "unanswered": k.Unanswered}}
	}
	w.mu.Lock()
	s.Connected, s.Interval, s.Rejected, s.Reloaded = w.connected, w.auditInterval, w.rejected != nil, w.configuredAt
	for _, cause := range nriplugin.Causes {
		s.Waiting[string(cause)] = cause == w.waiting.Cause
	}
	if rt := w.shown(e); rt != nil {
		s.Runtime = &metrics.Runtime{Name: rt.Name, Version: rt.Version, Tier: string(rt.Tier)}
	}
	begun := w.started
	w.mu.Unlock()
	if last, ok := e.Auditor.Last(); ok {
		s.Audit = &metrics.Audit{Ended: last.Ended, Took: last.Took}
		begun = last.Ended
	}
	s.Audited = time.Since(begun)
	return s
}

// bypassOf says how a pod can go around its rules, or that nobody can know.
func bypassOf(e *daemon.Enforcer, sb memory.Sandbox) string {
	all, unreadable := e.View().Bypasses(sb)
	if unreadable != "" {
		return "not known, since what the kubelet tells of the pod is not taken in (" + unreadable + ")"
	}
	return rules.SayBypasses(all)
}

// canBypass counts the pods that can go around their rules, by how.
func canBypass(e *daemon.Enforcer) map[string]int {
	pods := map[string]int{}
	for _, way := range rules.Ways {
		pods[string(way)] = 0
	}
	const unknown = "unknown"
	pods[unknown] = 0
	for _, sb := range e.View().Sandboxes() {
		all, unreadable := e.View().Bypasses(sb)
		if unreadable != "" {
			pods[unknown]++
		}
		ways := map[rules.Way]bool{}
		for _, b := range all {
			for _, way := range b.Ways {
				ways[way] = true
			}
		}
		for way := range ways {
			pods[string(way)]++
		}
	}
	return pods
}

func lockdownTotals(e *daemon.Enforcer) map[metrics.Locked]uint64 {
	all := map[metrics.Locked]uint64{}
	for of, n := range e.View().Totals() {
		all[metrics.Locked{Namespace: of.Namespace, Class: string(of.Class), Action: lockdownAction(of.Closed)}] = n
	}
	return all
}

// lockdownAction says what a lockdown did with packets.
func lockdownAction(closed bool) string {
	if closed {
		return "closed"
	}
	return "counted"
}

// count tells the pods of the mesh by what is known of them, and those whose IPv6 goes around their proxy.
func count(s *metrics.State, all []memory.Sandbox) {
	for _, state := range lifecycle.States {
		s.Sandboxes[string(state)] = 0
	}
	for _, sb := range all {
		s.Sandboxes[string(sb.State)]++
		if sb.Decision.Action != rules.Enrol {
			continue
		}
		around := 0
		if ipv6Around(sb) {
			around = 1
		}
		s.IPv6Around[sb.Decision.Mesh] += around
	}
}

func ipv6Around(sb memory.Sandbox) bool {
	return sb.Decision.Action == rules.Enrol && sb.Plan.WithoutIPv6 == rules.IPv6Mesh
}

// pages are what is served to those who watch the daemon.
func pages(m *metrics.Metrics, w *watch, e *daemon.Enforcer) []status.Page {
	return []status.Page{
		{Path: "/metrics", Handler: m.Handler()},
		{Path: "/livez", Handler: status.Check("alive: locks are free, and the auditor comes around", func() error { return w.alive(e, time.Now()) })},
		{Path: "/readyz", Handler: status.Check("ready: connected to the runtime, and pods that were there before are taken over, or were tried for 20 seconds", func() error { return w.ready(e) })},
	}
}

// serveMetrics serves the pages on a place of their own until ctx ends. That it cannot is no reason to leave pods
// alone.
func serveMetrics(ctx context.Context, address string, pages []status.Page, log *slog.Logger) {
	insist(ctx, func() error { return status.ServePages(ctx, address, pages...) }, func(err error) {
		log.Error("cannot serve metrics and health on that address; retrying", "event", "no_metrics", "error", err)
	})
}
