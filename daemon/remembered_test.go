// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"strings"
	"testing"

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
		state       State
	}{
		"of nobody":             {with("example.com/notes", strings.Repeat("x", long)), false, StateProtected},
		"of nobody, taken over": {with("example.com/notes", strings.Repeat("x", long)), true, StateProtected},
		"over its budget":       {with("traffic.sidecar.istio.io/excludeOutboundPorts", strings.Repeat("1,", long/2)), true, StateUnprotected},
		"left alone":            {map[string]string{"sidecar.istio.io/status": strings.Repeat(" ", 100) + "{}", "sidecar.istio.io/inject": "false", "proxy.istio.io/overrides": strings.Repeat("x", long)}, false, StateSkipped},
	} {
		e, _ := newEnforcer(t, newMemory())
		pod := sandbox(t, "web")
		pod.Annotations, pod.Labels = tt.annotations, map[string]string{}
		for i := range 1000 {
			pod.Labels[fmt.Sprintf("example.com/label-%d", i)] = "value"
		}
		ctx := limited(t, patience)
		if tt.takeover {
			e.Synchronize(ctx, []rules.Pod{pod})
		} else {
			e.Enforce(ctx, SandboxStarted, pod)
		}
		known, ok := e.sandboxes.get("web")
		if !ok || known.State != tt.state {
			t.Errorf("%s: %q (%s)", name, known.State, known.Detail)
		}
		if n := weight(known.Pod); n > 1<<10 {
			t.Errorf("%s: %d bytes of it are remembered", name, n)
		}
		if _, d, _ := e.Explain("web"); ok && d.Action != known.Decision.Action {
			t.Errorf("%s: explained as %s, and was %s", name, d.Action, known.Decision.Action)
		}
	}
}
