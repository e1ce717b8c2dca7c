// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/rules"
)

// Nobody is asked about pods outside the mesh, and what is said of the others comes to the runtime.
func TestStart(t *testing.T) {
	for _, tt := range []struct{ name, version, unheeded string }{
		{"containerd", "v2.4.2", ""}, {"containerd", "v1.7.35", ""}, {"cri-o", "1.36.0", "CRI-O starts"}, {"other", "1.0", "not known"},
	} {
		t.Run(tt.name+tt.version, func(t *testing.T) {
			noLeaks(t)
			socket := socketPath(t)
			rt := startRuntime(t, socket, tt.name, tt.version)
			run(t, socket, &pods{
				outside: func(pod rules.Pod) bool { return pod.SandboxID == "plain" },
				start: func(_ context.Context, pod rules.Pod, container, unheeded string) error {
					return errors.New(pod.SandboxID + ", " + container + ": " + unheeded)
				},
			})
			rt.connected(t)
			if err := rt.start(t, meshed("plain")); err != nil {
				t.Errorf("outside the mesh: %v", err)
			}
			if err := rt.start(t, meshed("web")); err == nil || !strings.Contains(err.Error(), "web, app: ") || !strings.Contains(err.Error(), tt.unheeded) ||
				(tt.unheeded == "") != strings.HasSuffix(err.Error(), "app: ") {
				t.Errorf("the runtime got %v", err)
			}
		})
	}
}

// While it is being stopped a start is looked at all the same: to refuse it may be final for the pod.
func TestStartWhileStopping(t *testing.T) {
	asked := 0
	h := &hooks{stopping: true, timeout: func() (none time.Duration) { return none }, pods: &pods{
		start: func(ctx context.Context, _ rules.Pod, _, _ string) error { asked++; return ctx.Err() },
	}}
	if err := h.StartContainer(t.Context(), meshed("web"), &api.Container{}); err != nil || asked != 1 {
		t.Errorf("asked %d times, %v", asked, err)
	}
}
