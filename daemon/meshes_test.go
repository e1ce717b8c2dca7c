// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

var (
	consuls  = consul.New(consul.Standard())
	kumas    = kuma.New(kuma.Standard())
	istios   = istio.New(istio.Standard())
	linkerds = linkerd.New(linkerd.Standard())
)

// severalMeshes is a daemon for pods of four.
func severalMeshes(t *testing.T, m *inMemory) (*Enforcer, *recorder) {
	t.Helper()
	e, r := newEnforcer(t, m)
	e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{istios, consuls, kumas, linkerds} })
	return e, r
}

// inject adds Linkerd's marks to a pod, which has Istio's.
func inject(pod rules.Pod) rules.Pod {
	pod.Labels = map[string]string{"linkerd.io/control-plane-ns": "linkerd"}
	pod.Annotations["linkerd.io/proxy-version"] = "x"
	return pod
}

// ofLinkerd is a pod of Linkerd's alone.
func ofLinkerd(t *testing.T, id string) rules.Pod {
	t.Helper()
	pod := inject(sandbox(t, id))
	delete(pod.Annotations, "sidecar.istio.io/status")
	return pod
}

// without switches a mesh off.
func without(name string) func(*policy.Policy) {
	return func(p *policy.Policy) {
		meshes := slices.Concat(p.Node.Meshes, p.Node.Disabled)
		i := slices.IndexFunc(meshes, func(mesh rules.Mesh) bool { return mesh.Name() == name })
		p.Node.Disabled = []rules.Mesh{meshes[i]}
		p.Node.Meshes = slices.Delete(meshes, i, i+1)
	}
}

func TestEachPodGetsItsMeshesRules(t *testing.T) {
	m := newMemory()
	e, r := severalMeshes(t, m)
	ctx := limited(t, patience)
	for mesh, pod := range map[string]rules.Pod{"istio": sandbox(t, "a"), "linkerd": ofLinkerd(t, "b")} {
		o := e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		if o.Result != lifecycle.Protected || o.Decision.Mesh != mesh || m.holds(t, pod.NetNS).Key() != o.Plan.Key() {
			t.Errorf("%s: %s by %q, %v", mesh, o.Result, o.Decision.Mesh, o.Err)
		}
	}
	o := e.Enforce(ctx, lifecycle.SandboxStarted, inject(sandbox(t, "c")))
	if o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonTwoMeshes || o.Event() != outcome.EventBlocked {
		t.Fatalf("claimed twice: %s (%s), %v", o.Result, o.Decision.Reason, r.events())
	}
	if err := o.Error().Error(); !strings.Contains(err, "istio and linkerd claim the pod") || !strings.Contains(err, "Correct the pod") {
		t.Error(err)
	}
}

// A container shows that its pod is another mesh's as well: it is refused, and what runs keeps its rules.
func TestAContainerOfASecondMesh(t *testing.T) {
	m := newMemory()
	e, _ := severalMeshes(t, m)
	ctx := limited(t, patience)
	pod := inject(sandbox(t, "web"))
	pod.Annotations["inject.istio.io/templates"] = "gateway"
	o := e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	if o.Result != lifecycle.Protected || o.Decision.Mesh != "linkerd" {
		t.Fatalf("%s by %q, %v", o.Result, o.Decision.Mesh, o.Err)
	}
	if o := e.Admit(ctx, pod, app); o.Error() != nil {
		t.Error(o.Error())
	}
	sidecar := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}
	if o := e.Admit(ctx, pod, sidecar); o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonTwoMeshes {
		t.Errorf("%s (%s): %v", o.Result, o.Decision.Reason, o.Err)
	}
	if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || m.holds(t, pod.NetNS).Key() != o.Plan.Key() {
		t.Errorf("then: %s", known.State)
	}
}

// The rules of a mesh that is switched off stay in running pods, and are looked after: by the daemon that wrote them,
// and by the next one.
func TestAMeshIsSwitchedOff(t *testing.T) {
	ctx := limited(t, patience)
	for _, restarted := range []bool{false, true} {
		m := newMemory()
		pod := ofLinkerd(t, "web")
		e, r := severalMeshes(t, m)
		plan := e.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
		if restarted {
			e, r = severalMeshes(t, m)
		}
		e.with(without("linkerd"))
		if restarted {
			e.Synchronize(ctx, []rules.Pod{pod})
		}
		state := map[bool]lifecycle.State{false: lifecycle.StateProtected, true: lifecycle.StateOutdated}[restarted]
		if known, _ := e.sandboxes.Get("web"); known.State != state || known.Decision.Mesh != "linkerd" || m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("restarted %v: %q by %q, %v", restarted, known.State, known.Decision.Mesh, r.events())
		}
		if o := e.Admit(ctx, pod, container("app", 2102)); o.Impostor == "" {
			t.Errorf("restarted %v: a container that runs as the proxy is not found", restarted)
		}
		if o := e.Admit(ctx, pod, app); o.Error() != nil || o.Result != lifecycle.Protected {
			t.Errorf("restarted %v: %s, %v", restarted, o.Result, o.Error())
		}
		m.put(t, pod.NetNS, rules.Plan{})
		auditNow(t, e)
		if m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("restarted %v: not repaired: %v", restarted, r.events())
		}
		if changed, err := e.Remove(ctx, pod.NetNS); err != nil || !changed || m.holds(t, pod.NetNS).Rules() > 0 {
			t.Errorf("restarted %v: not removed: %v", restarted, err)
		}
		if o := e.Enforce(ctx, lifecycle.SandboxStarted, ofLinkerd(t, "new")); o.Result != lifecycle.Skipped || o.Decision.Reason != rules.ReasonNotInjected {
			t.Errorf("restarted %v: a new pod: %s (%s)", restarted, o.Result, o.Decision.Reason)
		}
	}
}

