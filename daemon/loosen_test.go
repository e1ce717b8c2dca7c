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
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Whoever writes a pod takes nothing away after injection, by any container: it is refused, the sandbox keeps its rules,
// and the next container that takes nothing away is let through.
func TestContainersOfAProtectedPodTakeNothingAway(t *testing.T) {
	environment := func(pairs ...string) rules.Container {
		c := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{}}
		for i := 0; i < len(pairs); i += 2 {
			c.Env[pairs[i]] = pairs[i+1]
		}
		return c
	}
	for name, attack := range map[string]rules.Container{
		"without Envoy":   environment("DISABLE_ENVOY", "true"),
		"groups":          environment("ISTIO_OUTBOUND_OWNER_GROUPS", "4000"),
		"groups excluded": environment("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "1000"),
		"router":          router,
		"tunnel port":     {Name: "istio-validation", Args: []string{"-e", "8080"}},
	} {
		for _, allowed := range []bool{false, true} {
			m := newMemory()
			e, r := newEnforcer(t, m)
			e.with(func(p *policy.Policy) { p.Node.Loosening = effect.NewLoosening() })
			if allowed {
				e.with(mayLoosen)
			}
			ctx := limited(t, patience)
			pod := inject(sandbox(t, "web"))
			before := e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			if before.Result != lifecycle.Protected {
				t.Fatal(before.Err)
			}
			o := e.Admit(ctx, pod, attack)
			if v := e.Validate(ctx, pod, attack); (v.Error() != nil) == allowed {
				t.Errorf("%s, allowed %t: validated as %s, %v", name, allowed, v.Result, v.Err)
			}
			known, _ := e.sandboxes.Get("web")
			if allowed {
				if o.Error() != nil || known.Key == before.Plan.Key() && known.State == lifecycle.StateProtected {
					t.Errorf("%s, where it may: %s, %v", name, known.State, o.Error())
				}
				continue
			}
			if o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonLoosened || known.State != lifecycle.StateProtected || m.holds(t, pod.NetNS).Key() != before.Plan.Key() {
				t.Errorf("%s: %s (%s), %v; %s", name, o.Result, o.Decision.Reason, o.Err, known.State)
			}
			if o := e.Admit(ctx, pod, environment("ISTIO_META_DNS_CAPTURE", "true")); o.Error() != nil {
				t.Errorf("%s, mended: %v", name, o.Error())
			}
			if events := r.events(); !slices.Contains(events, outcome.EventBlocked) || events[len(events)-1] != outcome.EventRefined {
				t.Errorf("%s: events %q", name, events)
			}
		}
	}
}

// A pod that bears the injector's mark and is left alone is seen: an event at level info, and a row.
func TestMarkedPodsThatAreLeftAloneAreSeen(t *testing.T) {
	for name, edit := range map[string]func(rules.Pod){
		"init-container":    func(p rules.Pod) { p.Annotations["sidecar.istio.io/status"] = `{"initContainers":["istio-init"]}` },
		"inject-disabled":   func(p rules.Pod) { p.Annotations["sidecar.istio.io/inject"] = "false" },
		"not-a-sidecar":     func(p rules.Pod) { p.Annotations["inject.istio.io/templates"] = "gateway" },
		"interception-none": func(p rules.Pod) { p.Annotations["sidecar.istio.io/interceptionMode"] = "NONE" },
	} {
		for _, late := range []bool{false, true} {
			e, r := newEnforcer(t, newMemory())
			ctx := limited(t, patience)
			pod := inject(sandbox(t, "web"))
			edit(pod)
			if late {
				e.Synchronize(ctx, []rules.Pod{pod})
			} else {
				e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			}
			for range 2 {
				if o := e.Admit(ctx, pod, app); o.Error() != nil {
					t.Errorf("%s: %v", name, o.Error())
				}
			}
			known, _ := e.sandboxes.Get("web")
			if known.State != lifecycle.StateSkipped || string(known.Decision.Reason) != name || known.Detail == "" {
				t.Errorf("%s, late %t: %q (%s)", name, late, known.State, known.Decision.Reason)
			}
			if got := r.events(); !slices.Equal(got, []string{outcome.EventSkipped}) || r.outcomes[0].Level() != 0 {
				t.Errorf("%s, late %t: events %q at %s", name, late, got, r.outcomes[0].Level())
			}
		}
	}
	e, r := newEnforcer(t, newMemory())
	plain := rules.Pod{SandboxID: "plain", NetNS: "/nowhere"}
	e.Enforce(limited(t, patience), lifecycle.SandboxStarted, plain)
	if _, known := e.sandboxes.Get("plain"); known || r.outcomes[0].Level() >= 0 {
		t.Errorf("a pod without a mark: remembered %t, at %s", known, r.outcomes[0].Level())
	}
}
