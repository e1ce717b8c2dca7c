// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Wherever a runtime keeps a sandbox's namespace, and whatever else its path leads to: the pod ends where
// it has to, by each of the hooks, and nothing is ever written to the host.
func TestNamespacesInOddPlaces(t *testing.T) {
	pod := nstest.New(t)
	dir := t.TempDir()
	bind := func(name, source string) string {
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); err != nil {
			if err := os.WriteFile(path, nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if err := unix.Mount(source, path, "", unix.MS_BIND, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(path, unix.MNT_DETACH) })
		return path
	}
	inside := exec.Command("nsenter", "--net="+pod.Path, "cat") // a process of the pod; ends with its input
	input, err := inside.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := inside.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = input.Close(); _ = inside.Wait() })
	process := fmt.Sprintf("/proc/%d/ns/net", inside.Process.Pid)
	eventually(t, "the process is in the pod", func() bool {
		var st unix.Stat_t
		return unix.Stat(process, &st) == nil && st.Ino == identity(t, pod.Path).Ino
	})
	link, plain, fifo := filepath.Join(dir, "link"), filepath.Join(dir, "plain"), filepath.Join(dir, "fifo")
	for _, err := range []error{os.Symlink(pod.Path, link), os.WriteFile(plain, nil, 0o600), unix.Mkfifo(fifo, 0o600)} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		what, path string
		want       lifecycle.Result
		why        string // of Refused and Failed
	}{
		{"the runtime's bind mount", pod.Path, lifecycle.Protected, ""},
		{"a mount under a state directory", bind("state", pod.Path), lifecycle.Protected, ""},
		{"the pause process", process, lifecycle.Protected, ""},
		{"a symbolic link", link, lifecycle.Protected, ""},
		{"CRI-O's bind mount of the host's", bind("host", "/proc/self/ns/net"), lifecycle.Skipped, ""},
		{"our own", "/proc/self/ns/net", lifecycle.Skipped, ""},
		{"stale", filepath.Join(dir, "gone"), lifecycle.Failed, "does not exist"},
		{"a plain file", plain, lifecycle.Failed, "is not a network namespace"},
		{"a pipe", fifo, lifecycle.Failed, "is not a network namespace"},
		{"a directory", dir, lifecycle.Failed, "is not a network namespace"},
		{"a device", "/dev/null", lifecycle.Failed, "is not a network namespace"},
		{"another kind of namespace", "/proc/self/ns/mnt", lifecycle.Failed, "is not a network namespace"},
		{"a bind mount of another kind", bind("uts", "/proc/self/ns/uts"), lifecycle.Failed, "is not a network namespace"},
		{"none", "", lifecycle.Refused, "names no network namespace"},
	} {
		for trigger, ask := range map[lifecycle.Trigger]func(*Enforcer, rules.Pod) outcome.Outcome{
			lifecycle.SandboxStarted: func(e *Enforcer, p rules.Pod) outcome.Outcome {
				return e.Enforce(limited(t, patience), lifecycle.SandboxStarted, p)
			},
			lifecycle.Takeover: func(e *Enforcer, p rules.Pod) outcome.Outcome {
				return e.Enforce(limited(t, patience), lifecycle.Takeover, p)
			},
			lifecycle.ContainerCreated:   func(e *Enforcer, p rules.Pod) outcome.Outcome { return e.Admit(limited(t, patience), p, app) },
			lifecycle.ContainerValidated: func(e *Enforcer, p rules.Pod) outcome.Outcome { return e.Validate(limited(t, patience), p, app) },
		} {
			m := newMemory()
			e, _ := newEnforcer(t, remembering{m})
			p := meshed(tt.path)
			p.SandboxID = "web"
			o := ask(e, p)
			if o.Result != tt.want || (tt.why != "" && (o.Err == nil || !strings.Contains(o.Err.Error(), tt.why))) {
				t.Errorf("%s by %s: got %s, %v; want %s, %s", tt.what, trigger, o.Result, o.Err, tt.want, tt.why)
			}
			if (o.Error() == nil) != (tt.want == lifecycle.Protected || tt.want == lifecycle.Skipped) {
				t.Errorf("%s by %s: the runtime is told %v", tt.what, trigger, o.Error())
			}
			for id := range m.plans {
				if id != identity(t, pod.Path) {
					t.Errorf("%s by %s: %s was written to", tt.what, trigger, id)
				}
			}
			if (tt.want == lifecycle.Protected) != (m.holds(t, pod.Path).Rules() > 0) {
				t.Errorf("%s by %s: %d rules", tt.what, trigger, m.holds(t, pod.Path).Rules())
			}
		}
	}
	// A known sandbox whose path comes to lead to the host: nothing is written there either.
	m := newMemory()
	e, _ := newEnforcer(t, remembering{m})
	moving := bind("moving", pod.Path)
	p := meshed(moving)
	p.SandboxID = "web"
	if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, p); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	bind("moving", "/proc/self/ns/net")
	for _, ask := range []func(){
		func() {},
		func() { auditNow(t, e) },
		func() { e.Synchronize(limited(t, patience), []rules.Pod{p}) },
	} {
		ask()
		for range 2 {
			if o := e.Validate(limited(t, patience), p, app); o.Error() == nil {
				t.Errorf("validated: a sandbox that moved to the host's namespace was let through as %s", o.Result)
			}
			if o := e.Admit(limited(t, patience), p, app); o.Error() == nil {
				t.Errorf("admitted: a sandbox that moved to the host's namespace was let through as %s", o.Result)
			}
		}
	}
	if len(m.plans) != 1 {
		t.Error("the host was written to")
	}
}

// remembering is a firewall that keeps the rules of real namespaces in memory.
type remembering struct{ memory *inMemory }

var _ kernel.Firewall = remembering{}

func (r remembering) of(ns *netns.Namespace) memoryOf { return memoryOf{r.memory, ns.ID()} }

func (r remembering) Name(*netns.Namespace, rules.Plan) string { return "memory" }

func (r remembering) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (bool, error) {
	return r.of(ns).Apply(ctx, ns, plan)
}

func (r remembering) Verify(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]rules.Difference, error) {
	return r.of(ns).Verify(ctx, ns, plan)
}

func (r remembering) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	return r.of(ns).Effect(ctx, ns, plan, have, interfaces)
}

func (r remembering) Own(ctx context.Context, ns *netns.Namespace, footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	return r.of(ns).Own(ctx, ns, footprint)
}

func (r remembering) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	return r.of(ns).Fingerprint(ctx, ns)
}

func (r remembering) Generation(ctx context.Context, ns *netns.Namespace) (string, error) {
	return r.of(ns).Generation(ctx, ns)
}

func (r remembering) Counts(ctx context.Context, ns *netns.Namespace) (map[string]uint64, error) {
	return r.of(ns).Counts(ctx, ns)
}
