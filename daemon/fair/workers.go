// SPDX-License-Identifier: Apache-2.0

package fair

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// How much abandoned work there may be at once: of all pods, and of one tenant's. Each piece holds a thread and its
// memory, and Go cannot end it from outside.
const (
	mostLate         = 32
	mostLateOfTenant = 4
)

// Workers counts work that goes on after its caller stopped waiting. Its zero value has none.
type Workers struct {
	mu      sync.Mutex
	pods    map[string]int // how much of each
	tenants map[string]int
	all     int
}

// Job is work for one pod.
type Job struct {
	of          *Workers
	pod, tenant string
	ended, late bool // guarded by the workers
}

// Begin counts work for a pod of that tenant, which ends with End. It is an error where too much is left over from
// before: of the pod itself, of its tenant, of all.
func (w *Workers) Begin(pod, tenant string) (*Job, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.pods[pod] > 0:
		return nil, errors.New("the last try, which used up its time, is still at work")
	case w.tenants[tenant] >= mostLateOfTenant:
		return nil, fmt.Errorf("%d tries for pods of namespace %s, which used up their time, are still at work", mostLateOfTenant, tenant)
	case w.all >= mostLate:
		return nil, fmt.Errorf("%d tries for other pods, which used up their time, are still at work on this node", mostLate)
	}
	return &Job{of: w, pod: pod, tenant: tenant}, nil
}

// Abandon says that nobody waits for the work any more.
func (j *Job) Abandon() {
	w := j.of
	w.mu.Lock()
	defer w.mu.Unlock()
	if j.ended {
		return
	}
	if w.pods == nil {
		w.pods, w.tenants = map[string]int{}, map[string]int{}
	}
	j.late = true
	w.all++
	w.pods[j.pod]++
	w.tenants[j.tenant]++
}

// End says that the work is over.
func (j *Job) End() {
	w := j.of
	w.mu.Lock()
	defer w.mu.Unlock()
	j.ended = true
	if !j.late {
		return
	}
	w.all--
	less(w.pods, j.pod)
	less(w.tenants, j.tenant)
}

func less(counts map[string]int, key string) {
	if counts[key]--; counts[key] == 0 {
		delete(counts, key)
	}
}

// ErrGivenUp is returned by work that noticed between two steps that nobody waits for it any more.
var ErrGivenUp = errors.New("given up")

// GivenUp is an error where that is so, and nothing more is to be read, written or recorded.
func GivenUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w: %w", ErrGivenUp, err)
	}
	return nil
}
