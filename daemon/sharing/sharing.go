// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package sharing keeps one pod from using up the time of others: work on a pod is bounded, what is late goes on by itself, and a
// pod that used up its time is refused from memory for a while. How long, and by whose account, package fair says.
package sharing

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"
	"strconv"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/rules"
)

// Sharing keeps one pod from using up the time of others.
type Sharing struct {
	ledger  fair.Ledger
	workers fair.Workers
	seed    maphash.Seed // of inputHash
}

// New returns one that has seen no pod yet.
func New() Sharing { return Sharing{seed: maphash.MakeSeed()} }

// account names the pod that time is counted for. Not the sandbox first: the kubelet retries in a new one.
func account(pod rules.Pod) string { return cmp.Or(pod.UID, pod.SandboxID, pod.NetNS) }

// Within runs work and stops waiting for it when ctx ends, since netlink and programs honour no context. A panic becomes
// an error. While the runtime waits, a pod that used up its time a short while ago is refused at once, and a decision that
// takes more than its part of the time is given up.
func (s *Sharing) Within(ctx context.Context, o outcome.Look, work func(context.Context, *outcome.Look) error) outcome.Look {
	if o.Waited && s.rejects(&o, time.Now()) {
		return o
	}
	job, err := s.workers.Begin(account(o.Pod), o.Pod.Namespace)
	if err != nil {
		o.Overdue()
		o.Result, o.Err, o.Overrun = lifecycle.Failed, fmt.Errorf("not begun: %w", err), true
		return o
	}
	o.Watched()
	ctx, cancel := s.slice(ctx, o)
	defer cancel()
	its := o // nobody else's, until it is done
	done := make(chan struct{})
	go func() {
		defer job.End()
		if err := recovered.Call(func() error { return work(ctx, &its) }); err != nil {
			its.Result, its.Err = lifecycle.Failed, err
		}
		close(done)
	}()
	select {
	case <-done:
		return s.ended(ctx, its)
	case <-ctx.Done():
	}
	if !o.Watch.LastWord() {
		<-done // which only records what came of it
	}
	select { // what is done is done, even if the time is up as well
	case <-done:
		return s.ended(ctx, its)
	default:
	}
	job.Abandon()
	return s.overran(ctx, o, o.Watch.At())
}

// slice returns how much of the runtime's time a pod gets. It is over sooner where a decision has had its part of it.
func (s *Sharing) slice(ctx context.Context, o outcome.Look) (context.Context, context.CancelFunc) {
	deadline, limited := ctx.Deadline()
	if !o.Waited || !limited || Light(o.Pod) { // one too small to be slow by itself is late where the node is slow
		return context.WithCancel(ctx)
	}
	now := time.Now()
	share := s.ledger.Share(o.Pod.Namespace, deadline.Sub(now), now)
	ctx, cancel := context.WithDeadline(ctx, now.Add(share))
	ctx, giveUp := context.WithCancelCause(ctx)
	timer := time.AfterFunc(fair.ForDecision(share), func() {
		if o.Watch.At() == outcome.StageDecide {
			giveUp(context.DeadlineExceeded)
		}
	})
	return ctx, func() { timer.Stop(); giveUp(nil); cancel() }
}

// ended returns the outcome of work that is over.
func (s *Sharing) ended(ctx context.Context, o outcome.Look) outcome.Look {
	if errors.Is(o.Err, fair.ErrGivenUp) && ctx.Err() != nil {
		return s.overran(ctx, o, o.Stage)
	}
	if o.Waited && o.Result.Admits() {
		s.ledger.InTime(account(o.Pod))
	}
	return o
}

// overran returns the outcome of work whose time was up in that stage. Waiting for a namespace's lock is not held against
// the pod.
func (s *Sharing) overran(ctx context.Context, o outcome.Look, stage outcome.Stage) outcome.Look {
	cause := context.Cause(ctx)
	o.Overdue()
	o.Result, o.Err = lifecycle.Failed, fmt.Errorf("not finished in time: %w", cause)
	if !errors.Is(cause, context.DeadlineExceeded) || stage == outcome.StageEnter {
		return o
	}
	o.Overrun = true
	heavy := !Light(o.Pod)
	if o.Waited && (heavy || o.Trigger != lifecycle.SandboxStarted) { // a new namespace has nothing in it that takes long to read
		now := time.Now()
		why := fmt.Sprintf("it used up its time (%s, in stage %s)", now.Sub(o.Began).Round(time.Millisecond), stage)
		s.ledger.Overran(account(o.Pod), o.Pod.Namespace, s.inputHash(o.Pod), heavy && stage == outcome.StageDecide, why, now)
	}
	return o
}

// rejects reports whether the pod used up its time a short while ago, and if so completes the outcome.
func (s *Sharing) rejects(o *outcome.Look, now time.Time) bool {
	why, till, refused := s.ledger.Refused(account(o.Pod), func() uint64 { return s.inputHash(o.Pod) }, now)
	if !refused {
		return false
	}
	o.Stage = outcome.StageBudget
	o.Decision.Action, o.Decision.Reason = rules.Reject, rules.ReasonOverTime
	o.Result, o.Err = lifecycle.Refused, fmt.Errorf("%s, and all pods of the node would wait for it again. It is looked at once more after %s, "+
		"or when its annotations or containers change: shorten their lists of ports and ranges; where they are short, the node is too slow",
		why, till.UTC().Format(time.DateTime+"Z"))
	return true
}

// inputHash returns a hash of everything that decides about a pod.
func (s *Sharing) inputHash(pod rules.Pod) uint64 {
	var h maphash.Hash
	h.SetSeed(s.seed)
	text := func(all ...string) {
		for _, t := range all {
			for _, part := range [...]string{strconv.Itoa(len(t)), ":", t} {
				_, _ = h.WriteString(part) // which never fails
			}
		}
	}
	table := func(all map[string]string) {
		for _, key := range slices.Sorted(maps.Keys(all)) {
			text(key, all[key])
		}
		text("")
	}
	table(pod.Labels)
	table(pod.Annotations)
	for _, c := range pod.Containers {
		text(c.Name)
		text(c.Args...)
		table(c.Env)
		for _, id := range []*int64{c.UID, c.GID} {
			if id != nil {
				text(strconv.FormatInt(*id, 10))
			}
		}
	}
	return h.Sum64()
}

// Light reports whether a pod's inputs are so few that no decision about it takes long.
func Light(pod rules.Pod) bool { return Weight(pod) <= 8<<10 }

// Weight returns how many bytes decide about a pod.
func Weight(pod rules.Pod) (bytes int) {
	table := func(all map[string]string) {
		for key, value := range all {
			bytes += len(key) + len(value)
		}
	}
	table(pod.Labels)
	table(pod.Annotations)
	for _, c := range pod.Containers {
		table(c.Env)
		for _, arg := range c.Args {
			bytes += len(arg)
		}
	}
	return bytes
}
