// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

var router = rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}, Running: true}

// elsewheresPlan is what another program writes for a pod of Linkerd's: ours would be another.
func elsewheresPlan(t *testing.T, pod rules.Pod) rules.Plan {
	t.Helper()
	other := linkerd.Standard()
	other.SkipOutbound = []rules.PortRange{{First: 4567, Last: 4568}}
	plan, err := linkerd.New(other).Decide(pod).Planner(rules.Network{})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// A pod that was there before, and that its own init container has set up, is left exactly as it is, now and later.
func TestRunningPodThatSetsItselfUp(t *testing.T) {
	excluding := istio.Standard()
	excluding.ExcludeNamespaces = []string{"default"}
	for what, tt := range map[string]struct {
		init   string
		change func(*policy.Policy)
	}{
		"linkerd, apply":         {"linkerd-init", func(*policy.Policy) {}},
		"linkerd, report":        {"linkerd-init", func(p *policy.Policy) { p.CatchUp = config.CatchUpReport }},
		"linkerd, stop":          {"linkerd-init", func(p *policy.Policy) { p.CatchUp = config.CatchUpStop }},
		"linkerd, replace":       {"linkerd-init", func(p *policy.Policy) { p.ReplaceOutdated = true }},
		"linkerd, not Istio's":   {"linkerd-init", func(p *policy.Policy) { p.Node.Meshes[0] = istio.New(excluding) }},
		"istio, without a trace": {"istio-init", func(*policy.Policy) {}},
	} {
		t.Run(what, func(t *testing.T) {
			m := newMemory()
			ctx := limited(t, patience)
			pod := ofLinkerd(t, "web")
			plan := elsewheresPlan(t, pod)
			if tt.init == "istio-init" {
				pod = sandbox(t, "web")
			}
			m.put(t, pod.NetNS, plan)
			e, r := severalMeshes(t, m)
			e.with(tt.change)
			e.StopSandbox = func(context.Context, string) error { t.Error("stopped"); return nil }
			check := func(when string) {
				t.Helper()
				if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateExempt || !strings.HasPrefix(known.Detail, "sets itself up: init container "+tt.init) {
					t.Errorf("%s: %q: %s, %v", when, known.State, known.Detail, r.events())
				}
				if _, applied := m.count(); applied > 0 || m.holds(t, pod.NetNS).Key() != plan.Key() {
					t.Errorf("%s: other rules", when)
				}
				if _, d, _ := e.View().Explain("web"); d.Action != rules.Skip {
					t.Errorf("%s: explained as %s", when, d.Action)
				}
			}
			taken := pod
			taken.Containers = []rules.Container{{Name: tt.init}, {Name: "app", Running: true}}
			e.Synchronize(ctx, []rules.Pod{taken})
			check("taken over")
			for _, c := range []rules.Container{app, container("istio-proxy", 1337), {Name: "istio-validation"}} {
				if o := e.Admit(ctx, pod, c); o.Result != lifecycle.Skipped {
					t.Errorf("%s: %s, %v", c.Name, o.Result, o.Err)
				}
				if o := e.Validate(ctx, pod, c); o.Result != lifecycle.Skipped {
					t.Errorf("%s: %s, %v", c.Name, o.Result, o.Err)
				}
				check("container " + c.Name)
			}
			auditNow(t, e)
			check("audited")
			if o := e.Repair(ctx, "web"); o.Err != nil {
				t.Error(o.Err)
			}
			check("repaired")
			e.Synchronize(ctx, []rules.Pod{taken})
			check("taken over again")
		})
	}
}

// The name of a container sets nothing up: where no rules capture anything, the pod is what its sandbox says.
func TestInitContainerThatDoesNothing(t *testing.T) {
	ctx := limited(t, patience)
	idle := elsewheresPlan(t, ofLinkerd(t, "other"))
	for i := range idle.V4.Tables {
		for c := range idle.V4.Tables[i].Chains {
			if chain := &idle.V4.Tables[i].Chains[c]; chain.Builtin { // nothing leads to the others any more
				chain.Rules = nil
			}
		}
	}
	idle.V6 = rules.Ruleset{}
	for what, plan := range map[string]rules.Plan{"nothing": {}, "chains that nothing leads to": idle} {
		for catchUp, want := range map[config.CatchUp]lifecycle.State{config.CatchUpApply: lifecycle.StateProtected, config.CatchUpReport: lifecycle.StateUnprotected} {
			m := newMemory()
			pod := sandbox(t, "web")
			m.put(t, pod.NetNS, plan)
			e, r := severalMeshes(t, m)
			e.with(func(p *policy.Policy) { p.CatchUp = catchUp })
			pod.Containers = []rules.Container{{Name: "istio-init"}, {Name: "app", Running: true}}
			for range 2 { // nor does it when that was found out before
				e.Synchronize(ctx, []rules.Pod{pod})
				if known, _ := e.sandboxes.Get("web"); known.State != want || known.Decision.Action != rules.Enrol {
					t.Errorf("%s, %s: %q, %s, %v", what, catchUp, known.State, known.Decision.Detail, r.events())
				}
			}
			auditNow(t, e)
			if held := m.holds(t, pod.NetNS).Captures(); held != (want == lifecycle.StateProtected) {
				t.Errorf("%s, %s: rules that capture: %v", what, catchUp, held)
			}
		}
	}
}

// A pod that was there before is not written to by a container that comes while it could not be looked at.
func TestPodThatSetsItselfUpFailsAtFirst(t *testing.T) {
	m := newMemory()
	ctx := limited(t, patience)
	pod := ofLinkerd(t, "web")
	plan := elsewheresPlan(t, pod)
	m.put(t, pod.NetNS, plan)
	e, _ := severalMeshes(t, m)
	taken := pod
	taken.Containers = []rules.Container{{Name: "linkerd-init"}, {Name: "app", Running: true}}
	e.sandboxes.Expect(e.policy.Load(), taken)
	m.failWith(always)
	if o := e.takeOver(ctx, outcome.Begin(lifecycle.Takeover, taken)); o.Result != lifecycle.Failed || e.state("web") != lifecycle.StatePending {
		t.Fatalf("%s, %s, %v", e.state("web"), o.Result, o.Err)
	}
	m.failWith(nil)
	for _, o := range []outcome.Outcome{e.Enforce(ctx, lifecycle.ContainerCreated, pod), e.Repair(ctx, "web")} {
		if known, _ := e.sandboxes.Get("web"); o.Result != lifecycle.Skipped || known.State != lifecycle.StateExempt || m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("%s: %s, %v", known.State, o.Result, o.Err)
		}
	}
}

