// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// with returns a copy of the policy with a change.
func (e *Enforcer) with(change func(*policy.Policy)) {
	p := *e.policy.Load()
	change(&p)
	e.SetPolicy(p)
}

// auditNow reads the sandbox "web" as the auditor does.
func auditNow(t *testing.T, e *Enforcer) {
	t.Helper()
	round{e}.Look(t.Context(), "web", &auditor.Audit{})
}

// proxyUID returns whose traffic the rules of the sandbox "web" let pass.
func proxyUID(e *Enforcer) uint32 {
	known, _ := e.sandboxes.Get("web")
	return known.Decision.Proxy.UID
}

// A pod that could not be taken over at first is not lost: what its containers say is kept, whoever comes
// to it next, and the auditor tries again.
func TestTakeoverFailsAtFirst(t *testing.T) {
	proxy := container("istio-proxy", 2000)
	proxy.Running = true
	for _, next := range []string{"audit", "container"} {
		m := newMemory()
		pod := sandbox(t, "web")
		ctx := limited(t, patience)
		earlier, _ := newEnforcer(t, m)
		earlier.Enforce(ctx, lifecycle.SandboxStarted, pod)
		earlier.Admit(ctx, pod, proxy)
		held := m.holds(t, pod.NetNS).Key()

		e, r := newEnforcer(t, m)
		m.failWith(always)
		taken := pod
		taken.Containers = []rules.Container{proxy}
		e.Synchronize(ctx, []rules.Pod{taken})
		if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StatePending {
			t.Fatalf("state %q", known.State)
		}
		for range 3 {
			auditNow(t, e)
		}
		if got := r.events(); !slices.Equal(got, []string{outcome.EventUnprotected}) {
			t.Errorf("recorded: %v, want one line for one failure", got)
		}
		m.failWith(nil)
		if next == "audit" {
			auditNow(t, e)
		} else if o := e.Admit(ctx, pod, app); o.Error() != nil {
			t.Error(o.Error())
		}
		if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || proxyUID(e) != 2000 {
			t.Errorf("by %s: state %q, proxy's user %d", next, known.State, proxyUID(e))
		}
		if m.holds(t, pod.NetNS).Key() != held {
			t.Errorf("by %s: right rules were replaced by wrong ones", next)
		}
	}
}

// Events may come to a pod before its takeover does.
func TestContainerBeforeItsTakeover(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	proxy := container("istio-proxy", 2000)
	proxy.Running = true
	taken := sandbox(t, "web")
	taken.Containers = []rules.Container{proxy}
	e.sandboxes.Expect(e.policy.Load(), taken)
	pod := taken
	pod.Containers = nil
	if o := e.Admit(ctx, pod, app); o.Error() != nil || proxyUID(e) != 2000 {
		t.Errorf("%v, proxy's user %d", o.Error(), proxyUID(e))
	}
	if o := e.Admit(ctx, pod, container("istio-proxy", 3000)); o.Error() != nil {
		t.Error(o.Error())
	}
	e.report(e.takeOver(ctx, outcome.Begin(lifecycle.Takeover, taken))) // with what was true before
	if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || proxyUID(e) != 3000 {
		t.Errorf("state %q, proxy's user %d", known.State, proxyUID(e))
	}
}

