// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
)

const (
	takeoverWorkers = 4
	takeoverTimeout = 10 * time.Second // for one pod; no runtime waits for it
	stopTimeout     = time.Minute      // for one sandbox to be stopped over CRI
)

// Synchronize takes the pods that exist already through the same flow, and forgets all others. It returns
// when all are done or ctx ends; the rest are then done in the background, since the runtime starts no pod
// of the node meanwhile.
func (e *Enforcer) Synchronize(ctx context.Context, pods []rules.Pod) {
	e.sandboxes.keep(pods)
	expected := make([]bool, len(pods))
	for i, pod := range pods { // before any event can come: what their containers say is told only once
		expected[i] = e.expect(pod)
	}
	queue := make(chan int)
	var workers sync.WaitGroup
	for range takeoverWorkers {
		workers.Go(func() {
			for i := range queue {
				if known, _ := e.sandboxes.get(pods[i].SandboxID); !expected[i] || known.State == StatePending {
					e.conclude(e.takeOver(context.Background(), pods[i]))
				} // else an event or the auditor came first
			}
		})
	}
	done := make(chan struct{})
	go func() {
		for i := range pods {
			queue <- i
		}
		close(queue)
		workers.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-ctx.Done():
	}
}

// expect remembers a pod that is to be taken over, with what its containers say. It returns whether the pod
// is new.
func (e *Enforcer) expect(pod rules.Pod) (pending bool) {
	o := begin(Takeover, pod)
	e.decide(&o)
	if (o.Result == Skipped && !e.shownByContainers(o) && !e.left(o)) || pod.NetNS == "" {
		return false // there will be nothing to remember
	}
	e.sandboxes.put(pod.SandboxID, func(sb *Sandbox) {
		if sb.State == "" {
			*sb = Sandbox{Pod: pod, State: StatePending, Decision: o.Decision, Since: time.Now()}
			sb.Pod.Containers = nil
		}
		pending = sb.State == StatePending
		sb.running = slices.ContainsFunc(pod.Containers, func(c rules.Container) bool { return c.Running })
		sb.Pod.Containers = overlay(sb.Pod.Containers, e.refining(pod.Containers))
		sb.Users = overlay(sb.Users, users(pod.Containers...))
	})
	return pending
}

// takeOver looks at one pod.
func (e *Enforcer) takeOver(ctx context.Context, pod rules.Pod) Outcome {
	ctx, cancel := context.WithTimeout(ctx, takeoverTimeout)
	defer cancel()
	o := begin(Takeover, pod)
	if known, expected := e.sandboxes.get(pod.SandboxID); expected {
		o.Running, o.Pod.Containers = known.running, nil // they are in what is known, and events may have added to it
	}
	return e.enforce(ctx, o)
}

// conclude records what became of a pod that was taken over, or stops it as the configuration says.
func (e *Enforcer) conclude(o Outcome) {
	if o.gone() {
		e.sandboxes.forget(o.Pod.SandboxID)
	}
	if o.Result == Unprotected && e.policy.Load().CatchUp == config.CatchUpStop && e.Stop != nil {
		// Not here: the runtime passes the end of a sandbox to its plugins, and they are all waiting for us.
		go e.stop(o)
		return
	}
	e.record(o)
}

// stop ends a sandbox that runs without its rules; the kubelet then makes a new one.
func (e *Enforcer) stop(o Outcome) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	if err := e.Stop(ctx, o.Pod.SandboxID); err != nil {
		o.Err = fmt.Errorf("%w; and its sandbox could not be stopped: %w", o.Err, err)
	} else {
		o.Stopped = true
		e.sandboxes.forget(o.Pod.SandboxID)
	}
	o.Took = time.Since(o.Began)
	e.record(o)
}
