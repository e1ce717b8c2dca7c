// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/rules"
)

const (
	takeoverWorkers = 4
	takeoverTimeout = 2 * time.Second // for one pod; one that needs more is left to the auditor
	stopTimeout     = time.Minute     // for one sandbox to be stopped over CRI
)

// Synchronize takes the pods that exist already through the same flow, and forgets all others. It returns
// when all are done or ctx ends; the rest are then done in the background, since the runtime starts no pod
// of the node meanwhile.
func (e *Enforcer) Synchronize(ctx context.Context, pods []rules.Pod) {
	exist := make(map[string]bool, len(pods))
	for _, pod := range pods {
		exist[pod.SandboxID] = true
	}
	e.sandboxes.ForgetAllBut(exist)
	e.sandboxes.Receipts.Keep(exist)
	pending := make([]bool, len(pods))
	for i, pod := range pods { // before any event: the runtime tells what their containers say only once
		pending[i] = e.sandboxes.Expect(e.policy.Load(), pod)
	}
	queue := make(chan int)
	var workers sync.WaitGroup
	for range takeoverWorkers {
		workers.Go(func() {
			for i := range queue {
				if known, _ := e.sandboxes.Get(pods[i].SandboxID); !pending[i] || known.State == lifecycle.StatePending {
					ctx, cancel := context.WithTimeout(context.Background(), takeoverTimeout)
					e.report(e.takeOver(ctx, outcome.Begin(lifecycle.Takeover, pods[i])))
					cancel()
				} // else an event or the auditor came first
			}
		})
	}
	done := make(chan struct{})
	go func() {
		for _, i := range byWeight(pods) {
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

// byWeight returns the indices of pods, those with the fewest inputs first: they are done soonest.
func byWeight(pods []rules.Pod) []int {
	weights, order := make([]int, len(pods)), make([]int, len(pods))
	for i, pod := range pods {
		weights[i], order[i] = sharing.Weight(pod), i
	}
	slices.SortStableFunc(order, func(a, b int) int { return cmp.Compare(weights[a], weights[b]) })
	return order
}

// takeOver looks at one pod. One that is outside the mesh is not entered, and forgotten. Of what the kubelet says of it
// only counts whether it has the host's network: what its containers are given, before each of them (checkPowers).
func (e *Enforcer) takeOver(ctx context.Context, o outcome.Look) outcome.Look {
	pod := o.Pod
	spec, _ := specification(e.Kubelet, pod.UID)
	o.Pod.HostNetwork = pod.With(spec).HostNetwork
	known, expected := e.sandboxes.Get(pod.SandboxID)
	if known.Undecided() {
		o.Pod.Containers = known.Pod.Containers
	}
	if !expected || known.Undecided() {
		asked := e.decideUnknown(ctx, o)
		if ended := e.unseen(asked); ended.Decided {
			ended.End()
			return ended
		}
		e.sandboxes.Decided(e.policy.Load(), asked)
	}
	if _, expected = e.sandboxes.Get(pod.SandboxID); expected {
		o.Pod.Containers = nil // they are in what is known, and events may have added to it
	}
	return e.enforce(ctx, o)
}

// stop ends a sandbox that runs without its rules; the kubelet then makes a new one.
func (e *Enforcer) stop(o outcome.Look) {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	trouble := lifecycle.Stopped
	if err := e.StopSandbox(ctx, o.Pod.SandboxID); err != nil {
		trouble, o.Err = lifecycle.NotStopped, fmt.Errorf("%w; and its sandbox could not be stopped: %w", o.Err, err)
	}
	o = e.fromMemory(o, lifecycle.Undecided, trouble)
	o.Took = time.Since(o.Began)
	e.report(o)
}
