// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/visit"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// protectedPod is a sandbox that was protected before its first container.
func protectedPod(t *testing.T, e *Enforcer) rules.Pod {
	t.Helper()
	pod := sandbox(t, "a")
	if o := e.Enforce(limited(t, 10*time.Second), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatalf("%s: %v", o.Result, o.Err)
	}
	return pod
}

func (e *Enforcer) state(id string) lifecycle.State {
	sb, _ := e.View().Sandbox(id)
	return sb.State
}

// A comparison reads anew what a look at the fingerprint would believe, and changes nothing.
func TestCompare(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	pod := protectedPod(t, e)
	said := r.count()
	compare := func() outcome.Outcome {
		t.Helper()
		return e.Compare(limited(t, 10*time.Second), "a")
	}
	if o := compare(); o.Err != nil || len(o.Differences) > 0 || o.Plan.Rules() == 0 || o.NetNS != identity(t, pod.NetNS) {
		t.Errorf("whole: %v, %q, %d rules in %s", o.Err, o.Differences, o.Plan.Rules(), o.NetNS)
	}
	m.mu.Lock()
	m.plans[identity(t, pod.NetNS)] = rules.Plan{} // without a trace in fingerprint and generation
	m.mu.Unlock()
	if o := compare(); o.Err != nil || len(o.Differences) == 0 {
		t.Errorf("flushed: %v, %q", o.Err, o.Differences)
	}
	if _, applied := m.count(); applied != 1 || e.state("a") != lifecycle.StateProtected || r.count() != said {
		t.Errorf("a comparison changes something: %d plans written, state %s", applied, e.state("a"))
	}
	m.failWith(always)
	if o := compare(); !errors.Is(o.Err, errBroken) || e.state("a") != lifecycle.StateProtected {
		t.Errorf("broken: %v, state %s", o.Err, e.state("a"))
	}
}

func TestCompareNothing(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	if o := e.Compare(limited(t, 10*time.Second), "none"); !errors.Is(o.Err, visit.ErrUnknown) {
		t.Errorf("got %v", o.Err)
	}
	pending := sandbox(t, "b")
	e.sandboxes.Expect(e.policy.Load(), pending)
	if o := e.Compare(limited(t, 10*time.Second), "b"); !errors.Is(o.Err, errNotTakenOver) {
		t.Errorf("got %v", o.Err)
	}
	if o := e.Repair(limited(t, 10*time.Second), "none"); !errors.Is(o.Err, visit.ErrUnknown) || o.Result != lifecycle.Failed {
		t.Errorf("got %s, %v", o.Result, o.Err)
	}
	if o := e.Repair(limited(t, 10*time.Second), "b"); o.Result != lifecycle.Protected || e.state("b") != lifecycle.StateProtected {
		t.Errorf("repair of one that was not looked at: %s, %v", o.Result, o.Err)
	}
}

// A path that leads to another namespace by now is not the sandbox.
func TestLooksAtNoOtherNamespace(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	protectedPod(t, e)
	other := sandbox(t, "other")
	e.sandboxes.UpdateKnown("a", func(sb *memory.Sandbox) { sb.Pod.NetNS = other.NetNS })
	if o := e.Compare(limited(t, 10*time.Second), "a"); !errors.Is(o.Err, netns.ErrGone) {
		t.Errorf("compare: %v", o.Err)
	}
	if o := e.Repair(limited(t, 10*time.Second), "a"); !errors.Is(o.Err, netns.ErrGone) {
		t.Errorf("repair: %v", o.Err)
	}
	if m.holds(t, other.NetNS).Rules() > 0 {
		t.Error("another pod was given the rules")
	}
}

