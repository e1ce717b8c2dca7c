// SPDX-License-Identifier: Apache-2.0

package lab_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestCloseLeavesNothing(t *testing.T) {
	forEachRuntime(t, func(t *testing.T, runtime lab.Runtime) {
		ctx := testContext(t)
		opts := labtest.Options(t, runtime)
		opts.DualStack = true
		ownTemp(t)
		before := traces(t, "")
		l := labtest.Start(t, opts)
		for _, spec := range []lab.PodSpec{{Name: "a"}, {Name: "b"}, {Name: "host", HostNetwork: true}} {
			pod := runPod(ctx, t, l, spec)
			runContainer(ctx, t, pod, lab.ContainerSpec{Name: "app"})
		}

		if err := l.Close(); err != nil {
			t.Fatal(err)
		}

		expectNoTraces(t, l.Dir(), before)
		if err := l.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
	})
}

func TestCloseWithoutRuntime(t *testing.T) {
	forEachRuntime(t, func(t *testing.T, runtime lab.Runtime) {
		ctx := testContext(t)
		opts := labtest.Options(t, runtime)
		ownTemp(t)
		before := traces(t, "")
		l := labtest.Start(t, opts)
		pod := runPod(ctx, t, l, lab.PodSpec{Name: "orphan"})
		runContainer(ctx, t, pod, lab.ContainerSpec{Name: "app"})
		if err := l.Stop(ctx); err != nil {
			t.Fatal(err)
		}
		freeze(t, filepath.Base(l.Dir()))

		if err := l.Close(); err != nil {
			t.Fatal(err)
		}

		expectNoTraces(t, l.Dir(), before)
	})
}

// freeze freezes every cgroup of a lab, as runc does with what it is about to kill.
func freeze(t *testing.T, lab string) {
	t.Helper()
	frozen := 0
	for pattern, state := range map[string]string{"/sys/fs/cgroup/freezer/%s/*/freezer.state": "FROZEN", "/sys/fs/cgroup/%s/*/cgroup.freeze": "1"} {
		files, err := filepath.Glob(fmt.Sprintf(pattern, lab))
		if err != nil {
			t.Fatal(err)
		}
		for _, file := range files {
			if err := os.WriteFile(file, []byte(state), 0); err != nil {
				t.Fatal(err)
			}
			frozen++
		}
	}
	if frozen == 0 {
		t.Error("nothing was frozen")
	}
}

func TestFailedStartLeavesNothing(t *testing.T) {
	opts := labtest.Options(t, lab.Runtimes()[0])
	ownTemp(t)
	before := traces(t, "")
	broken := opts
	broken.Snapshotter = "no-such-snapshotter"
	ctx, cancel := context.WithTimeout(testContext(t), 3*time.Second)
	defer cancel()

	if l, err := lab.Start(ctx, broken); err == nil {
		t.Errorf("Start succeeded with a broken configuration")
		_ = l.Close()
	}
	expectNoTraces(t, "", before)

	cancelled, cancel := context.WithCancel(testContext(t))
	cancel()
	if _, err := lab.Start(cancelled, opts); !errors.Is(err, context.Canceled) {
		t.Errorf("Start with a cancelled context: error = %v, want %v", err, context.Canceled)
	}
	expectNoTraces(t, "", before)
}

// ownTemp keeps the directories of labs that other packages run out of sight. The rest of the machine is this one's.
func ownTemp(t *testing.T) {
	t.Helper()
	dir, err := os.MkdirTemp("", "ml") // shorter than t.TempDir, for the sockets in it
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	t.Setenv("TMPDIR", dir)
}

// expectNoTraces waits until the machine looks as before: the kernel takes a
// dead namespace's interfaces away a little later.
func expectNoTraces(t *testing.T, dir string, before map[string]bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for {
		after := traces(t, dir)
		maps.DeleteFunc(after, func(trace string, _ bool) bool { return before[trace] })
		if len(after) == 0 {
			return
		}
		select {
		case <-ctx.Done():
			t.Errorf("left behind: %q", slices.Sorted(maps.Keys(after)))
			return
		case <-ticker.C:
		}
	}
}

// traces lists what a lab could leave: interfaces, mounts, processes that
// mention a lab's directory, directories and switches of the machine.
func traces(t *testing.T, dir string) map[string]bool {
	t.Helper()
	found := map[string]bool{}
	interfaces, err := net.Interfaces()
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range interfaces {
		found["interface "+i.Name] = true
	}
	for line := range strings.Lines(read(t, "/proc/self/mountinfo")) {
		found["mount "+strings.Fields(line)[4]] = true
	}
	cgroup := "mlab-none"
	if dir != "" {
		cgroup = filepath.Base(dir) // they are the only thing that other labs have here too
	}
	for _, pattern := range []string{
		filepath.Join(os.TempDir(), "mlab-*"), "/sys/fs/cgroup/*/" + cgroup, "/sys/fs/cgroup/" + cgroup,
		"/run/containerd", "/run/containerd/*", "/run/containerd/s/*", "/run/netns/*", "/run/nri",
		"/var/lib/cni", "/var/lib/cni/results/*", "/var/lib/containerd", "/opt/containerd", "/opt/cni", "/opt/nri",
		"/etc/containerd", "/etc/cni", "/etc/nri", "/etc/crio", "/run/crio/*", "/run/containers", "/var/lib/crio",
	} {
		paths, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		for _, path := range paths {
			found["file "+path] = true
		}
	}
	forwarding := read(t, "/proc/sys/net/ipv4/ip_forward") + read(t, "/proc/sys/net/ipv6/conf/all/forwarding")
	found["forwarding "+forwarding] = true
	if dir != "" {
		// pgrep never reports itself.
		out, _ := exec.Command("pgrep", "-f", dir).Output()
		for pid := range strings.FieldsSeq(string(out)) {
			found["process "+pid] = true
		}
	}
	return found
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
