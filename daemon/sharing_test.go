// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/rules"
)

// The clocks of these tests are fake: what takes long is a wait, and costs nothing.

const hookTime = 1700 * time.Millisecond // that a runtime leaves

// faked calls fn where the clock is a fake one, and waits for what it left behind.
func faked(t *testing.T, fn func(*testing.T)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		defer time.Sleep(time.Hour)
		fn(t)
	})
}

// ask is a hook: it returns the outcome and how long the runtime, and with it the node, was held up.
func ask(t *testing.T, hook func(context.Context) outcome.Outcome) (outcome.Outcome, time.Duration) {
	t.Helper()
	began := time.Now()
	ctx, cancel := context.WithTimeout(t.Context(), hookTime)
	defer cancel()
	o := hook(ctx)
	return o, time.Since(began)
}

func start(t *testing.T, e *Enforcer, pod rules.Pod) (outcome.Outcome, time.Duration) {
	t.Helper()
	return ask(t, func(ctx context.Context) outcome.Outcome { return e.Enforce(ctx, lifecycle.SandboxStarted, pod) })
}

// laboriousMesh is Istio, and takes long to decide about pods that say a lot.
type laboriousMesh struct {
	rules.Mesh
	takes time.Duration
}

func (m laboriousMesh) Decide(pod rules.Pod) rules.Decision {
	if !sharing.Light(pod) {
		time.Sleep(m.takes)
	}
	return m.Mesh.Decide(pod)
}

// laborious returns a pod about which a laboriousMesh takes long to decide.
func laborious(uid string) rules.Pod {
	pod := meshed("/nowhere")
	pod.UID, pod.Name, pod.Namespace = uid, uid, "hostile"
	pod.Annotations = map[string]string{"sidecar.istio.io/status": "{}", "example.com/much": strings.Repeat("8080,", 4<<10)}
	return pod
}

// A decision has a part of the runtime's time, however long it takes. The next try costs nothing, until the pod's
// inputs change or a pause is over, and then little.
func TestALongDecisionHoldsTheNodeUpOnce(t *testing.T) {
	faked(t, func(t *testing.T) {
		e, _ := newEnforcer(t, newMemory())
		e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{laboriousMesh{istios, 3 * time.Second}} })
		pod := laborious("one")
		more := func(text string) map[string]string { // what is still at work reads the map from before
			all := maps.Clone(pod.Annotations)
			all["more"] = text
			return all
		}
		for _, tt := range []struct {
			what   string
			before time.Duration
			change func()
			want   lifecycle.Result
			held   time.Duration
		}{
			{"the first try", 0, func() {}, lifecycle.Failed, hookTime / 8},
			{"the next try", 0, func() { pod.SandboxID = "another" }, lifecycle.Refused, 0},
			{"a container", 0, func() {}, lifecycle.Refused, 0},
			{"while it is still at work", 0, func() { pod.Annotations = more("a little") }, lifecycle.Failed, 0},
			{"with other wishes", 3 * time.Second, func() { pod.Annotations = more("a lot") }, lifecycle.Failed, hookTime / 64},
			{"the next try", 0, func() {}, lifecycle.Refused, 0},
			{"in the pause", 19 * time.Second, func() {}, lifecycle.Refused, 0},
			{"after the pause", 2 * time.Second, func() {}, lifecycle.Failed, hookTime / 64},
			{"the next try", 0, func() {}, lifecycle.Refused, 0},
		} {
			time.Sleep(tt.before)
			tt.change()
			o, held := start(t, e, pod)
			if tt.what == "a container" {
				o, held = ask(t, func(ctx context.Context) outcome.Outcome { return e.Admit(ctx, pod, app) })
			}
			if o.Result != tt.want || held != tt.held || o.Stage != outcome.StageBudget || o.Error() == nil {
				t.Errorf("%s: %s in %s, held up for %s, want %s: %v", tt.what, o.Result, o.Stage, held, tt.held, o.Error())
			}
			if o.Result == lifecycle.Refused && (o.Decision.Reason != rules.ReasonOverTime || !strings.Contains(o.Error().Error(), "it used up its time") ||
				!strings.Contains(o.Error().Error(), "or when its annotations or containers change")) {
				t.Errorf("%s: %s, %v", tt.what, o.Decision.Reason, o.Error())
			}
		}
	})
}

