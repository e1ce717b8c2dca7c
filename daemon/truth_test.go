// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// What is said of a pod is what happened to it, and drift is counted when there was some.
func TestWhatIsSaidIsTrue(t *testing.T) {
	flush := func(e *Enforcer, m *inMemory, pod rules.Pod) { m.put(t, pod.NetNS, rules.Plan{}) }
	unreadable := func(e *Enforcer, m *inMemory, pod rules.Pod) {
		m.touch(t, pod.NetNS)
		m.failWith(always)
		auditNow(t, e)
		m.failWith(nil)
	}
	for _, tt := range []struct {
		what   string
		policy func(*policy.Policy)
		do     []func(*Enforcer, *inMemory, rules.Pod)
		events []string // after the first
		drifts int
	}{
		{"could not be read for a while", nil, []func(*Enforcer, *inMemory, rules.Pod){unreadable, whenAudited(t)},
			[]string{outcome.EventUnprotected, outcome.EventProtected}, 0},
		{"could not be read for a while, and a container comes", nil, []func(*Enforcer, *inMemory, rules.Pod){unreadable, whenAdmitted(t)},
			[]string{outcome.EventUnprotected, outcome.EventProtected}, 0},
		{"changed while it could not be read", nil, []func(*Enforcer, *inMemory, rules.Pod){unreadable, flush, whenAudited(t)},
			[]string{outcome.EventUnprotected, outcome.EventDrift, outcome.EventRepaired}, 1},
		{"changed, reported only, and a container comes", func(p *policy.Policy) { p.OnDrift = config.DriftReport },
			[]func(*Enforcer, *inMemory, rules.Pod){flush, whenAudited(t), whenAdmitted(t)}, []string{outcome.EventDrift, outcome.EventRepaired}, 1},
		{"found at a validation, and repaired by the auditor", nil,
			[]func(*Enforcer, *inMemory, rules.Pod){flush, whenValidated(t), whenAudited(t)}, []string{outcome.EventBlocked, outcome.EventRepaired}, 1},
		{"found at a validation, and repaired for the next try", nil,
			[]func(*Enforcer, *inMemory, rules.Pod){flush, whenValidated(t), whenAdmitted(t)}, []string{outcome.EventBlocked, outcome.EventRepaired}, 1},
	} {
		t.Run(tt.what, func(t *testing.T) {
			m := newMemory()
			e, r := newEnforcer(t, m)
			if tt.policy != nil {
				e.with(tt.policy)
			}
			pod := sandbox(t, "web")
			plan := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod).Plan
			for _, do := range tt.do {
				do(e, m, pod)
			}
			sb, _ := e.View().Sandbox("web")
			if got := r.events()[1:]; !slices.Equal(got, tt.events) || sb.Drift.Times != tt.drifts || sb.State != lifecycle.StateProtected || m.holds(t, pod.NetNS).Key() != plan.Key() {
				t.Errorf("recorded %v, want %v; %d times drifted, %s", got, tt.events, sb.Drift.Times, sb.State)
			}
		})
	}
}

func whenAudited(t *testing.T) func(*Enforcer, *inMemory, rules.Pod) {
	return func(e *Enforcer, _ *inMemory, _ rules.Pod) { auditNow(t, e) }
}

func whenAdmitted(t *testing.T) func(*Enforcer, *inMemory, rules.Pod) {
	return func(e *Enforcer, _ *inMemory, pod rules.Pod) {
		if o := e.Admit(limited(t, patience), pod, app); o.Error() != nil {
			t.Error(o.Error())
		}
	}
}

func whenValidated(t *testing.T) func(*Enforcer, *inMemory, rules.Pod) {
	return func(e *Enforcer, _ *inMemory, pod rules.Pod) {
		if o := e.Validate(limited(t, patience), pod, app); o.Error() == nil {
			t.Error("validated without rules")
		}
	}
}

// An outdated pod whose rules were changed has drifted like any other, and gets them again as they were.
func TestDriftOfAnOutdatedPod(t *testing.T) {
	for what, repair := range map[string]func(*Enforcer, *inMemory, rules.Pod){"auditor": whenAudited(t), "gate": func(e *Enforcer, m *inMemory, pod rules.Pod) {
		whenValidated(t)(e, m, pod)
		whenAdmitted(t)(e, m, pod)
	}} {
		m := newMemory()
		pod := sandbox(t, "web")
		plan := earlierDaemon(t, m, pod, otherPort)
		e, r := newEnforcer(t, m)
		e.Synchronize(limited(t, patience), []rules.Pod{pod})
		m.put(t, pod.NetNS, rules.Plan{})
		repair(e, m, pod)
		events := r.events()
		if sb, _ := e.View().Sandbox("web"); sb.State != lifecycle.StateOutdated || sb.Drift.Times != 1 || m.holds(t, pod.NetNS).Key() != plan.Key() || events[len(events)-1] != outcome.EventRepaired {
			t.Errorf("%s: %s, %d times drifted, recorded %v", what, sb.State, sb.Drift.Times, events)
		}
	}
}

// What a second daemon wrote of another configuration stays, also where this one could not read for a while.
func TestFailingBesideASecondDaemon(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	second, _ := newEnforcer(t, m)
	configure(second, otherPort)
	second.with(func(p *policy.Policy) { p.ReplaceOutdated = true })
	second.Synchronize(ctx, []rules.Pod{pod})
	plan := m.holds(t, pod.NetNS)
	m.failWith(always)
	auditNow(t, e)
	m.failWith(nil)
	auditNow(t, e)
	if got := r.events(); !slices.Equal(got, []string{outcome.EventProtected, outcome.EventUnprotected, outcome.EventOutdated}) || m.holds(t, pod.NetNS).Key() != plan.Key() || e.state("web") != lifecycle.StateOutdated {
		t.Errorf("%s, recorded %v", e.state("web"), got)
	}
}

// A session that is lost and comes back changes no whole rules.
func TestWholeRulesStayWhenTheSessionIsBack(t *testing.T) {
	m := newMemory()
	pod := sandbox(t, "web")
	plan := earlierDaemon(t, m, pod, otherPort)
	e, _ := newEnforcer(t, m)
	for range 2 {
		e.Synchronize(limited(t, patience), []rules.Pod{pod})
	}
	if m.holds(t, pod.NetNS).Key() != plan.Key() || e.state("web") != lifecycle.StateOutdated {
		t.Errorf("%s, changed", e.state("web"))
	}
}

// A command may name a namespace that is no sandbox's: its rules are written, and found when it is asked again.
func TestByHandWithoutASandbox(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	pod := sandbox(t, "")
	for _, changed := range []bool{true, false} {
		o := e.Enforce(limited(t, patience), lifecycle.ByHand, pod)
		if o.Result != lifecycle.Protected || o.Changed != changed || m.holds(t, pod.NetNS).Key() != o.Plan.Key() {
			t.Errorf("%s, changed %v: %v", o.Result, o.Changed, o.Err)
		}
	}
	m.put(t, pod.NetNS, rules.Plan{})
	if o := e.Enforce(limited(t, patience), lifecycle.ByHand, pod); o.Result != lifecycle.Protected || !o.Changed {
		t.Errorf("flushed: %s, changed %v: %v", o.Result, o.Changed, o.Err)
	}
	if len(e.View().Sandboxes()) > 0 {
		t.Error("a namespace is remembered as a sandbox")
	}
}
