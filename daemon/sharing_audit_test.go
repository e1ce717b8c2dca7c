// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// sticky is a memory whose namespaces can be made slow: a look into them takes that long, whoever waits for it.
type sticky struct {
	*inMemory
	mu    sync.Mutex
	slow  map[netns.ID]time.Duration
	looks int // into slow ones
}

func (s *sticky) in(ns netns.ID) kernel.Firewall { return stickyOf{memoryOf{s.inMemory, ns}, s} }

type stickyOf struct {
	memoryOf
	sticky *sticky
}

func (s *sticky) wait(ns netns.ID) {
	s.mu.Lock()
	takes := s.slow[ns]
	if takes > 0 {
		s.looks++
	}
	s.mu.Unlock()
	if takes > 0 {
		time.Sleep(takes)
	}
}

// looked returns how often somebody looked into a slow namespace.
func (s *sticky) looked() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.looks
}

func (s stickyOf) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (bool, error) {
	s.sticky.wait(s.ns)
	return s.memoryOf.Apply(ctx, ns, plan)
}

func (s stickyOf) Generation(ctx context.Context, ns *netns.Namespace) (string, error) {
	s.sticky.wait(s.ns)
	return s.memoryOf.Generation(ctx, ns)
}

func (s stickyOf) Fingerprint(ctx context.Context, ns *netns.Namespace) (string, string, error) {
	s.sticky.wait(s.ns)
	return s.memoryOf.Fingerprint(ctx, ns)
}

func (s *sticky) slowDown(t *testing.T, pods []rules.Pod, takes time.Duration) {
	t.Helper()
	for _, pod := range pods {
		id := identity(t, pod.NetNS)
		s.mu.Lock()
		s.slow[id] = takes
		s.mu.Unlock()
	}
}

// crowd is so many pods of a namespace, each with a network namespace.
func crowd(t *testing.T, namespace string, n int) (pods []rules.Pod) {
	t.Helper()
	for i := range n {
		pod := meshed(newNetNS(t))
		pod.Namespace, pod.Name = namespace, fmt.Sprint(namespace, i)
		pod.SandboxID, pod.UID = pod.Name, pod.Name
		pods = append(pods, pod)
	}
	return pods
}

// repaired waits until the sandbox's namespace holds rules again, and returns how long it did not.
func (m *inMemory) repaired(t *testing.T, pod rules.Pod) time.Duration {
	t.Helper()
	began := time.Now()
	m.put(t, pod.NetNS, rules.Plan{})
	for m.holds(t, pod.NetNS).Rules() == 0 {
		if time.Since(began) > time.Hour {
			t.Fatal("never repaired")
		}
		time.Sleep(10 * time.Millisecond)
	}
	return time.Since(began)
}

// audited runs the auditor while fn does, on a node with these pods.
func audited(t *testing.T, e *Enforcer, pods []rules.Pod, fn func()) {
	t.Helper()
	for _, pod := range pods {
		if o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			t.Fatal(o.Err)
		}
	}
	ctx, stop := context.WithCancel(t.Context())
	var auditing sync.WaitGroup
	auditing.Go(func() { e.Audit(ctx) })
	fn()
	stop()
	auditing.Wait()
}

// What is changed is found within an interval, at whatever moment, also in a pod that was just started.
func TestTheAuditorComesWithinAnInterval(t *testing.T) {
	pods := crowd(t, "honest", 20)
	late := crowd(t, "late", 10)
	faked(t, func(t *testing.T) {
		m := newMemory()
		e, _ := newEnforcer(t, m)
		interval := e.policy.Load().AuditInterval
		worst := time.Duration(0)
		audited(t, e, pods, func() {
			for i, pod := range slices.Concat(pods, late) {
				time.Sleep(time.Duration(i) * 1700 * time.Millisecond)
				e.Enforce(t.Context(), lifecycle.SandboxStarted, pod) // what is known is looked at once more
				time.Sleep(time.Duration(i) * 13 * time.Millisecond)
				worst = max(worst, m.repaired(t, pod))
			}
			if last, ok := e.Auditor.Last(); !ok || last.Pods < len(pods) || time.Since(last.Ended) > interval {
				t.Errorf("last pass: %+v, %v", last, ok)
			}
		})
		if t.Logf("at worst after %s", worst); worst > interval+20*time.Millisecond {
			t.Errorf("the auditor took %s", worst)
		}
	})
}

// Whatever hostile pods do, an innocent pod's rules are repaired within two intervals. They are looked at ever more
// seldom, and what they leave behind stays bounded.
func TestTheAuditorIsFair(t *testing.T) {
	honest, hostile := crowd(t, "honest", 50), crowd(t, "hostile", 20)
	for i := range hostile {
		hostile[i].Namespace = fmt.Sprint("hostile", i)
	}
	faked(t, func(t *testing.T) {
		m := &sticky{inMemory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, r := newEnforcer(t, m)
		interval := e.policy.Load().AuditInterval
		var waits []time.Duration
		audited(t, e, slices.Concat(honest, hostile), func() {
			m.slowDown(t, hostile, 25*time.Second)
			for i, pod := range honest {
				time.Sleep(time.Duration(i%7) * 3100 * time.Millisecond)
				waits = append(waits, m.repaired(t, pod))
			}
			began, looks := time.Now(), m.looked()
			time.Sleep(20 * time.Minute)
			if n := (m.looked() - looks) / len(hostile); n > 4 {
				t.Errorf("each hostile pod was looked at %d times in %s", n, time.Since(began))
			}
			m.slowDown(t, hostile, 0)
			for _, pod := range hostile {
				if known, _ := e.View().Sandbox(pod.SandboxID); known.State != lifecycle.StateFailing {
					t.Errorf("%s is %s", pod.Name, known.State)
				}
			}
			time.Sleep(time.Hour)
			for _, pod := range hostile {
				if known, _ := e.View().Sandbox(pod.SandboxID); known.State != lifecycle.StateProtected {
					t.Errorf("%s is never looked at again: %s", pod.Name, known.State)
				}
			}
		})
		if worst := slices.Max(waits); worst > 2*interval {
			t.Errorf("an innocent pod waited %s; all: %v", worst, waits)
		} else {
			t.Logf("at worst after %s", worst)
		}
		for _, o := range r.outcomes {
			if strings.HasPrefix(o.Pod.Namespace, "honest") && o.Result == lifecycle.Failed {
				t.Errorf("%s: %v", o.Pod.Name, o.Err)
			}
		}
	})
}

// Pods that take long keep a takeover from no other.
func TestTheTakeoverIsFair(t *testing.T) {
	honest, hostile := crowd(t, "honest", 20), crowd(t, "hostile", 8)
	for i := range hostile {
		hostile[i].Annotations["example.com/much"] = strings.Repeat("8080,", 4<<10)
	}
	faked(t, func(t *testing.T) {
		m := &sticky{inMemory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, _ := newEnforcer(t, m)
		m.slowDown(t, hostile, time.Minute)
		ctx, cancel := context.WithTimeout(t.Context(), hookTime)
		defer cancel()
		e.Synchronize(ctx, slices.Concat(hostile, honest))
		for _, pod := range honest {
			if known, _ := e.View().Sandbox(pod.SandboxID); known.State != lifecycle.StateProtected {
				t.Errorf("%s is %s when the runtime goes on", pod.Name, known.State)
			}
		}
		time.Sleep(5 * takeoverTimeout)
		for _, pod := range hostile {
			if known, _ := e.View().Sandbox(pod.SandboxID); known.State != lifecycle.StatePending {
				t.Errorf("%s is %s", pod.Name, known.State)
			}
		}
	})
}
