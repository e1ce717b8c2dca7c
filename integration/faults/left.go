// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Size is what a daemon takes of the node.
type Size struct {
	Threads int
	Abroad  int // threads that are in another network namespace than this process
	FDs     int
	RSS     int // resident memory, KiB
}

// sizeOf reads a process's size from procfs.
func sizeOf(pid int) (Size, error) {
	proc := filepath.Join("/proc", strconv.Itoa(pid))
	var s Size
	fds, err := os.ReadDir(filepath.Join(proc, "fd"))
	if err != nil {
		return s, fmt.Errorf("size of meshnetd: %w", err)
	}
	tasks, err := os.ReadDir(filepath.Join(proc, "task"))
	if err != nil {
		return s, fmt.Errorf("size of meshnetd: %w", err)
	}
	s.FDs, s.Threads = len(fds), len(tasks)
	home, err := os.Readlink("/proc/self/ns/net")
	if err != nil {
		return s, fmt.Errorf("size of meshnetd: %w", err)
	}
	for _, t := range tasks {
		// A thread may have ended meanwhile.
		if ns, err := os.Readlink(filepath.Join(proc, "task", t.Name(), "ns/net")); err == nil && ns != home {
			s.Abroad++
		}
	}
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return s, fmt.Errorf("size of meshnetd: %w", err)
	}
	for line := range strings.Lines(string(status)) {
		if text, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			s.RSS, err = strconv.Atoi(strings.Fields(text)[0])
		}
	}
	return s, err
}

// belongings lists what the pods of this world leave on the machine while they live: mounts, network
// namespaces among them, and ports of the bridge.
func (w *World) belongings() (map[string]bool, error) {
	found := map[string]bool{}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	for line := range strings.Lines(string(mounts)) {
		if fields := strings.Fields(line); strings.HasPrefix(fields[4], w.lab.Dir()+"/") {
			found["mount "+fields[4]] = true
		}
	}
	ports, err := os.ReadDir(filepath.Join("/sys/class/net", w.lab.Bridge(), "brif"))
	if err != nil {
		return nil, fmt.Errorf("list ports of the bridge: %w", err)
	}
	for _, p := range ports {
		found["port "+p.Name()] = true
	}
	return found, nil
}

// leftSince waits until there is nothing more than before, and returns what stays when ctx ends. The kernel
// takes a dead namespace's interfaces away a little later.
func (w *World) leftSince(ctx context.Context, before map[string]bool) []string {
	var left []string
	err := lab.Poll(ctx, func() (bool, error) {
		now, err := w.belongings()
		maps.DeleteFunc(now, func(what string, _ bool) bool { return before[what] })
		left = slices.Sorted(maps.Keys(now))
		return len(left) == 0, err
	})
	if err != nil && len(left) == 0 {
		left = []string{err.Error()}
	}
	return left
}

// The most by which a daemon may have grown between the two measurements. A Go program's threads and heap
// come and go with what happens at once; a leak of one for each pod is above it.
const (
	moreThreads = 6
	moreFDs     = 3
	moreRSS     = 1.3 // times
)

// Problems returns what is not as it has to be.
func (r SoakResult) Problems() []string {
	var problems []string
	add := func(bad bool, format string, args ...any) {
		if bad {
			problems = append(problems, fmt.Sprintf(format, args...))
		}
	}
	add(r.Around+r.Accepted > 0, "%d packets went around the mesh, and the server accepted %d connections", r.Around, r.Accepted)
	add(len(r.Unprotected) > 0, "pods that ran without their rules, or with others: %q", r.Unprotected)
	add(len(r.Left) > 0, "left behind: %q", r.Left)
	add(r.Kills == 0, "no daemon was killed")
	add(r.Race, "a data race in meshnetd")
	add(r.Long.Threads > r.Fresh.Threads+moreThreads, "threads of meshnetd grew from %d to %d", r.Fresh.Threads, r.Long.Threads)
	add(r.Long.Abroad > r.Fresh.Abroad, "threads of meshnetd in pods grew from %d to %d", r.Fresh.Abroad, r.Long.Abroad)
	add(r.Long.FDs > r.Fresh.FDs+moreFDs, "file descriptors of meshnetd grew from %d to %d", r.Fresh.FDs, r.Long.FDs)
	add(float64(r.Long.RSS) > moreRSS*float64(r.Fresh.RSS), "memory of meshnetd grew from %d KiB to %d KiB", r.Fresh.RSS, r.Long.RSS)
	return problems
}

// Print writes the result for a person.
func (r SoakResult) Print(out io.Writer) {
	fmt.Fprintf(out, "%d pods, %d at once, in %s; %d kills of meshnetd (seed %d)\n", r.Pods+r.long(), r.AtOnce, r.Took.Round(1e8), r.Kills, r.Seed)
	fmt.Fprintf(out, "the kubelet saw: %s\n", r.Seen)
	fmt.Fprintf(out, "around the mesh: %d packets, %d connections; unprotected pods: %d; left behind: %d\n", r.Around, r.Accepted, len(r.Unprotected), len(r.Left))
	for _, m := range []struct {
		pods int
		size Size
	}{{r.fresh(), r.Fresh}, {r.long(), r.Long}} {
		fmt.Fprintf(out, "one meshnetd after %4d pods: %d threads (%d in pods), %d file descriptors, %d KiB\n", m.pods, m.size.Threads, m.size.Abroad, m.size.FDs, m.size.RSS)
	}
}
