// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
)

// scale measures what a node with more and more pods costs. Nothing but NRI's own side of a runtime is there: a thousand real
// pods would need a larger machine.
func (b *bench) scale() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	defer n.end()
	fmt.Fprintf(b.out, "\n%-14s %12s %14s %12s %14s %14s %14s\n", "a full node", "RSS", "a start (10)", "takeover", "RSS after it", "CPU of audits", "meshnetd status")
	started, taken := speed.Line{Name: "when it protected them"}, speed.Line{Name: "when it had taken them over"}
	for _, usual := range []int{1, 100, 250, 1000} {
		pods := b.rounds(usual)
		f, err := b.full(pods)
		if err != nil {
			return fmt.Errorf("%d pods: %w", pods, err)
		}
		fmt.Fprintf(b.out, "  %4d pods    %9.1f MB %14s %12s %11.1f MB %12.2f %% %14s\n", pods, f.protected, speed.Text(f.start), speed.Text(f.takeover),
			f.takenOver, 100*f.audits, speed.Text(f.status))
		started.Points = append(started.Points, speed.Point{X: float64(pods), Y: f.protected})
		taken.Points = append(taken.Points, speed.Point{X: float64(pods), Y: f.takenOver})
		n.end()
	}
	b.notef("audits are of one core, each pod once in 30 s; goal with 250 pods: 25 MB, 10 kB more for each")
	return b.plot("memory", speed.DrawLines("meshnetd's memory", "pods", "MB", []speed.Line{started, taken}))
}

// fullNode is what was measured of a node with many pods of the mesh.
type fullNode struct {
	protected, takenOver float64       // MB, resident
	start                time.Duration // of one pod, 10 at once
	takeover             time.Duration
	audits               float64 // of one core
	status               time.Duration
}

// full starts pods under one daemon, and lets another one take them over.
func (b *bench) full(pods int) (f fullNode, err error) {
	rt, err := b.startRuntime()
	if err != nil {
		return f, err
	}
	defer rt.close()
	for i := range pods {
		path, err := b.node.open("10.0.0.1/24", "fd00::1/64")
		if err != nil {
			return f, err
		}
		rt.sandboxes = append(rt.sandboxes, sandbox(fmt.Sprintf("pod-%d", i), path))
	}
	err = rt.meeting(b.ctx, nil, func(d *lab.Daemon) error {
		began := time.Now()
		if err := parallel(b.ctx, pods, 10, func(i int) error {
			return rt.RunPodSandbox(b.ctx, &api.RunPodSandboxRequest{Pod: rt.sandboxes[i]})
		}); err != nil {
			return err
		}
		f.start = time.Since(began) / time.Duration(pods)
		f.protected, err = megabytes(d, "VmRSS")
		return err
	})
	if err != nil {
		return f, err
	}
	return f, rt.meeting(b.ctx, rt.sandboxes, func(d *lab.Daemon) (err error) {
		f.takeover = time.Duration(rt.synchronized.Load())
		if f.takenOver, err = megabytes(d, "VmRSS"); err != nil {
			return err
		}
		if f.status, err = rt.status(b.ctx); err != nil {
			return err
		}
		f.audits, err = auditing(b.ctx, d)
		return err
	})
}

// auditing returns which part of a core a daemon uses of which nobody asks anything.
func auditing(ctx context.Context, d *lab.Daemon) (float64, error) {
	before, err := used(d)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	select {
	case <-time.After(auditedEach):
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	after, err := used(d)
	return float64(after-before) / float64(time.Since(began)), err
}

const auditedEach = 30 * time.Second

// used returns the processor time of a daemon, from proc_pid_schedstat.
func used(d *lab.Daemon) (total time.Duration, err error) {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/schedstat", d.PID()))
	for _, thread := range threads {
		text, readErr := os.ReadFile(thread)
		if readErr != nil {
			continue // it ended
		}
		var ns time.Duration
		if _, err := fmt.Sscan(string(text), &ns); err != nil {
			return 0, fmt.Errorf("%s: %w", thread, err)
		}
		total += ns
	}
	return total, err
}
