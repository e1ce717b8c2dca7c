// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// A meshnetd that hangs costs the node one timeout: it is disconnected, pods outside the mesh go on, and those of the
// mesh wait for it. A runtime with NRI 0.12.4 or newer refuses the pod that it asked about, an older one lets it run.
func TestHungDaemon(t *testing.T) {
	opts := labtest.Options(t, lab.Runtimes()[0])
	opts.Imports = []string{waiting(t, opts.Runtime)}
	l := labtest.Start(t, opts)
	daemon := labtest.RunDaemon(t, l)
	meshed := labtest.RunPod(t, l, "meshed", labtest.Injected("required-plugins.noderesource.dev", `["meshnetd"]`))
	bare := labtest.RunPod(t, l, "bare", labtest.Injected())
	started(t, meshed)
	started(t, bare)
	if line := daemon.Event(t, "pod_not_held", "default/bare"); line.Message != "not held back while meshnetd is away: the pod does not require it" {
		t.Errorf("said %q", line.Message)
	}
	if strings.Contains(daemon.Log(), `"event":"pod_not_held","pod":"default/meshed"`) {
		t.Error("a pod that waits for meshnetd is said to be not held back")
	}
	if err := syscall.Kill(daemon.PID(), syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = syscall.Kill(daemon.PID(), syscall.SIGCONT) })
	_, err := l.RunPod(labtest.Within(t, time.Minute), lab.PodSpec{Name: "first"})
	if err != nil && !strings.Contains(err.Error(), "plugin 95-meshnetd failed to handle RunPodSandbox") {
		t.Errorf("the pod that it was asked about: %v", err)
	}
	t.Logf("the pod that it was asked about: %v", err)
	for _, name := range []string{"second", "third"} {
		started(t, labtest.RunPod(t, l, name, nil))
	}
	refused(t, meshed, `required plugin "meshnetd" not present`)

	if err := syscall.Kill(daemon.PID(), syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if err := lab.Poll(labtest.Within(t, time.Minute), func() (bool, error) {
		return strings.Count(daemon.Log(), `"event":"nri_connected"`) == 2, nil
	}); err != nil {
		t.Fatalf("it is not connected again: %v\n%s", err, daemon.Log())
	}
	started(t, meshed)
}
