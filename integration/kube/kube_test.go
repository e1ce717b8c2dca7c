// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// options are a cluster on programs that `make test-kube` builds.
func options(t *testing.T) Options {
	t.Helper()
	kubernetes, runtimes := os.Getenv("MESHNETD_KUBERNETES"), os.Getenv("MESHNETD_RUNTIMES")
	if kubernetes == "" || runtimes == "" {
		t.Skip("runs by make test-kube")
	}
	return Options{Binaries: kubernetes, Plugins: os.Getenv("MESHNETD_PLUGINS"), Log: t.Output(),
		Lab: lab.Options{Version: lab.Containerd24, Binaries: runtimes, DefaultValidator: true, DualStack: true, Log: t.Output()}}
}

// start runs a cluster for the test, whose kubelet has these arguments too.
func start(t *testing.T, kubelet ...string) *Cluster {
	t.Helper()
	opts := options(t)
	opts.KubeletArgs = kubelet
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	c, err := Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if t.Failed() {
			c.tell(t)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return c
}

// tell writes what helps to see why a test failed.
func (c *Cluster) tell(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	for _, args := range [][]string{
		{"get", "pods", "-A", "-o", "wide"}, {"get", "events", "-A", "--sort-by=.lastTimestamp"},
		{"logs", "-n", "meshnetd-system", "-l", "app.kubernetes.io/name=meshnetd", "--tail=40"},
	} {
		out, err := c.Kubectl(ctx, "", args...)
		t.Logf("kubectl %v: %v\n%s", args, err, out)
	}
	for _, p := range c.processes {
		t.Logf("%s%s", filepath.Base(p.log), p.tail())
	}
}

// A cluster leaves the machine as it found it, also one whose last component does not start.
func TestLeavesNothing(t *testing.T) {
	opts := options(t)
	before := settings(t)
	broken := t.TempDir()
	for _, program := range []string{"kube-apiserver", "kube-controller-manager", "kube-scheduler", "kubectl"} {
		if err := os.Symlink(filepath.Join(opts.Binaries, program), filepath.Join(broken, program)); err != nil {
			t.Fatal(err)
		}
	}
	// It dies after it has done what a kubelet does to its machine.
	script := "#!/bin/sh\nmkdir -p /var/lib/kubelet/device-plugins\necho 11 >/proc/sys/kernel/panic\necho no kubelet today\nexit 1\n"
	if err := os.WriteFile(filepath.Join(broken, "kubelet"), []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, binaries := range map[string]string{"all well": opts.Binaries, "no kubelet": broken} {
		t.Run(name, func(t *testing.T) {
			opts := opts
			opts.Binaries = binaries
			var log strings.Builder
			opts.Lab.Log = &log
			c, err := Start(t.Context(), opts)
			if binaries == broken {
				if err == nil || !strings.Contains(err.Error(), "no kubelet today") {
					t.Errorf("got %v, want the end of the kubelet's log", err)
				}
			} else if err != nil {
				t.Fatal(err)
			} else if err := c.Close(); err != nil {
				t.Error(err)
			}
			_, dir, _ := strings.Cut(strings.TrimSpace(log.String()), " at ")
			if filepath.Dir(dir) != filepath.Clean(os.TempDir()) {
				t.Fatalf("no directory of a lab in %q", log.String())
			}
			if left := traces(t, dir); len(left) > 0 {
				t.Errorf("left behind: %q", left)
			}
			if after := settings(t); !slices.Equal(before, after) {
				t.Errorf("the machine was %q, and is %q", before, after)
			}
		})
	}
}

// settings are the machine's as far as a kubelet changes them.
func settings(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, name := range sysctls {
		value, err := os.ReadFile(filepath.Join("/proc/sys", name))
		all = append(all, name, strings.TrimSpace(string(value)))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
	}
	for _, dir := range fixed {
		if _, err := os.Stat(dir); err == nil {
			all = append(all, dir)
		}
	}
	return all
}

// traces are processes, mounts, cgroups, interfaces and files that tell of the lab in dir.
func traces(t *testing.T, dir string) []string {
	t.Helper()
	var left []string
	commands, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(commands, "/proc/self/mountinfo") {
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), dir+"/") {
			left = append(left, file)
		}
	}
	name := filepath.Base(dir)
	for _, pattern := range []string{dir, "/sys/class/net/" + strings.ReplaceAll(name, "-", ""), "/sys/fs/cgroup/" + name, "/sys/fs/cgroup/*/" + name} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		left = append(left, found...)
	}
	return left
}
