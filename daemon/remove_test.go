// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Remove takes out what was verified there, or what an enabled mesh may have: never the rules of another program for a
// mesh that is off.
func TestRemoveWhatIsOurs(t *testing.T) {
	each(t, func(t *testing.T, f kernel.Firewall, count func(string, rules.Mesh) int) {
		for what, tt := range map[string]struct {
			by      []rules.Mesh // of the daemon that has protected the pod; nil is none
			others  bool         // another program has written rules for Linkerd
			on      []rules.Mesh
			istio   bool // has rules then
			linkerd bool
		}{
			"verified":                     {by: []rules.Mesh{istios}, on: []rules.Mesh{istios}},
			"verified, off by now":         {by: []rules.Mesh{linkerds}, on: []rules.Mesh{istios}},
			"verified, beside another's":   {by: []rules.Mesh{istios}, others: true, on: []rules.Mesh{istios}, linkerd: true},
			"another's, of a mesh off":     {others: true, on: []rules.Mesh{istios}, linkerd: true},
			"another's, of a mesh enabled": {others: true, on: []rules.Mesh{istios, linkerds}},
		} {
			ctx := limited(t, patience)
			pod := inKernel(t, inject(sandbox(t, "")))
			if tt.others {
				writeAs(t, pod.NetNS, elsewheresPlan(t, pod))
			}
			if tt.by != nil {
				if o := on(t, f, tt.by...).Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
					t.Fatal(o.Err)
				}
			}
			if _, err := on(t, f, tt.on...).Remove(ctx, pod.NetNS); err != nil {
				t.Fatalf("%s: %v", what, err)
			}
			if i, l := count(pod.NetNS, istios) > 0, count(pod.NetNS, linkerds) > 0; i != tt.istio || l != tt.linkerd {
				t.Errorf("%s: rules of Istio %v, of Linkerd %v", what, i, l)
			}
		}
	})
}

// The command asks one firewall after the other: one that finds nothing leaves it to the next.
func TestRemoveLeavesItToTheNextFirewall(t *testing.T) {
	ctx := limited(t, patience)
	m := newMemory()
	pod := ofLinkerd(t, "")
	if o := on(t, m, linkerds).Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	for i, f := range []*inMemory{newMemory(), m} {
		changed, err := on(t, f, istios).Remove(ctx, pod.NetNS)
		if err != nil || changed != (i == 1) {
			t.Errorf("%v, changed %v", err, changed)
		}
	}
	for _, chain := range linkerds.Footprint().Chains[:2] {
		if !slices.Contains(m.holds(t, pod.NetNS).Footprint.Chains, chain) {
			t.Errorf("%s is not taken out", chain)
		}
	}
}

// A pod that is skipped may have the rules of another program, for a mesh that is off.
func TestVerifyOfASkippedPod(t *testing.T) {
	each(t, func(t *testing.T, f kernel.Firewall, _ func(string, rules.Mesh) int) {
		ctx := limited(t, patience)
		pod := inKernel(t, ofLinkerd(t, ""))
		writeAs(t, pod.NetNS, elsewheresPlan(t, pod))
		if o := on(t, f, istios).Verify(ctx, pod); o.Result != lifecycle.Skipped || o.Err != nil || len(o.Differences) > 0 {
			t.Errorf("off: %s, %v, %q", o.Result, o.Err, o.Differences)
		}
		excluding := istio.Standard()
		excluding.ExcludeNamespaces = []string{"default"}
		itself := pod
		itself.Containers = []rules.Container{{Name: "linkerd-init"}, {Name: "app"}}
		if o := on(t, f, istio.New(excluding), linkerds).Verify(ctx, itself); o.Result != lifecycle.Skipped || o.Err != nil || len(o.Differences) > 0 {
			t.Errorf("sets itself up: %s, %v, %q", o.Result, o.Err, o.Differences)
		}
		pod.Annotations = nil
		if o := on(t, f, istios, linkerds).Verify(ctx, pod); o.Result != lifecycle.Skipped || o.Err != nil || len(o.Differences) == 0 {
			t.Errorf("enabled: %s, %v, %q", o.Result, o.Err, o.Differences)
		}
	})
}

// Rules of a mesh that the pod had from here, and that somebody has changed since, do not stay below another's.
func TestAnotherMeshSucceedsChangedRules(t *testing.T) {
	each(t, func(t *testing.T, f kernel.Firewall, count func(string, rules.Mesh) int) {
		ctx := limited(t, patience)
		pod := inKernel(t, inject(sandbox(t, "web")))
		on(t, f, linkerds).Enforce(ctx, lifecycle.SandboxStarted, pod)
		writeAs(t, pod.NetNS, elsewheresPlan(t, pod))
		if count(pod.NetNS, linkerds) == 0 {
			t.Fatal("no rules that were changed")
		}
		e := on(t, f, istios)
		e.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpApply })
		e.Synchronize(ctx, []rules.Pod{pod})
		if known, _ := e.sandboxes.Get("web"); known.State != lifecycle.StateProtected || known.Decision.Mesh != "istio" {
			t.Errorf("%q by %q: %s", known.State, known.Decision.Mesh, known.Detail)
		}
		if n := count(pod.NetNS, linkerds); n > 0 || count(pod.NetNS, istios) == 0 {
			t.Errorf("%d rules of Linkerd are left", n)
		}
	})
}