// Twenty pods whose decisions never end, each tried every ten seconds in a new sandbox, hold a node up for little of an
// hour, and less if they come from one namespace, also where they are made anew each time.
func TestHowLongHostilePodsHoldTheNodeUp(t *testing.T) {
	for name, tt := range map[string]struct {
		namespace, uid func(pod, try int) string
		most           time.Duration
	}{
		"of twenty namespaces":       {func(pod, _ int) string { return fmt.Sprint("ns", pod) }, func(pod, _ int) string { return fmt.Sprint(pod) }, 40 * time.Second},
		"of one":                     {func(int, int) string { return "ns" }, func(pod, _ int) string { return fmt.Sprint(pod) }, 10 * time.Second},
		"of one, and made anew each": {func(int, int) string { return "ns" }, func(pod, try int) string { return fmt.Sprint(pod, "-", try) }, 60 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			faked(t, func(t *testing.T) {
				e, _ := newEnforcer(t, newMemory())
				e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{laboriousMesh{istios, 2 * time.Second}} })
				var sum time.Duration
				for try := range 360 {
					for i := range 20 {
						pod := laborious(tt.uid(i, try))
						pod.Namespace, pod.SandboxID = tt.namespace(i, try), fmt.Sprint("sandbox", i, "-", try)
						o, held := start(t, e, pod)
						if sum += held; o.Error() == nil {
							t.Fatal("let through")
						}
					}
					time.Sleep(10 * time.Second)
				}
				if t.Logf("held up for %s of an hour", sum); sum > tt.most {
					t.Errorf("more than %s", tt.most)
				}
			})
		})
	}
}