// A pod with an init container that has our whole rules is looked after with them.
func TestOurRulesBesideAnInitContainer(t *testing.T) {
	ctx := limited(t, patience)
	for state, mesh := range map[lifecycle.State]rules.Mesh{lifecycle.StateProtected: linkerds, lifecycle.StateOutdated: linkerd.New(func() linkerd.Defaults {
		other := linkerd.Standard()
		other.InboundPort = 4144
		return other
	}())} {
		m := newMemory()
		pod := ofLinkerd(t, "web")
		earlier, _ := severalMeshes(t, m)
		earlier.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{mesh} })
		plan := earlier.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
		e, r := severalMeshes(t, m)
		taken := pod
		taken.Containers = []rules.Container{{Name: "linkerd-init"}, {Name: "app", Running: true}}
		e.Synchronize(ctx, []rules.Pod{taken})
		if known, _ := e.sandboxes.Get("web"); known.State != state || known.Decision.Action != rules.Enrol || m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("%q, %s, %v", known.State, known.Decision.Action, r.events())
		}
		if o := e.Admit(ctx, pod, container("app", 2102)); o.Impostor == "" {
			t.Errorf("%s: a container that runs as the proxy is not found", state)
		}
		m.put(t, pod.NetNS, rules.Plan{})
		auditNow(t, e)
		if m.holds(t, pod.NetNS).Key() != plan.Key() {
			t.Errorf("%s: not repaired: %v", state, r.events())
		}
	}
}

// A container that comes before such a pod could be looked at does not cost it its rules.
func TestOurRulesBesideAnInitContainerFailAtFirst(t *testing.T) {
	ctx := limited(t, patience)
	m := newMemory()
	pod := ofLinkerd(t, "web")
	earlier, _ := severalMeshes(t, m)
	plan := earlier.Enforce(ctx, lifecycle.SandboxStarted, pod).Plan
	e, _ := severalMeshes(t, m)
	taken := pod
	taken.Containers = []rules.Container{{Name: "linkerd-init"}, {Name: "app", Running: true}}
	e.sandboxes.Expect(e.policy.Load(), taken)
	if o := e.Enforce(ctx, lifecycle.ContainerCreated, pod); o.Result != lifecycle.Protected || m.holds(t, pod.NetNS).Key() != plan.Key() {
		t.Errorf("%s, %v", o.Result, o.Err)
	}
}

