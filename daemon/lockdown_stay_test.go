// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// enforced closes UDP and what arrives.
func enforced(p *policy.Policy) {
	p.Node.Lockdowns = []rules.Lockdown{{Enforce: true, UDP: rules.UDPNone, Inbound: true, Place: "m.toml:7"}}
}

// A pod that runs without a lockdown, because the configuration had none, is outdated and nothing worse, and keeps its rules
// until somebody asks; then it has both. One that runs with a lockdown keeps it when the configuration has none any more.
func TestLockdownOfARunningPod(t *testing.T) {
	ctx := limited(t, patience)
	nothing := func(*policy.Policy) {}
	for name, tt := range map[string]struct {
		before, after func(*policy.Policy)
		replace       bool
		want          lifecycle.State
	}{
		"comes": {nothing, enforced, false, lifecycle.StateOutdated}, "comes, and is asked for": {nothing, enforced, true, lifecycle.StateProtected},
		"goes": {enforced, nothing, false, lifecycle.StateOutdated}, "goes, and that is asked for": {enforced, nothing, true, lifecycle.StateProtected},
	} {
		m := newMemory()
		pod := sandbox(t, "web")
		pod.Containers = []rules.Container{{Name: "app", Running: true}}
		first, _ := newEnforcer(t, m)
		first.with(tt.before)
		if o := first.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			t.Fatal(o.Err)
		}
		had := m.holds(t, pod.NetNS)
		e, r := newEnforcer(t, m)
		e.with(func(p *policy.Policy) { tt.after(p); p.ReplaceOutdated = tt.replace })
		e.Synchronize(ctx, []rules.Pod{pod})
		auditNow(t, e)
		if same := m.holds(t, pod.NetNS).Key() == had.Key(); e.state("web") != tt.want || same == tt.replace || slices.Contains(r.events(), outcome.EventLate) || slices.Contains(r.events(), outcome.EventDrift) {
			t.Errorf("%s: %s, its rules stay: %v, recorded %v", name, e.state("web"), same, r.events())
		}
		if !tt.replace {
			if o := e.Enforce(ctx, lifecycle.ByHand, pod); o.Error() != nil || m.holds(t, pod.NetNS).Key() == had.Key() || e.state("web") != lifecycle.StateProtected {
				t.Errorf("%s, asked by hand: %v, %s", name, o.Error(), e.state("web"))
			}
		}
	}
}

// A rule of a lockdown that is gone is drift, and nothing is created in its pod before it is back.
func TestLockdownDrifts(t *testing.T) {
	ctx := limited(t, patience)
	for what, repair := range map[string]func(*Enforcer, *inMemory, rules.Pod){"auditor": whenAudited(t), "gate": whenAdmitted(t)} {
		m := newMemory()
		pod := sandbox(t, "web")
		e, r := newEnforcer(t, m)
		e.with(enforced)
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		locked := m.holds(t, pod.NetNS)
		open := locked
		open.V4.Tables = slices.DeleteFunc(slices.Clone(open.V4.Tables), func(t rules.Table) bool { return t.Name == rules.LockdownTable })
		m.put(t, pod.NetNS, open)
		if o := e.Validate(ctx, pod, app); what == "gate" && o.Error() == nil {
			t.Error("a container is created without the lockdown")
		}
		repair(e, m, pod)
		if sb, _ := e.View().Sandbox("web"); m.holds(t, pod.NetNS).Key() != locked.Key() || sb.State != lifecycle.StateProtected || sb.Drift.Times != 1 {
			t.Errorf("%s: %s, %d times drifted, recorded %v", what, sb.State, sb.Drift.Times, r.events())
		}
	}
}

// A pod without a mesh runs where a lockdown reports that, and is seen, whether it starts or was there before: by one event, and by a
// row; elsewhere nothing is said of it.
func TestUnmeshedIsReported(t *testing.T) {
	ctx := limited(t, patience)
	comes := map[string]func(*Enforcer, rules.Pod){
		"starts":           func(e *Enforcer, pod rules.Pod) { e.Enforce(ctx, lifecycle.SandboxStarted, pod) },
		"was there before": func(e *Enforcer, pod rules.Pod) { e.Synchronize(ctx, []rules.Pod{pod}) },
	}
	for how, come := range comes {
		for namespace, reports := range map[string]bool{"shop": true, "elsewhere": false} {
			e, r := newEnforcer(t, newMemory())
			e.with(func(p *policy.Policy) {
				p.Node.Lockdowns = []rules.Lockdown{{Namespaces: []string{"shop"}, Unmeshed: rules.UnmeshedReport}}
			})
			plain := rules.Pod{SandboxID: "plain", Namespace: namespace, Name: "web", NetNS: newNetNS(t)}
			come(e, plain)
			if o := e.Admit(ctx, plain, app); o.Error() != nil {
				t.Fatal(o.Error())
			}
			want := []string{outcome.EventSkipped}
			if reports {
				want = append(want, outcome.EventUnmeshed)
			}
			if sb, known := e.View().Sandbox("plain"); !slices.Equal(r.events(), want) || known != reports || known && sb.State != lifecycle.StateSkipped {
				t.Errorf("it %s in %s: events %v, %s", how, namespace, r.events(), sb.State)
			}
		}
	}
}
