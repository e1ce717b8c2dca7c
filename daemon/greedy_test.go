// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

// A pod of any mesh that asks for as much as Kubernetes lets it write is refused by its budget, before its namespace is
// entered: by a fake clock at once, with no rule, and with less memory than its wishes take.
func TestGreedyPodsCostLittle(t *testing.T) {
	path := newNetNS(t)
	for _, spec := range lab.Greedy() {
		t.Run(spec.Name, func(t *testing.T) {
			m := newMemory()
			e, _ := newEnforcer(t, m)
			e.with(func(p *policy.Policy) { p.Node.Meshes = []rules.Mesh{istios, consuls, kumas, linkerds} })
			pod := rules.Pod{SandboxID: spec.Name, UID: spec.Name, Namespace: "hostile", Name: spec.Name, NetNS: path,
				Labels: spec.Labels, Annotations: spec.Annotations}
			faked(t, func(t *testing.T) {
				o, held := start(t, e, pod)
				if o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonOverBudget || held != 0 || o.Plan.Rules() != 0 || o.NetNS.Ino != 0 {
					t.Errorf("%s (%s) after %s, %d rules, %s: %v", o.Result, o.Decision.Reason, held, o.Plan.Rules(), o.NetNS, o.Error())
				}
				if text := o.Error().Error(); len(text) > 512 {
					t.Errorf("a sentence of %d bytes", len(text))
				}
			})
			bytes := allocated(func() { e.Enforce(t.Context(), lifecycle.SandboxStarted, pod) })
			if t.Logf("%d bytes allocated for wishes of %d", bytes, sharing.Weight(pod)); bytes > 64<<10 {
				t.Error("too many")
			}
			if calls, _ := m.count(); calls != 0 {
				t.Errorf("%d looks into the kernel", calls)
			}
			e.Synchronize(limited(t, patience), []rules.Pod{pod})
			if known, _ := e.View().Sandbox(spec.Name); known.State != lifecycle.StateUnprotected || known.Plan.Rules() != 0 {
				t.Errorf("taken over: %s, %d rules", known.State, known.Plan.Rules())
			}
			if o, _ := ask(t, func(ctx context.Context) outcome.Outcome { return e.Admit(ctx, pod, app) }); o.Error() == nil {
				t.Error("a container of it is let through")
			}
		})
	}
}

// allocated returns how many bytes a call allocates on average.
func allocated(call func()) uint64 {
	const calls = 20
	call() // what is made once does not count
	return heap.Allocated(func() {
		for range calls {
			call()
		}
	}) / calls
}
