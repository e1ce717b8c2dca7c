// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// memory holds the rules of fake namespaces. Any of its calls can be made to fail.
type inMemory struct {
	*machine
	mu       sync.Mutex
	plans    map[netns.ID]rules.Plan
	foreign  map[netns.ID]int // changes by others
	changes  map[netns.ID]int // by anybody
	calls    int
	applied  int               // plans that were written
	counts   map[string]uint64 // of every namespace
	readOnly bool
	fail     func(call int) error // nil: none fails
}

func newMemory() *inMemory {
	return &inMemory{machine: newMachine(), plans: map[netns.ID]rules.Plan{}, foreign: map[netns.ID]int{}, changes: map[netns.ID]int{}}
}

// call counts the call, and holds the lock until the returned function is called.
func (m *inMemory) call() (func(), error) {
	m.mu.Lock()
	m.calls++
	if m.fail != nil {
		if err := m.fail(m.calls); err != nil {
			return m.mu.Unlock, err
		}
	}
	return m.mu.Unlock, nil
}

func (m *inMemory) on() *machine { return m.machine }

func (m *inMemory) in(ns netns.ID) kernel.Firewall { return memoryOf{m, ns} }

// memoryOf is what is in one namespace.
type memoryOf struct {
	*inMemory
	ns netns.ID
}

func (m memoryOf) Name(*netns.Namespace, rules.Plan) string { return "memory" }

func (m memoryOf) Apply(_ context.Context, _ *netns.Namespace, plan rules.Plan) (bool, error) {
	done, err := m.call()
	defer done()
	if err != nil {
		return false, err
	}
	changed := m.plans[m.ns].Key() != plan.Key()
	if changed && m.readOnly {
		return false, errBroken
	}
	if changed {
		m.applied++
		m.changes[m.ns]++
	}
	m.plans[m.ns] = plan
	return changed, nil
}

func (m memoryOf) Verify(_ context.Context, _ *netns.Namespace, plan rules.Plan) ([]rules.Difference, error) {
	done, err := m.call()
	defer done()
	if err != nil {
		return nil, err
	}
	var diffs []rules.Difference
	for i, want := range plan.Rulesets() {
		diffs = append(diffs, rules.Diff(m.plans[m.ns].Rulesets()[i], want, plan.Footprint)...)
	}
	return diffs, nil
}

func (m memoryOf) Effect(_ context.Context, _ *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (r effect.Result, err error) {
	done, err := m.call()
	defer done()
	have.V4, have.V6 = m.plans[m.ns].V4, m.plans[m.ns].V6
	if have.Key() == plan.Key() { // what is foreign here does nothing
		return effect.Result{Alone: m.foreign[m.ns] == 0}, err
	}
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		pod := effect.NewPod(interfaces)
		one := effect.Compare(pod, effect.OfPlan(pod, plan, family), effect.OfPlan(pod, have, family))
		r.Answer, r.Differences = max(r.Answer, one.Answer), append(r.Differences, one.Differences...)
	}
	return r, err
}

func (m memoryOf) Own(_ context.Context, _ *netns.Namespace, _ rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	done, err := m.call()
	defer done()
	return m.plans[m.ns].V4, m.plans[m.ns].V6, err
}

func (m memoryOf) Fingerprint(_ context.Context, _ *netns.Namespace) (fingerprint, generation string, err error) {
	done, err := m.call()
	defer done()
	if err != nil {
		return "", "", err
	}
	return fmt.Sprint(m.plans[m.ns].Key(), m.foreign[m.ns]), fmt.Sprint(m.changes[m.ns]), nil
}

func (m memoryOf) Generation(_ context.Context, _ *netns.Namespace) (string, error) {
	done, err := m.call()
	defer done()
	return fmt.Sprint(m.changes[m.ns]), err
}

func (m memoryOf) Counts(context.Context, *netns.Namespace) (map[string]uint64, error) {
	done, err := m.call()
	defer done()
	return maps.Clone(m.counts), err
}

// put is somebody else who writes the rules of a plan into the namespace; the zero Plan flushes it.
func (m *inMemory) put(t *testing.T, path string, plan rules.Plan) {
	t.Helper()
	id := identity(t, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.plans[id] = plan
	m.changes[id]++
}

// reroute is somebody else who makes the routes and the addresses on lo those of a plan.
func (m *inMemory) reroute(t *testing.T, path string, plan rules.Plan) {
	t.Helper()
	id := identity(t, path)
	m.machine.mu.Lock()
	defer m.machine.mu.Unlock()
	m.routes[id] = plan
}

// touch is somebody else who writes rules that are none of meshnetd's.
func (m *inMemory) touch(t *testing.T, path string) {
	t.Helper()
	id := identity(t, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.foreign[id]++
	m.changes[id]++
}

// holds returns the plan in the namespace.
func (m *inMemory) holds(t *testing.T, path string) rules.Plan {
	t.Helper()
	id := identity(t, path)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.plans[id]
}

func (m *inMemory) count() (calls, applied int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.calls, m.applied
}

func (m *inMemory) failWith(fail func(call int) error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.fail, m.calls = fail, 0
}

var errBroken = errors.New("broken")

func always(int) error { return errBroken }

func identity(t *testing.T, path string) netns.ID {
	t.Helper()
	var st unix.Stat_t
	if err := unix.Stat(path, &st); err != nil {
		t.Fatal(err)
	}
	return netns.ID{Dev: st.Dev, Ino: st.Ino}
}

// eventually waits for a condition.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	limit := time.After(20 * time.Second)
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !done() {
		select {
		case <-tick.C:
		case <-limit:
			t.Fatal("never: ", what)
		}
	}
}

// events returns the recorded events in their order.
func (r *recorder) events() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var events []string
	for _, o := range r.outcomes {
		events = append(events, o.Event())
	}
	return events
}