// A new configuration leaves running pods as they are: it takes out no rules, and keeps repairing those
// that it would not write itself.
func TestPolicyIsForWhatStarts(t *testing.T) {
	excluded := func(p *policy.Policy) {
		d := istio.Standard()
		d.ExcludeNamespaces = []string{"default"}
		p.Node.Meshes = []rules.Mesh{istio.New(d)}
	}
	forbidden := func(p *policy.Policy) {
		p.Node.Annotations = []rules.AnnotationPolicy{{Annotation: "traffic.sidecar.istio.io/excludeOutboundPorts", Otherwise: rules.Refuse}}
	}
	for name, change := range map[string]func(*policy.Policy){"excluded": excluded, "forbidden": forbidden} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			e, r := newEnforcer(t, m)
			ctx := limited(t, patience)
			pod := sandbox(t, "web")
			pod.Annotations["traffic.sidecar.istio.io/excludeOutboundPorts"] = "443"
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			plan := m.holds(t, pod.NetNS).Key()
			e.with(change)
			check := func(when string) {
				t.Helper()
				if got := m.holds(t, pod.NetNS).Key(); got != plan {
					t.Errorf("%s: other rules", when)
				}
				if known, _ := e.sandboxes.Get("web"); !known.State.Enrolled() {
					t.Errorf("%s: state %q", when, known.State)
				}
				if o := e.Admit(ctx, pod, app); o.Error() != nil {
					t.Errorf("%s: %v", when, o.Error())
				}
			}
			m.touch(t, pod.NetNS)
			auditNow(t, e)
			check("something harmless changed")
			e.Synchronize(ctx, []rules.Pod{pod})
			check("the runtime is back")
			m.put(t, pod.NetNS, rules.Plan{})
			auditNow(t, e)
			check("flushed")
			if got := r.events(); !slices.Contains(got, outcome.EventRepaired) || slices.Contains(got, outcome.EventUnprotected) {
				t.Errorf("recorded: %v", got)
			}
			after, r := newEnforcer(t, m)
			after.with(change)
			after.Synchronize(ctx, []rules.Pod{pod})
			if m.holds(t, pod.NetNS).Key() != plan || slices.Contains(r.events(), outcome.EventUnprotected) {
				t.Errorf("after a restart: %v", r.events())
			}
		})
	}
}

// Rules of a running pod that do less than they did are found, whatever anybody claims of them; those that another meshnetd
// of this node verified there are left to it.
func TestRulesOfAnotherDaemon(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	whole := m.holds(t, pod.NetNS)
	d := istio.Standard()
	d.OutboundPort = 1
	other, _ := newEnforcer(t, newMemory())
	other.SetPolicy(standard(rules.Node{Meshes: []rules.Mesh{istio.New(d)}, RuntimeHandlers: []string{""}}))
	foreign := other.Enforce(ctx, lifecycle.SandboxStarted, sandbox(t, "other")).Plan
	for what, plan := range map[string]rules.Plan{"flushed": {Footprint: whole.Footprint}, "another plan": foreign} {
		m.put(t, pod.NetNS, plan)
		if o := e.Validate(ctx, pod, app); o.Error() == nil {
			t.Errorf("%s: a container was let through", what)
		}
		auditNow(t, e)
		if m.holds(t, pod.NetNS).Key() != whole.Key() {
			t.Errorf("%s: not repaired", what)
		}
	}
	if got := r.events(); !slices.Contains(got, outcome.EventDrift) && !slices.Contains(got, outcome.EventRepaired) {
		t.Errorf("recorded: %v", got)
	}
	id := identity(t, pod.NetNS)
	for _, of := range []netns.ID{{Dev: id.Dev, Ino: id.Ino + 1}, id} { // a namespace that is gone, and its own
		e.Admit(ctx, pod, app)
		m.put(t, pod.NetNS, foreign)
		e.sandboxes.Receipts.Write("web", receipts.Receipt{NetNS: of, Plan: foreign.Key()})
		auditNow(t, e)
		if stays := m.holds(t, pod.NetNS).Key() == foreign.Key(); stays != (of == id) {
			t.Errorf("verified in %s, which is not %s: stays %v", of, id, stays)
		}
	}
	if o := e.Validate(ctx, pod, app); o.Error() != nil {
		t.Errorf("rules of the other daemon: %v", o.Error())
	}
	m.put(t, pod.NetNS, rules.Plan{Footprint: whole.Footprint})
	auditNow(t, e)
	if m.holds(t, pod.NetNS).Rules() == 0 {
		t.Error("no rules were taken for those of another daemon")
	}
}

// A pod that its containers show to be a gateway has no rules in the end, whatever was known of it.
func TestGatewayWhateverWasKnown(t *testing.T) {
	router := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}, Running: true}
	for _, before := range []string{"rules of an earlier daemon", "left unprotected", "taken over"} {
		m := newMemory()
		ctx := limited(t, patience)
		pod := sandbox(t, "gateway")
		e, _ := newEnforcer(t, m)
		e.with(mayLoosen)
		switch before {
		case "rules of an earlier daemon":
			earlier, _ := newEnforcer(t, m)
			earlier.with(mayLoosen)
			earlier.Enforce(ctx, lifecycle.SandboxStarted, pod)
		case "left unprotected":
			e.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpReport })
			taken := pod
			taken.Containers = []rules.Container{{Name: "app", Running: true}}
			e.Synchronize(ctx, []rules.Pod{taken})
		case "taken over":
			earlier, _ := newEnforcer(t, m)
			earlier.with(mayLoosen)
			earlier.Enforce(ctx, lifecycle.SandboxStarted, pod)
			taken := pod
			taken.Containers = []rules.Container{router}
			e.Synchronize(ctx, []rules.Pod{taken})
		}
		for _, c := range []rules.Container{router, app} {
			if o := e.Admit(ctx, pod, c); o.Result != lifecycle.Skipped {
				t.Errorf("%s: %s is %s, %v", before, c.Name, o.Result, o.Err)
			}
		}
		if n := m.holds(t, pod.NetNS).Rules(); n != 0 {
			t.Errorf("%s: a gateway has %d rules", before, n)
		}
	}
}

