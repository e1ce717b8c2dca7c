// SPDX-License-Identifier: Apache-2.0

// Package auditor comes back to every sandbox again and again.
package auditor

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
)

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

// Auditor goes around. New makes one.
type Auditor struct {
	last    atomic.Pointer[Audit]
	heard   atomic.Pointer[time.Time]
	hurried chan struct{}
}

// New returns an auditor that has seen nothing.
func New() *Auditor { return &Auditor{hurried: make(chan struct{}, 1)} }

// Node is where it goes around.
type Node interface {
	// Interval is that in which each sandbox is looked at once.
	Interval() time.Duration
	// Next returns the sandbox whose turn it is, or "" and when the next turn comes: the zero time where there is no sandbox.
	Next(now time.Time, interval time.Duration) (id string, turn fair.Turn, comes time.Time)
	// Look ends the sandbox's turn.
	Look(ctx context.Context, id string, pass *Audit)
}

// Run looks at every sandbox once in each interval, counted from when that was last looked at, until ctx ends, and tries again
// where something failed.
func (a *Auditor) Run(ctx context.Context, node Node) {
	pass := Audit{began: time.Now()}
	for ctx.Err() == nil {
		now, interval := time.Now(), node.Interval()
		a.heard.Store(&now)
		id, turn, comes := node.Next(now, interval)
		ends := pass.began.Add(interval)
		if seen := id == "" || turn.Missed > 0 || !turn.Looked.Before(pass.began); seen && !now.Before(ends) {
			done := pass
			done.Ended = now
			a.last.Store(&done)
			pass, ends = Audit{began: now}, now.Add(interval)
		}
		if id == "" {
			if !comes.IsZero() && comes.Before(ends) {
				ends = comes
			}
			a.pause(ctx, ends.Sub(now))
			continue
		}
		node.Look(ctx, id, &pass)
		pass.Took += time.Since(now)
	}
}

// pause waits, but not for long, since new sandboxes may have come.
func (a *Auditor) pause(ctx context.Context, pause time.Duration) {
	timer := time.NewTimer(min(pause, heartbeat))
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-a.hurried:
	case <-timer.C:
	}
}

// Hurry ends a pause, since the interval is another one.
func (a *Auditor) Hurry() {
	select {
	case a.hurried <- struct{}{}:
	default:
	}
}

// Last returns the last pass that was finished; false if there was none.
func (a *Auditor) Last() (Audit, bool) { return loaded(&a.last) }

// Heard returns when the auditor last showed that it is alive, which it does at least every 20 seconds; false before its first
// step.
func (a *Auditor) Heard() (time.Time, bool) { return loaded(&a.heard) }

func loaded[T any](p *atomic.Pointer[T]) (value T, ok bool) {
	if at := p.Load(); at != nil {
		return *at, true
	}
	return value, false
}
