// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// What happens to a pod that is there already depends on its rules, its containers and the configuration.
func TestTakeover(t *testing.T) {
	running := []rules.Container{{Name: "app", Running: true}}
	created := []rules.Container{{Name: "app"}}
	for _, tt := range []struct {
		what       string
		before     string // "none", "whole", "other", or "damaged"
		containers []rules.Container
		catchUp    config.CatchUp
		replace    bool
		stop       error
		event      string
		changed    bool
		state      lifecycle.State
	}{
		{"whole", "whole", running, config.CatchUpApply, false, nil, outcome.EventProtected, false, lifecycle.StateProtected},
		{"no container", "none", nil, config.CatchUpReport, false, nil, outcome.EventProtected, true, lifecycle.StateProtected},
		{"created only", "none", created, config.CatchUpStop, false, nil, outcome.EventProtected, true, lifecycle.StateProtected},
		{"running, apply", "none", running, config.CatchUpApply, false, nil, outcome.EventLate, true, lifecycle.StateProtected},
		{"running, report", "none", running, config.CatchUpReport, false, nil, outcome.EventUnprotected, false, lifecycle.StateUnprotected},
		{"running, stop", "none", running, config.CatchUpStop, false, nil, outcome.EventStopped, false, ""},
		{"running, stop fails", "none", running, config.CatchUpStop, false, errBroken, outcome.EventUnprotected, false, lifecycle.StateUnprotected},
		{"of another version", "other", running, config.CatchUpApply, false, nil, outcome.EventOutdated, false, lifecycle.StateOutdated},
		{"of another version, not started", "other", created, config.CatchUpApply, false, nil, outcome.EventOutdated, false, lifecycle.StateOutdated},
		{"of another version, asked to replace", "other", running, config.CatchUpReport, true, nil, outcome.EventProtected, true, lifecycle.StateProtected},
		{"damaged", "damaged", running, config.CatchUpApply, false, nil, outcome.EventLate, true, lifecycle.StateProtected},
		{"damaged, report", "damaged", running, config.CatchUpReport, false, nil, outcome.EventUnprotected, false, lifecycle.StateUnprotected},
	} {
		t.Run(tt.what, func(t *testing.T) {
			m := newMemory()
			pod := sandbox(t, "web")
			ctx := limited(t, patience)
			if tt.before != "none" {
				other := istio.Standard()
				if tt.before != "whole" {
					other.InboundPort = 16006
				}
				earlier, _ := newEnforcer(t, m)
				earlier.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{istio.New(other)}, RuntimeHandlers: []string{""}}))
				if o := earlier.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
					t.Fatal(o.Err)
				}
			}
			if tt.before == "damaged" {
				damaged := m.holds(t, pod.NetNS)
				damaged.V4.Tables = slices.Clone(damaged.V4.Tables)
				damaged.V4.Tables[0].Chains = damaged.V4.Tables[0].Chains[1:]
				m.put(t, pod.NetNS, damaged)
			}
			before := m.holds(t, pod.NetNS).Key()
			e, r := newEnforcer(t, m)
			p := *e.policy.Load()
			p.CatchUp, p.ReplaceOutdated = tt.catchUp, tt.replace
			e.SetPolicy(p)
			e.StopSandbox = func(_ context.Context, id string) error {
				if id != "web" {
					return fmt.Errorf("asked to stop %q", id)
				}
				return tt.stop
			}
			pod.Containers = tt.containers
			e.Synchronize(ctx, []rules.Pod{pod})
			eventually(t, "the pod is recorded", func() bool { return r.count() == 1 })
			if got := r.events()[0]; got != tt.event {
				t.Errorf("got %s (%v), want %s", got, r.outcomes[0].Err, tt.event)
			}
			if changed := m.holds(t, pod.NetNS).Key() != before; changed != tt.changed {
				t.Errorf("changed %v, want %v", changed, tt.changed)
			}
			if known, _ := e.sandboxes.Get("web"); known.State != tt.state {
				t.Errorf("state %q, want %q", known.State, tt.state)
			}
			if tt.stop != nil && !strings.Contains(r.outcomes[0].Err.Error(), "could not be stopped: broken") {
				t.Errorf("the failure is not told: %v", r.outcomes[0].Err)
			}
			if tt.state == "" {
				return
			}
			// Whatever it was: a new container finds its sandbox with rules that are whole.
			if o := e.Admit(ctx, pod, app); o.Error() != nil {
				t.Error(o.Error())
			}
			if o := e.Validate(ctx, pod, app); o.Error() != nil || m.holds(t, pod.NetNS).Rules() == 0 {
				t.Errorf("validated with %d rules: %v", m.holds(t, pod.NetNS).Rules(), o.Error())
			}
		})
	}
}