// A path that leads elsewhere now is not the sandbox any more: the auditor writes nothing there.
func TestAuditDoesNotFollowAPath(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	for _, same := range []bool{false, true} { // even if it holds the very same rules
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		stranger, before := newNetNS(t), rules.Plan{}
		if same {
			before = m.holds(t, pod.NetNS)
			m.put(t, stranger, before)
		}
		e.sandboxes.UpdateKnown("web", func(sb *memory.Sandbox) { sb.Pod.NetNS = stranger })
		auditNow(t, e)
		if m.holds(t, stranger).Key() != before.Key() || e.sandboxes.Count() != 0 {
			t.Errorf("a namespace that was never this sandbox's: remembered: %d", e.sandboxes.Count())
		}
	}
	if got := r.events(); slices.Contains(got, outcome.EventDrift) || slices.Contains(got, outcome.EventUnprotected) {
		t.Errorf("recorded: %v", got)
	}
}

// Routes are part of what is read before a container is created; reading in vain because the daemon ends
// says nothing about a sandbox.
func TestValidateReadsRoutes(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	pod.Annotations["sidecar.istio.io/interceptionMode"] = "TPROXY"
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	if o := e.Validate(ctx, pod, app); o.Error() != nil {
		t.Fatal(o.Error())
	}
	m.reroute(t, pod.NetNS, rules.Plan{})
	ended, end := context.WithCancel(ctx)
	end()
	if o := e.Validate(ended, pod, app); o.Error() == nil {
		t.Error("let through without an answer")
	}
	if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || len(r.events()) != 1 {
		t.Errorf("state %q, recorded %v", known.State, r.events())
	}
	if o := e.Validate(ctx, pod, app); o.Error() == nil {
		t.Error("let through without its policy rule")
	}
}

// A sandbox that only the validation comes to know is asked for the proxy's identity too.
func TestImpostorAtValidation(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	ctx := limited(t, patience)
	if o := e.Validate(ctx, sandbox(t, "web"), container("app", 1337)); o.Error() == nil {
		t.Error("let through")
	}
}

// A hostNetwork pod is nothing to remember, and an interval that is shortened holds at once.
func TestAuditIntervalIsTakenOver(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	ctx, stop := context.WithCancel(limited(t, patience))
	defer stop()
	pod := sandbox(t, "gateway")
	pod.HostNetwork = true
	e.Admit(ctx, pod, rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}})
	if n := e.sandboxes.Count(); n != 0 {
		t.Errorf("%d sandboxes remembered", n)
	}
	go e.Audit(ctx) // at the default interval, which is longer than this test waits
	e.with(func(p *policy.Policy) { p.AuditInterval = 1 })
	eventually(t, "a pass", func() bool { _, ok := e.Auditor.Last(); return ok })
}

// A runtime that names a sandbox's namespace in another way makes no difference, and is then believed.
func TestAnotherPathToTheSameNamespace(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	e.Admit(ctx, pod, container("istio-proxy", 2000))
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink(pod.NetNS, link); err != nil {
		t.Fatal(err)
	}
	pod.NetNS = link
	_, applied := m.count()
	if o := e.Admit(ctx, pod, app); o.Error() != nil || proxyUID(e) != 2000 {
		t.Errorf("%v, proxy's user %d", o.Error(), proxyUID(e))
	}
	if known, _ := e.sandboxes.Get("web"); known.Pod.NetNS != link {
		t.Errorf("remembered: %s", known.Pod.NetNS)
	}
	m.failWith(always)
	if o := e.Admit(ctx, pod, app); o.Error() != nil {
		t.Errorf("not a look-up: %v", o.Error())
	}
	if _, now := m.count(); now != applied {
		t.Error("rules were written again")
	}
}