// Work that nobody waits for any more ends at its next step, and is bounded meanwhile: by pod, and by namespace, so that
// those of others go on.
func TestAbandonedWorkIsBounded(t *testing.T) {
	hostile, honest := crowd(t, "hostile", 8), crowd(t, "honest", 1)
	faked(t, func(t *testing.T) {
		m := &sticky{inMemory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, _ := newEnforcer(t, m)
		m.slowDown(t, hostile, time.Minute)
		refused := 0
		for _, pod := range hostile {
			if o, held := start(t, e, pod); held == 0 && strings.Contains(o.Error().Error(), "are still at work") {
				refused++
			}
		}
		if refused != len(hostile)-4 {
			t.Errorf("%d of %d were not begun", refused, len(hostile))
		}
		if o, held := start(t, e, honest[0]); o.Result != lifecycle.Protected || held > 0 {
			t.Errorf("an innocent pod: %s after %s, %v", o.Result, held, o.Error())
		}
		before, _ := m.count()
		time.Sleep(2 * time.Minute)
		if now, _ := m.count(); now != before+4 {
			t.Errorf("abandoned work went on: %d calls", now-before)
		}
		m.slowDown(t, hostile, 0)
		for _, pod := range hostile {
			if o, _ := start(t, e, pod); o.Result != lifecycle.Protected {
				t.Errorf("when all is well again: %v", o.Error())
			}
		}
	})
}

// To wait for a namespace that somebody else works on is nobody's fault: the next try is made.
func TestWaitingIsNotBlamed(t *testing.T) {
	pods := crowd(t, "honest", 1)
	faked(t, func(t *testing.T) {
		e, _ := newEnforcer(t, newMemory())
		ns, err := e.visitor.Kernel.Open(pods[0].NetNS)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		unlock, err := ns.Lock(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for range 3 {
			ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
			o := e.Enforce(ctx, lifecycle.SandboxStarted, pods[0])
			if cancel(); o.Result != lifecycle.Failed {
				t.Errorf("%s, %v", o.Result, o.Error())
			}
			time.Sleep(time.Second)
		}
		unlock()
		if o, held := start(t, e, pods[0]); o.Result != lifecycle.Protected || held != 0 {
			t.Errorf("%s after %s, %v", o.Result, held, o.Error())
		}
	})
}

// A pod that takes longer than a short look, and is looked at once more in the same interval, is no news; one that was
// done in its time has its first pause again.
func TestASlowPodIsNotAFailingOne(t *testing.T) {
	pods := crowd(t, "slow", 20)
	faked(t, func(t *testing.T) {
		m := &sticky{inMemory: newMemory(), slow: map[netns.ID]time.Duration{}}
		e, r := newEnforcer(t, m)
		audited(t, e, pods, func() {
			m.slowDown(t, pods, 2*time.Second)
			time.Sleep(10 * time.Minute)
		})
		time.Sleep(time.Minute) // a look that the auditor was at has ended
		if n := r.count(); n != len(pods) {
			t.Errorf("%d outcomes of pods that are only slow: %v", n-len(pods), r.events())
		}
		pod := pods[0]
		for range 3 {
			m.slowDown(t, pods[:1], time.Minute)
			m.touch(t, pod.NetNS)
			if o, held := start(t, e, pod); o.Result != lifecycle.Failed || held != hookTime {
				t.Errorf("%s after %s, %v", o.Result, held, o.Error())
			}
			m.slowDown(t, pods[:1], 0)
			time.Sleep(2 * time.Minute)
			if o, _ := start(t, e, pod); o.Result != lifecycle.Protected {
				t.Errorf("in time: %v", o.Error())
			}
		}
		m.slowDown(t, pods[:1], time.Minute)
		start(t, e, pod)
		m.slowDown(t, pods[:1], 0)
		time.Sleep(time.Minute)
		if o, _ := start(t, e, pod); o.Result != lifecycle.Protected {
			t.Errorf("the pause has grown: %v", o.Error())
		}
	})
}

// A sandbox keeps the namespace that it has, whoever asks.
func TestTheNamespaceOfASandboxNeverChanges(t *testing.T) {
	for trigger, look := range map[lifecycle.Trigger]func(*Enforcer, rules.Pod) outcome.Outcome{
		lifecycle.SandboxStarted: func(e *Enforcer, pod rules.Pod) outcome.Outcome {
			return e.Enforce(t.Context(), lifecycle.SandboxStarted, pod)
		},
		lifecycle.ContainerCreated:   func(e *Enforcer, pod rules.Pod) outcome.Outcome { return e.Admit(t.Context(), pod, app) },
		lifecycle.ContainerValidated: func(e *Enforcer, pod rules.Pod) outcome.Outcome { return e.Validate(t.Context(), pod, app) },
		lifecycle.ByHand:             func(e *Enforcer, pod rules.Pod) outcome.Outcome { return e.Enforce(t.Context(), lifecycle.ByHand, pod) },
		lifecycle.Takeover: func(e *Enforcer, pod rules.Pod) outcome.Outcome {
			return e.takeOver(t.Context(), outcome.Begin(lifecycle.Takeover, pod)).Outcome
		},
	} {
		for _, state := range []lifecycle.State{lifecycle.StateProtected, lifecycle.StateUnprotected, lifecycle.StateFailing} {
			m := newMemory()
			e, _ := newEnforcer(t, m)
			pod := sandbox(t, "web")
			if o := e.Enforce(t.Context(), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
				t.Fatal(o.Err)
			}
			e.sandboxes.UpdateKnown("web", func(sb *memory.Sandbox) { sb.State = state })
			before := identity(t, pod.NetNS)
			moved := pod
			moved.NetNS = newNetNS(t)
			o := look(e, moved)
			if o.Err == nil || !strings.Contains(o.Err.Error(), "which a sandbox never changes") || errors.Is(o.Err, netns.ErrGone) {
				t.Errorf("%s, %s: %s, %v", trigger, state, o.Result, o.Err)
			}
			if known, _ := e.View().Sandbox("web"); known.NetNS != before || known.Pod.NetNS != pod.NetNS {
				t.Errorf("%s, %s: it has %s now", trigger, state, known.NetNS)
			}
			if m.holds(t, moved.NetNS).Rules() != 0 {
				t.Errorf("%s, %s: rules were written there", trigger, state)
			}
		}
	}
}