// What the runtime does not know any more is forgotten; one pod's failure is not the others'.
func TestTakeoverForgets(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	gone, stays, missing := sandbox(t, "gone"), sandbox(t, "stays"), sandbox(t, "missing")
	e.Enforce(ctx, lifecycle.SandboxStarted, gone)
	e.Enforce(ctx, lifecycle.SandboxStarted, stays)
	missing.NetNS = "/run/netns/meshnetd-test-that-is-not-there"
	e.Synchronize(ctx, []rules.Pod{missing, stays})
	var names []string
	for _, s := range e.sandboxes.All() {
		names = append(names, s.Pod.Name)
	}
	if !slices.Equal(names, []string{"stays"}) {
		t.Errorf("remembered: %v", names)
	}
}

// The auditor finds what was changed, says what differs, and repairs it or not.
func TestAudit(t *testing.T) {
	for onDrift, want := range map[config.OnDrift][]string{
		config.DriftRepair: {outcome.EventProtected, outcome.EventDrift, outcome.EventRepaired},
		config.DriftReport: {outcome.EventProtected, outcome.EventDrift},
	} {
		t.Run(string(onDrift), func(t *testing.T) {
			pod := sandbox(t, "web")
			faked(t, func(t *testing.T) {
				m := newMemory()
				e, r := newEnforcer(t, m)
				e.with(func(p *policy.Policy) { p.OnDrift = onDrift })
				passes := 3 * e.policy.Load().AuditInterval
				var plan rules.Plan
				audited(t, e, []rules.Pod{pod}, func() {
					plan = m.holds(t, pod.NetNS)
					time.Sleep(passes)
					m.touch(t, pod.NetNS)
					time.Sleep(passes)
					if got := r.events(); !slices.Equal(got, want[:1]) {
						t.Errorf("nothing has happened, but %v", got)
					}
					m.put(t, pod.NetNS, rules.Plan{})
					time.Sleep(passes)
				})
				if got := r.events(); !slices.Equal(got, want) {
					t.Fatalf("recorded %v, want %v", got, want)
				}
				if err := r.outcomes[1].Err; err == nil || !strings.Contains(err.Error(), "iptables nat: missing: -A OUTPUT -j ISTIO_OUTPUT") {
					t.Errorf("what differs is not told: %v", err)
				}
				repaired := m.holds(t, pod.NetNS).Key() == plan.Key()
				if repaired != (onDrift == config.DriftRepair) {
					t.Errorf("repaired: %v", repaired)
				}
				if last, ok := e.Auditor.Last(); !ok || (repaired && last.Pods != 1) {
					t.Errorf("last pass: %+v", last)
				}
			})
		})
	}
}

// A repair that fails leaves a pod that no container may be added to, and is tried again.
func TestAuditFails(t *testing.T) {
	pod := sandbox(t, "web")
	faked(t, func(t *testing.T) {
		m := newMemory()
		e, r := newEnforcer(t, m)
		passes := 3 * e.policy.Load().AuditInterval
		audited(t, e, []rules.Pod{pod}, func() {
			m.put(t, pod.NetNS, rules.Plan{})
			m.failWith(always)
			time.Sleep(passes)
			if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateFailing {
				t.Errorf("what cannot be repaired is %s", known.State)
			}
			if o := e.Admit(t.Context(), pod, app); o.Error() == nil {
				t.Error("a container was admitted to a sandbox that lost its rules")
			}
			m.failWith(nil)
			time.Sleep(passes)
			if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || m.holds(t, pod.NetNS).Rules() == 0 {
				t.Errorf("%s, with %d rules", known.State, m.holds(t, pod.NetNS).Rules())
			}
		})
		if !slices.ContainsFunc(r.outcomes, func(o outcome.Outcome) bool {
			return errors.Is(o.Err, errBroken) && o.Event() == outcome.EventUnprotected
		}) {
			t.Error("the failure was not recorded")
		}
	})
}

// The auditor notices that a sandbox is gone, and says nothing of it.
func TestAuditForgets(t *testing.T) {
	pod := sandbox(t, "web")
	faked(t, func(t *testing.T) {
		e, r := newEnforcer(t, newMemory())
		e.Enforce(t.Context(), lifecycle.SandboxStarted, pod)
		known, _ := e.sandboxes.Get("web")
		known.Pod.NetNS += "-gone"
		for _, sb := range []memory.Sandbox{known, {Pod: known.Pod, State: lifecycle.StateExempt}, {Pod: known.Pod, State: lifecycle.StateUnprotected}} {
			e.sandboxes.Update("web", func(known *memory.Sandbox) { *known = sb })
			audited(t, e, nil, func() { time.Sleep(2 * e.policy.Load().AuditInterval) })
			if e.sandboxes.Count() != 0 {
				t.Errorf("one that was %s is remembered", sb.State)
			}
		}
		if n := r.count(); n != 1 {
			t.Errorf("recorded: %v", r.events())
		}
	})
}