// A pod that has become another mesh's does not keep the rules of the first below those of the second.
func TestAnotherMeshSucceeds(t *testing.T) {
	ctx := limited(t, patience)
	for _, replace := range []bool{true, false} {
		m := newMemory()
		pod := inject(sandbox(t, "web"))
		e, _ := severalMeshes(t, m)
		e.with(without("istio"))
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		next, r := severalMeshes(t, m)
		next.with(without("linkerd"))
		next.with(func(p *policy.Policy) { p.ReplaceOutdated = replace })
		next.Synchronize(ctx, []rules.Pod{pod})
		if !replace {
			if known, _ := next.sandboxes.Get("web"); known.State != lifecycle.StateOutdated || known.Decision.Mesh != "linkerd" {
				t.Errorf("before: %q by %q, %v", known.State, known.Decision.Mesh, r.events())
			}
			next.Repair(ctx, "web")
		}
		known, _ := next.sandboxes.Get("web")
		if known.State != lifecycle.StateProtected || known.Decision.Mesh != "istio" || m.holds(t, pod.NetNS).Key() != known.Plan.Key() {
			t.Errorf("replaced %v: %q by %q, %v", replace, known.State, known.Decision.Mesh, r.events())
		}
		for _, chain := range []string{"ISTIO_OUTPUT", "PROXY_INIT_OUTPUT"} {
			if !slices.Contains(known.Plan.Footprint.Chains, chain) {
				t.Errorf("replaced %v: %s is not taken out: %v", replace, chain, known.Plan.Footprint.Chains)
			}
		}
	}
}

// An address that another mesh's plans have is not held against rules that never had it.
func TestAnothersAddressIsNoDifference(t *testing.T) {
	ctx := limited(t, patience)
	m := newMemory()
	pod := ofLinkerd(t, "web")
	e, _ := severalMeshes(t, m)
	other := linkerd.Standard()
	other.InboundPort = 4144
	e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{linkerd.New(other)} })
	plan := e.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
	m.reroute(t, pod.NetNS, rules.Plan{Loopback: []netip.Prefix{netip.MustParsePrefix("::6/128")}})
	next, r := severalMeshes(t, m)
	next.Synchronize(ctx, []rules.Pod{pod})
	if known, _ := next.sandboxes.Get("web"); known.State != lifecycle.StateOutdated || m.holds(t, pod.NetNS).Key() != plan.Key() {
		t.Errorf("%q, %v", known.State, r.events())
	}
}

// A pod of a mesh that is switched off, without its rules, is nobody's.
func TestNothingIsLeftOfAMesh(t *testing.T) {
	ctx := limited(t, patience)
	m := newMemory()
	e, r := severalMeshes(t, m)
	e.with(without("linkerd"))
	pod := ofLinkerd(t, "web")
	e.Synchronize(ctx, []rules.Pod{pod})
	if known, ok := e.sandboxes.Get("web"); ok || !slices.Equal(r.events(), []string{outcome.EventSkipped}) {
		t.Errorf("%q, %v", known.State, r.events())
	}
	if _, applied := m.count(); applied > 0 {
		t.Error("something was written")
	}
}

// A mesh that is switched on later and claims a running pod too does not take its rules away.
func TestASecondClaimOfARunningPod(t *testing.T) {
	ctx := limited(t, patience)
	m := newMemory()
	e, _ := severalMeshes(t, m)
	e.with(without("istio"))
	pod := inject(sandbox(t, "web"))
	plan := e.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
	next, r := severalMeshes(t, m)
	next.Synchronize(ctx, []rules.Pod{pod})
	if known, _ := next.sandboxes.Get("web"); known.State != lifecycle.StateOutdated || known.Decision.Mesh != "linkerd" || known.Decision.Action != rules.Enrol {
		t.Errorf("%q by %q (%s), %v", known.State, known.Decision.Mesh, known.Decision.Detail, r.events())
	}
	m.put(t, pod.NetNS, rules.Plan{})
	auditNow(t, next)
	if m.holds(t, pod.NetNS).Key() != plan.Key() {
		t.Errorf("not repaired: %v", r.events())
	}
}
