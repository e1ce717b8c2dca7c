// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
)

// Whoever asks is told of the sandboxes that are there, whatever the auditor has noticed: nobody says when one ends, and
// its name may be another sandbox's by then.
func TestSandboxesThatAreThere(t *testing.T) {
	e, r := newEnforcer(t, newMemory())
	first, second := newNetNS(t), newNetNS(t)
	path := filepath.Join(t.TempDir(), "netns")
	lead := func(to string) {
		t.Helper()
		if err := os.Symlink(to, path); err != nil {
			t.Fatal(err)
		}
	}
	there := func(what string, want ...string) {
		t.Helper()
		var ids []string
		for _, sb := range e.View().Sandboxes() {
			ids = append(ids, sb.Pod.SandboxID)
		}
		if len(ids) != len(want) || len(want) > 0 && ids[0] != want[0] {
			t.Errorf("%s: %v, want %v", what, ids, want)
		}
	}
	ctx := limited(t, patience)
	pod := meshed(path)
	lead(first)
	pod.SandboxID = "old"
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	there("it runs", "old")
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	there("it has ended")
	lead(second)
	there("another one has its path")
	pod.SandboxID = "new"
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	there("the pod was made anew", "new")
	// Nobody has looked into this one: that something is there is all that is known.
	e.sandboxes.Update("unseen", func(sb *memory.Sandbox) { *sb = memory.Sandbox{State: lifecycle.StatePending, Pod: pod} })
	if n := len(e.View().Sandboxes()); n != 2 {
		t.Errorf("one that is to be taken over: %d are told of, want 2", n)
	}
	if got := r.events(); len(got) != 2 {
		t.Errorf("to ask is an event: %v", got)
	}
}
