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
	"github.com/meshnetd/meshnetd/rules/istio"
)

// earlierDaemon protects the pod with rules of another configuration.
func earlierDaemon(t *testing.T, m *inMemory, pod rules.Pod, change func(*istio.Defaults)) rules.Plan {
	t.Helper()
	d := istio.Standard()
	change(&d)
	e, _ := newEnforcer(t, m)
	e.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{istio.New(d)}, RuntimeHandlers: []string{""}}))
	if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	return m.holds(t, pod.NetNS)
}

func otherPort(d *istio.Defaults) { d.InboundPort = 16006 }

// Whole rules of a running pod are not replaced by a container that says nothing new, whatever happened
// between.
func TestWholeRulesStay(t *testing.T) {
	ctx := limited(t, patience)
	t.Run("not taken over yet", func(t *testing.T) {
		m := newMemory()
		pod := sandbox(t, "web")
		plan := earlierDaemon(t, m, pod, otherPort)
		e, r := newEnforcer(t, m)
		e.sandboxes.Expect(e.policy.Load(), pod)
		if o := e.Admit(ctx, pod, app); o.Error() != nil || m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("%v, recorded %v", o.Error(), r.events())
		}
	})
	for name, between := range map[string]func(*Enforcer, *inMemory, rules.Pod){
		"read in vain": func(e *Enforcer, m *inMemory, pod rules.Pod) {
			m.failWith(always)
			e.Validate(ctx, pod, app)
			m.failWith(nil)
		},
		"touched and read in vain": func(e *Enforcer, m *inMemory, pod rules.Pod) {
			m.touch(t, pod.NetNS)
			auditNow(t, e)
			m.failWith(always)
			auditNow(t, e)
			m.failWith(nil)
		},
	} {
		t.Run("outdated, "+name, func(t *testing.T) {
			m := newMemory()
			pod := sandbox(t, "web")
			plan := earlierDaemon(t, m, pod, otherPort)
			e, r := newEnforcer(t, m)
			e.Synchronize(ctx, []rules.Pod{pod})
			between(e, m, pod)
			if o := e.Admit(ctx, pod, app); o.Error() != nil || m.holds(t, pod.NetNS).Key() != plan.Key() {
				t.Errorf("%v, recorded %v", o.Error(), r.events())
			}
		})
		t.Run("reloaded, "+name, func(t *testing.T) {
			m := newMemory()
			pod := sandbox(t, "web")
			e, r := newEnforcer(t, m)
			plan := e.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
			e.with(func(p *policy.Policy) {
				d := istio.Standard()
				otherPort(&d)
				p.Node.Meshes = []rules.Mesh{istio.New(d)}
			})
			between(e, m, pod)
			if o := e.Admit(ctx, pod, app); o.Error() != nil || m.holds(t, pod.NetNS).Key() != plan.Key() {
				t.Errorf("%v, recorded %v", o.Error(), r.events())
			}
		})
	}
	t.Run("touched only", func(t *testing.T) {
		m := newMemory()
		pod := sandbox(t, "web")
		earlierDaemon(t, m, pod, otherPort)
		e, _ := newEnforcer(t, m)
		e.Synchronize(ctx, []rules.Pod{pod})
		m.touch(t, pod.NetNS)
		auditNow(t, e)
		if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateOutdated {
			t.Errorf("state %q", known.State)
		}
	})
}

// A proxy that comes after its namespace was excluded still has its rules refined.
func TestRefinedAfterAReload(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	e.with(func(p *policy.Policy) {
		d := istio.Standard()
		d.ExcludeNamespaces = []string{"default"}
		p.Node.Meshes = []rules.Mesh{istio.New(d)}
	})
	if o := e.Admit(ctx, pod, container("istio-proxy", 2000)); o.Error() != nil || o.Decision.Proxy.UID != 2000 ||
		m.holds(t, pod.NetNS).Key() != o.Plan.Key() {
		t.Errorf("%v, proxy's user %d", o.Error(), o.Decision.Proxy.UID)
	}
}

// Whose traffic goes around the mesh is what the rules in the pod say, whatever the configuration says by now.
func TestIdentityAfterATakeover(t *testing.T) {
	ctx := limited(t, patience)
	for _, forbid := range []bool{false, true} {
		m := newMemory()
		pod := sandbox(t, "web")
		pod.Annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] = "443"
		earlierDaemon(t, m, pod, func(d *istio.Defaults) { d.UID, d.GID = 5000, 5000 })
		e, _ := newEnforcer(t, m)
		if forbid {
			e.with(func(p *policy.Policy) {
				p.Node.Annotations = []rules.AnnotationPolicy{{Annotation: "traffic.sidecar.istio.io/excludeOutboundPorts", Otherwise: rules.Refuse}}
			})
		}
		e.Synchronize(ctx, []rules.Pod{pod})
		for id, refused := range map[int64]bool{5000: true, 1337: false} {
			if o := e.Admit(ctx, pod, container("app", id)); (o.Error() != nil) != refused {
				t.Errorf("forbidden %v, user %d: %v", forbid, id, o.Error())
			}
		}
	}
	// The proxy takes the ids of a container that ran when the pod was left unprotected, or was expected.
	for _, catchUp := range []config.CatchUp{config.CatchUpReport, ""} {
		m := newMemory()
		e, _ := newEnforcer(t, m)
		early := container("early", 3000)
		early.Running = true
		pod := sandbox(t, "web")
		taken := pod
		taken.Containers = []rules.Container{early}
		if catchUp == "" {
			e.sandboxes.Expect(e.policy.Load(), taken)
		} else {
			e.with(func(p *policy.Policy) { p.CatchUp = catchUp })
			e.Synchronize(ctx, []rules.Pod{taken})
		}
		if o := e.Admit(ctx, pod, container("istio-proxy", 3000)); o.Error() == nil {
			t.Errorf("%q: a container goes around the mesh", catchUp)
		}
	}
}

// Rules that are found changed when the runtime is back are repaired as the auditor would.
func TestDriftFoundAtATakeover(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	e.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpReport })
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	m.put(t, pod.NetNS, rules.Plan{})
	taken := pod
	taken.Containers = []rules.Container{{Name: "app", Running: true}}
	e.Synchronize(ctx, []rules.Pod{taken})
	if m.holds(t, pod.NetNS).Rules() == 0 || !slices.Contains(r.events(), outcome.EventDrift) {
		t.Errorf("%d rules, recorded %v", m.holds(t, pod.NetNS).Rules(), r.events())
	}
}

// A repair that fails again and again is one line; a pod that ran without its rules is late, whoever gives
// them to it.
func TestTruth(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	m.put(t, pod.NetNS, rules.Plan{})
	m.mu.Lock()
	m.readOnly = true
	m.mu.Unlock()
	for range 5 {
		auditNow(t, e)
	}
	if got := r.events(); len(got) > 3 {
		t.Errorf("recorded %v", got)
	}

	m = newMemory()
	e, r = newEnforcer(t, m)
	e.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpReport })
	late := sandbox(t, "late")
	taken := late
	taken.Containers = []rules.Container{{Name: "app", Running: true}}
	e.Synchronize(ctx, []rules.Pod{taken})
	e.Admit(ctx, late, app)
	if got := r.events(); !slices.Equal(got, []string{outcome.EventUnprotected, outcome.EventLate}) {
		t.Errorf("recorded %v", got)
	}
}
