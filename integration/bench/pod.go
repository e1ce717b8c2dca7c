// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/speed"
)

const dualStackConfig = "istio.dual_stack = true\n"

// runtime starts the containerd of all sections.
func (b *bench) runtime() (err error) {
	if b.lab != nil {
		return nil
	}
	b.lab, err = lab.Start(b.ctx, lab.Options{Runtime: lab.Containerd24, Binaries: b.runtimes, Standin: b.standin, DualStack: true})
	return err
}

// spec describes a pod that was not there before.
func (b *bench) spec(meshed bool) lab.PodSpec {
	b.pods++
	spec := lab.PodSpec{Name: fmt.Sprintf("pod-%d", b.pods)}
	if meshed {
		spec.Annotations = lab.Injected(nil)
	}
	return spec
}

// sort is a sort of pods, and the daemon that they meet.
type sort struct {
	speed.Peer // samples are of RunPodSandbox, as the kubelet sees it
	daemon     bool
	config     string
	meshed     bool
	hooks      []time.Duration // of the samples, what meshnetd took
}

// pod measures pods that start one after the other.
func (b *bench) pod() error {
	if err := b.runtime(); err != nil {
		return err
	}
	sorts := []*sort{
		{Peer: speed.Peer{Name: "without meshnetd"}},
		{Peer: speed.Peer{Name: "with meshnetd, outside the mesh"}, daemon: true},
		{Peer: speed.Peer{Name: "with meshnetd, meshed, IPv4"}, daemon: true, meshed: true},
		{Peer: speed.Peer{Name: "with meshnetd, meshed, dual stack"}, daemon: true, meshed: true, config: dualStackConfig},
	}
	const pods = 10 // of each sort in a round
	rounds := b.rounds(12)
	for round := range rounds + 1 { // the first one warms up and does not count
		// Each round begins with another sort, so that none always follows the same one.
		for i := range sorts {
			s := sorts[(i+round)%len(sorts)]
			if err := b.some(s, pods); err != nil {
				return fmt.Errorf("%s: %w", s.Name, err)
			}
			if round == 0 {
				s.Samples, s.hooks = nil, nil
			}
		}
		fmt.Fprintf(os.Stderr, "\rround %d of %d", round, rounds)
	}
	fmt.Fprintln(os.Stderr)
	var rows []speed.Row
	for _, s := range sorts {
		row := s.Row()
		if len(s.hooks) > 0 {
			row.Note = fmt.Sprintf("hook %s, p99 %s", speed.Text(speed.Quantile(s.hooks, 50)), speed.Text(speed.Quantile(s.hooks, 99)))
		}
		rows = append(rows, row)
	}
	speed.Table(b.out, "RunPodSandbox, as the kubelet sees it", rows...)
	return b.plot("pod", speed.DrawBars("RunPodSandbox, as the kubelet sees it", "ms", speed.Bars(rows...)))
}

// some starts and removes a few pods of one sort, one after the other.
func (b *bench) some(s *sort, pods int) error {
	return b.meeting(s.daemon, s.config, func(daemon *lab.Daemon) error {
		for range pods {
			if err := b.one(s, daemon); err != nil {
				return err
			}
		}
		return nil
	})
}

// meeting calls fn while a meshnetd runs, or none, which is nil.
func (b *bench) meeting(wanted bool, config string, fn func(*lab.Daemon) error) (err error) {
	if !wanted {
		return fn(nil)
	}
	ctx, cancel := context.WithTimeout(b.ctx, patience)
	defer cancel()
	daemon, err := b.lab.RunDaemon(ctx, b.program, config)
	if err != nil {
		return err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(b.ctx), patience)
		defer cancel()
		err = errors.Join(err, daemon.Terminate(ctx))
	}()
	return fn(daemon)
}

func (b *bench) one(s *sort, daemon *lab.Daemon) error {
	spec := b.spec(s.meshed)
	pod, took, err := b.lab.TimePod(b.ctx, spec)
	if err != nil {
		return err
	}
	s.Samples = append(s.Samples, took)
	if daemon != nil {
		event := "pod_skipped"
		if s.meshed {
			event = "pod_protected"
		}
		ctx, cancel := context.WithTimeout(b.ctx, patience)
		defer cancel()
		line, err := daemon.WaitPod(ctx, event, "default/"+spec.Name)
		if err != nil {
			return err
		}
		s.hooks = append(s.hooks, time.Duration(line.Took)*time.Microsecond)
	}
	return pod.Remove(b.ctx)
}

// crowd starts meshed pods, several at once, and returns those that came up, how long all of them took, and
// what went wrong.
func (b *bench) crowd(size, atOnce int) (pods []*lab.Pod, took time.Duration, err error) {
	specs := make([]lab.PodSpec, size)
	for i := range specs {
		specs[i] = b.spec(true)
	}
	all := make([]*lab.Pod, size)
	began := time.Now()
	err = parallel(b.ctx, size, atOnce, func(i int) (err error) {
		all[i], err = b.lab.RunPod(b.ctx, specs[i])
		return err
	})
	took = time.Since(began)
	for _, pod := range all {
		if pod != nil {
			pods = append(pods, pod)
		}
	}
	return pods, took, err
}

// disperse removes pods.
func (b *bench) disperse(pods []*lab.Pod) error {
	const atOnce = 8
	return parallel(b.ctx, len(pods), atOnce, func(i int) error { return pods[i].Remove(b.ctx) })
}

// parallel calls fn with 0 to n-1, a few at once, until one fails.
func parallel(ctx context.Context, n, atOnce int, fn func(int) error) error {
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var next atomic.Int64
	var workers sync.WaitGroup
	for range atOnce {
		workers.Go(func() {
			for i := int(next.Add(1)) - 1; i < n && ctx.Err() == nil; i = int(next.Add(1)) - 1 {
				if err := fn(i); err != nil {
					stop(err)
				}
			}
		})
	}
	workers.Wait()
	return context.Cause(ctx)
}
