// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/rules"
)

// What is remembered of a pod is bounded, however much it says about itself and whatever becomes of it: what is kept of each
// sandbox outlives every event.
func TestAnnotationsRemembered(t *testing.T) {
	const long = 200 << 10
	with := func(key, value string) map[string]string {
		return map[string]string{"sidecar.istio.io/status": "{}", key: value}
	}
	for name, tt := range map[string]struct {
		annotations map[string]string
		takeover    bool
		state       lifecycle.State
	}{
		"of nobody":             {with("example.com/notes", strings.Repeat("x", long)), false, lifecycle.StateProtected},
		"of nobody, taken over": {with("example.com/notes", strings.Repeat("x", long)), true, lifecycle.StateProtected},
		"over its budget":       {with("traffic.sidecar.istio.io/excludeOutboundPorts", strings.Repeat("1,", long/2)), true, lifecycle.StateUnprotected},
		"left alone":            {map[string]string{"sidecar.istio.io/status": strings.Repeat(" ", 100) + "{}", "sidecar.istio.io/inject": "false", "proxy.istio.io/overrides": strings.Repeat("x", long)}, false, lifecycle.StateSkipped},
	} {
		e, _ := newEnforcer(t, newMemory())
		pod := sandbox(t, "web")
		pod.Annotations, pod.Labels = tt.annotations, map[string]string{}
		for i := range 1000 {
			pod.Labels[fmt.Sprintf("example.com/label-%d", i)] = "value"
			pod.Annotations[fmt.Sprintf("sidecar.istio.io/%080d", i)] = "value"
		}
		ctx := limited(t, patience)
		if tt.takeover {
			e.Synchronize(ctx, []rules.Pod{pod})
		} else {
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		}
		known, ok := e.sandboxes.Get("web")
		if !ok || known.State != tt.state {
			t.Errorf("%s: %q (%s)", name, known.State, known.Detail)
		}
		if n := sharing.Weight(known.Pod) + len(strings.Join(known.Pod.Unread, "")); n > 3<<10 {
			t.Errorf("%s: %d bytes of it are remembered", name, n)
		}
		if _, d, _ := e.View().Explain("web"); ok && d.Action != known.Decision.Action {
			t.Errorf("%s: explained as %s, and was %s", name, d.Action, known.Decision.Action)
		}
	}
}

// A pod that runs is told apart from what its author meant, whether it was seen starting or taken over.
func TestMisspeltOfRunningPods(t *testing.T) {
	const want = "annotation traffic.sidecar.istio.io/excludeOutboundPort is read by no mesh"
	for _, takeover := range []bool{false, true} {
		e, _ := newEnforcer(t, newMemory())
		pod := sandbox(t, "web")
		pod.Annotations = map[string]string{"sidecar.istio.io/status": "{}", "traffic.sidecar.istio.io/excludeOutboundPort": "80"}
		if takeover {
			e.Synchronize(limited(t, patience), []rules.Pod{pod})
		} else {
			e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
		}
		sb, d, _ := e.View().Explain("web")
		if said := e.View().Misspelt(sb); len(said) != 1 || !strings.HasPrefix(said[0], want) {
			t.Errorf("taken over %t: the status says %q", takeover, said)
		}
		if steps := strings.Join(d.Account.Steps, "\n"); !strings.Contains(steps, want) {
			t.Errorf("taken over %t: explained by %s", takeover, steps)
		}
	}
}

// What is kept of a pod's containers is what decides about it, in however many words they say more, and whoever tells of them.
func TestContainersRemembered(t *testing.T) {
	const many = 20_000
	words, env := slices.Repeat([]string{""}, many), map[string]string{}
	for i := range many {
		env[fmt.Sprintf("V%d", i)] = ""
	}
	env["ISTIO_DUAL_STACK"] = "true"
	telling := func(name string, args ...string) rules.Container {
		c := container(name, 1337)
		c.Args, c.Env = slices.Concat(c.Args, args), env
		return c
	}
	taken := func(e *Enforcer, pod rules.Pod, all []rules.Container) {
		pod.Containers = all
		e.Synchronize(limited(t, patience), []rules.Pod{pod})
	}
	created := func(e *Enforcer, pod rules.Pod, all []rules.Container) {
		e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
		for _, c := range all {
			e.Admit(limited(t, patience), pod, c)
		}
	}
	specified := func(e *Enforcer, pod rules.Pod, all []rules.Container) {
		e.Kubelet = &specs{pods: []rules.Pod{{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Containers: all, Complete: true}}}
		e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
	}
	pair := []rules.Container{telling("istio-validation"), telling("istio-proxy"), telling("app", words...)}
	for name, tt := range map[string]struct {
		tell       func(*Enforcer, rules.Pod, []rules.Container)
		containers []rules.Container
		state      lifecycle.State
	}{
		"created":                      {created, pair, lifecycle.StateProtected},
		"taken over":                   {taken, pair, lifecycle.StateProtected},
		"by the kubelet":               {specified, pair, lifecycle.StateProtected},
		"created, many arguments":      {created, []rules.Container{telling("istio-proxy", words...)}, lifecycle.StateProtected}, // the sandbox's own
		"taken over, many arguments":   {taken, []rules.Container{telling("istio-proxy", words...)}, lifecycle.StateUnprotected},
		"taken over, own init":         {taken, []rules.Container{telling("istio-init", words...), telling("app", words...)}, lifecycle.StateExempt},
		"taken over, not of this mesh": {taken, []rules.Container{telling("linkerd-proxy", words...)}, lifecycle.StateProtected},
	} {
		m := newMemory()
		e, _ := severalMeshes(t, m)
		pod := sandbox(t, "web")
		if pod.UID = "uid-web"; tt.state == lifecycle.StateExempt {
			m.put(t, pod.NetNS, elsewheresPlan(t, ofLinkerd(t, "other")))
		}
		tt.tell(e, pod, tt.containers)
		known, _ := e.sandboxes.Get("web")
		if known.State != tt.state {
			t.Errorf("%s: %q (%s)", name, known.State, known.Detail)
		}
		kept, bytes := 0, 0
		for _, c := range slices.Concat(known.Pod.Containers, known.Admitted) {
			kept += len(c.Args) + len(c.Env)
			bytes += sharing.Weight(rules.Pod{Containers: []rules.Container{c}})
		}
		if kept > 64 || bytes > 4<<10 {
			t.Errorf("%s: %d words of %d bytes are kept", name, kept, bytes)
		}
		if _, d, _ := e.View().Explain("web"); d.Action != known.Decision.Action || d.Reason != known.Decision.Reason {
			t.Errorf("%s: explained as %s (%s), and was %s (%s): %s", name, d.Action, d.Reason, known.Decision.Action, known.Decision.Reason, d.Detail)
		}
	}
}
