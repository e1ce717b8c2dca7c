// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/rules"
)

const (
	takeoverWorkers = 4
	takeoverTimeout = 10 * time.Second // for one pod; no runtime waits for it
)

// Synchronize takes the pods that exist already through the same flow: those whose rules are missing get
// them. It returns when all are done or ctx ends; the rest are then done in the background, since the
// runtime starts no pod of the node meanwhile.
func (e *Enforcer) Synchronize(ctx context.Context, pods []rules.Pod) {
	queue := make(chan rules.Pod)
	var workers sync.WaitGroup
	for range takeoverWorkers {
		workers.Go(func() {
			for pod := range queue {
				e.takeOver(pod)
			}
		})
	}
	done := make(chan struct{})
	go func() {
		for _, pod := range pods {
			queue <- pod
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

func (e *Enforcer) takeOver(pod rules.Pod) {
	ctx, cancel := context.WithTimeout(context.Background(), takeoverTimeout)
	defer cancel()
	e.Enforce(ctx, Takeover, pod)
}