func TestRepair(t *testing.T) {
	for _, tt := range []struct {
		name   string
		change func(*testing.T, *Enforcer, *inMemory, rules.Pod)
		state  lifecycle.State
		events []string
		found  bool
		want   uint16 // inbound port
	}{
		{"nothing to do", func(*testing.T, *Enforcer, *inMemory, rules.Pod) {}, lifecycle.StateProtected, nil, false, 15006},
		{"flushed", func(t *testing.T, _ *Enforcer, m *inMemory, pod rules.Pod) { m.put(t, pod.NetNS, rules.Plan{}) },
			lifecycle.StateProtected, []string{outcome.EventRepaired}, true, 15006},
		{"left without its rules", func(t *testing.T, e *Enforcer, m *inMemory, pod rules.Pod) {
			m.put(t, pod.NetNS, rules.Plan{})
			e.sandboxes.UpdateKnown("a", func(sb *memory.Sandbox) { sb.State, sb.Running = lifecycle.StateUnprotected, true })
		}, lifecycle.StateProtected, []string{outcome.EventLate}, true, 15006},
		{"failing", func(t *testing.T, e *Enforcer, m *inMemory, pod rules.Pod) {
			m.put(t, pod.NetNS, rules.Plan{})
			e.sandboxes.UpdateKnown("a", func(sb *memory.Sandbox) { sb.State = lifecycle.StateFailing })
		}, lifecycle.StateProtected, []string{outcome.EventRepaired}, true, 15006},
		{"another configuration", func(_ *testing.T, e *Enforcer, _ *inMemory, _ rules.Pod) { configure(e, otherPort) },
			lifecycle.StateProtected, []string{outcome.EventProtected}, true, 16006},
		{"a configuration that leaves it out", func(t *testing.T, e *Enforcer, m *inMemory, pod rules.Pod) {
			configure(e, func(d *istio.Defaults) { d.ExcludeNamespaces = []string{"default"} })
			m.put(t, pod.NetNS, rules.Plan{})
		}, lifecycle.StateProtected, []string{outcome.EventRepaired}, true, 15006},
		{"a configuration that refuses it", func(_ *testing.T, e *Enforcer, _ *inMemory, _ rules.Pod) {
			p := *e.policy.Load()
			p.Node.RuntimeHandlers = nil
			e.SetPolicy(p)
		}, lifecycle.StateProtected, nil, false, 15006},
		{"it cannot be written", func(t *testing.T, _ *Enforcer, m *inMemory, pod rules.Pod) {
			m.put(t, pod.NetNS, rules.Plan{})
			m.readOnly = true
		}, lifecycle.StateFailing, []string{outcome.EventUnprotected}, false, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			m := newMemory()
			e, r := newEnforcer(t, m)
			pod := protectedPod(t, e)
			said := len(r.events())
			tt.change(t, e, m, pod)
			o := e.Repair(limited(t, 10*time.Second), "a")
			if e.state("a") != tt.state || (o.Err == nil) != (tt.state == lifecycle.StateProtected) || (len(o.Differences) > 0) != tt.found {
				t.Errorf("state %s, %v, found %q", e.state("a"), o.Err, o.Differences)
			}
			if events := r.events()[said:]; !slices.Equal(events, tt.events) {
				t.Errorf("events %q, want %q", events, tt.events)
			}
			held := m.holds(t, pod.NetNS)
			if tt.want != 0 && !strings.Contains(held.V4.String(), "--to-ports "+map[uint16]string{15006: "15006", 16006: "16006"}[tt.want]) {
				t.Errorf("holds\n%s", held.V4)
			}
			if again := e.Compare(limited(t, 10*time.Second), "a"); tt.want != 0 && (again.Err != nil || len(again.Differences) > 0) {
				t.Errorf("afterwards: %v, %q", again.Err, again.Differences)
			}
		})
	}
}

func configure(e *Enforcer, change func(*istio.Defaults)) {
	p := *e.policy.Load()
	defaults := istio.Standard()
	change(&defaults)
	p.Node.Meshes = []rules.Mesh{istio.New(defaults)}
	e.SetPolicy(p)
}

// A pod that only its containers show to be left alone has its rules taken out again, and no others are given.
func TestRepairOfAnExemptPod(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	e.with(mayLoosen)
	pod := protectedPod(t, e)
	plan := m.holds(t, pod.NetNS)
	gateway := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}}
	if o := e.Admit(limited(t, 10*time.Second), pod, gateway); o.Result != lifecycle.Skipped || e.state("a") != lifecycle.StateExempt {
		t.Fatalf("%s, %v, state %s", o.Result, o.Err, e.state("a"))
	}
	m.put(t, pod.NetNS, plan)
	if o := e.Compare(limited(t, 10*time.Second), "a"); o.Err != nil || len(o.Differences) == 0 {
		t.Errorf("compare: %v, %q", o.Err, o.Differences)
	}
	if o := e.Repair(limited(t, 10*time.Second), "a"); o.Err != nil || m.holds(t, pod.NetNS).Rules() > 0 || e.state("a") != lifecycle.StateExempt {
		t.Errorf("repair: %v, holds %d rules, state %s", o.Err, m.holds(t, pod.NetNS).Rules(), e.state("a"))
	}
}

// What the auditor found and was told to leave, an operator repairs.
func TestRepairAfterDriftThatIsLeft(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	p := *e.policy.Load()
	p.OnDrift = config.DriftReport
	e.SetPolicy(p)
	pod := protectedPod(t, e)
	m.put(t, pod.NetNS, rules.Plan{})
	var pass auditor.Audit
	round{e}.Look(t.Context(), "a", &pass)
	if e.state("a") != lifecycle.StateUnprotected {
		t.Fatalf("state %s", e.state("a"))
	}
	if o := e.Repair(limited(t, 10*time.Second), "a"); o.Result != lifecycle.Protected || e.state("a") != lifecycle.StateProtected {
		t.Errorf("%s, %v, state %s", o.Result, o.Err, e.state("a"))
	}
}
