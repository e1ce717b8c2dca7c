// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

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