// each runs a test with each way to write to the kernel. count counts the rules of a mesh that a namespace holds.
func each(t *testing.T, test func(t *testing.T, f kernel.Firewall, count func(path string, mesh rules.Mesh) int)) {
	for _, dialect := range []nftables.Dialect{nftables.IPTables, nftables.Native} {
		t.Run(string(dialect), func(t *testing.T) {
			f := nftables.New(dialect)
			test(t, f, func(path string, mesh rules.Mesh) int {
				t.Helper()
				ns, err := netns.Open(path, nil)
				if err != nil {
					t.Fatal(err)
				}
				defer ns.Close()
				v4, v6, err := f.Own(t.Context(), ns, mesh.Footprint())
				if err != nil {
					t.Fatal(err)
				}
				return rules.Plan{V4: v4.Own(mesh.Footprint()), V6: v6.Own(mesh.Footprint())}.Rules()
			})
		})
	}
}

// writeAs is another program that writes the plan.
func writeAs(t *testing.T, path string, plan rules.Plan) {
	t.Helper()
	ns, err := netns.Open(path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if _, err := nftables.New(nftables.IPTables).Apply(t.Context(), ns, plan); err != nil {
		t.Fatal(err)
	}
}

// mayLoosen lets containers take rules away.
func mayLoosen(p *policy.Policy) { p.Node.Policies = []rules.CapturePolicy{{MayLoosen: true}} }

// on returns a daemon with a firewall, for pods of these meshes; of the others it knows the rules.
func on(t *testing.T, f any, meshes ...rules.Mesh) *Enforcer {
	t.Helper()
	e, _ := newEnforcer(t, f)
	e.with(func(p *policy.Policy) {
		p.Node.Meshes = meshes
		for _, mesh := range []rules.Mesh{istios, consuls, kumas, linkerds} {
			if !slices.ContainsFunc(meshes, func(m rules.Mesh) bool { return m.Name() == mesh.Name() }) {
				p.Node.Disabled = append(p.Node.Disabled, mesh)
			}
		}
	})
	return e
}

// A gateway loses the rules that it had from here, and not those of another program for a mesh that is off.
func TestExemptPodKeepsOthersRules(t *testing.T) {
	each(t, func(t *testing.T, f kernel.Firewall, count func(string, rules.Mesh) int) {
		for _, started := range []bool{true, false} {
			ctx := limited(t, patience)
			pod := inKernel(t, inject(sandbox(t, "gateway")))
			writeAs(t, pod.NetNS, elsewheresPlan(t, pod))
			others := count(pod.NetNS, linkerds)
			e := on(t, f, istios)
			e.with(mayLoosen)
			if started {
				if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected || count(pod.NetNS, istios) == 0 {
					t.Fatalf("%s, %v", o.Result, o.Err)
				}
				e.Admit(ctx, pod, router)
			} else {
				pod.Containers = []rules.Container{router}
				e.Synchronize(ctx, []rules.Pod{pod})
			}
			if known, _ := e.sandboxes.Get("gateway"); known.State != lifecycle.StateExempt || e.sandboxes.Receipts.Read("gateway") != (receipts.Receipt{}) {
				t.Errorf("started %v: %q, receipt %v", started, known.State, e.sandboxes.Receipts.Read("gateway"))
			}
			if n, left := count(pod.NetNS, istios), count(pod.NetNS, linkerds); n > 0 || left != others {
				t.Errorf("started %v: %d rules of Istio, %d of %d of Linkerd", started, n, left, others)
			}
		}
	})
}

// A gateway that has the whole rules of a mesh that is off by now, and a receipt of them, has them from here.
func TestExemptPodLosesWhatWasVerified(t *testing.T) {
	each(t, func(t *testing.T, f kernel.Firewall, count func(string, rules.Mesh) int) {
		ctx := limited(t, patience)
		pod := inKernel(t, inject(sandbox(t, "gateway")))
		o := on(t, f, linkerds).Enforce(ctx, lifecycle.SandboxStarted, pod)
		if o.Result != lifecycle.Protected || count(pod.NetNS, linkerds) == 0 {
			t.Fatalf("%s, %v", o.Result, o.Err)
		}
		pod.Containers = []rules.Container{router}
		equal := pod // but for the receipt: what is found of it proves nothing of the other
		equal.SandboxID, equal.NetNS = "equal", nstest.New(t).Path
		writeAs(t, equal.NetNS, o.Plan)
		e := on(t, f, istios)
		e.with(mayLoosen)
		e.Synchronize(ctx, []rules.Pod{equal})
		e.Synchronize(ctx, []rules.Pod{pod})
		if known, _ := e.sandboxes.Get("gateway"); known.State != lifecycle.StateExempt || count(pod.NetNS, linkerds) > 0 {
			t.Errorf("%q with %d rules of Linkerd", known.State, count(pod.NetNS, linkerds))
		}
	})
}
