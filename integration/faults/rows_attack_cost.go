// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"debug/buildinfo"
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// costAttacks are what a tenant without any right does whose pods ask for as much as Kubernetes lets them write.
func costAttacks() []Row {
	specs := lab.Greedy()
	tried := &greed{specs, make([]atomic.Int64, len(specs))}
	return []Row{
		{Fault: "pods of each mesh with 250 kB of lists, tried over and over, while 4 pods start", Pods: 4, Everywhere: true, begin: tried.begin, end: tried.end},
		{Fault: "sandboxes of each mesh with 250 kB of lists are there when meshnetd starts, and 4 pods after it", Pods: 4, Everywhere: true, Absent: true,
			begin: greedySandboxes, end: stayedSmall},
	}
}

// greed is pods that are tried as a kubelet does, all at once, until the row's other pods were and each was refused.
type greed struct {
	specs   []lab.PodSpec
	refused []atomic.Int64 // times, by the place among specs
}

func (g *greed) begin(ctx context.Context, s *stage) error {
	ctx, stop := context.WithCancel(ctx)
	var tries sync.WaitGroup
	s.later(func() {
		stop()
		tries.Wait()
	})
	for i, spec := range g.specs {
		spec.UID = s.unique(spec.Name)
		tries.Go(func() {
			for spec.Attempt = 0; ctx.Err() == nil; spec.Attempt++ {
				_, err := s.lab.RunPod(ctx, spec)
				switch {
				case ctx.Err() != nil:
				case err == nil:
					s.failed(fmt.Errorf("%s was let through", spec.Name))
					return
				case overBudget(err):
					g.refused[i].Add(1)
				default:
					s.failed(err)
				}
			}
		})
	}
	return nil
}

func (g *greed) end(ctx context.Context, s *stage) error {
	for i, spec := range g.specs {
		if err := lab.Poll(ctx, func() (bool, error) { return g.refused[i].Load() > 0, nil }); err != nil {
			return fmt.Errorf("%s was never refused: %w", spec.Name, err)
		}
	}
	s.restore()
	return stayedSmall(ctx, s)
}

func overBudget(err error) bool {
	return err != nil && strings.Contains(err.Error(), "more than the") && strings.Contains(err.Error(), "budget.")
}

// greedySandboxes are made while nobody is there who could refuse them.
func greedySandboxes(ctx context.Context, s *stage) (err error) {
	var sandboxes []*lab.Pod
	for _, spec := range lab.Greedy() {
		spec.UID = s.unique(spec.Name)
		sandbox, err := s.lab.RunPod(ctx, spec)
		if err != nil {
			return err
		}
		sandboxes = append(sandboxes, sandbox)
	}
	if s.daemon, err = s.runDaemon(ctx); err != nil {
		return err
	}
	for _, sandbox := range sandboxes {
		if _, err := sandbox.CreateContainer(ctx, lab.ContainerSpec{Name: "app", Args: []string{"flood"}}); !overBudget(err) {
			return fmt.Errorf("a container of %s: %w", sandbox.Spec.Name, errors.Join(err, errors.New("was not refused for what its pod asks for")))
		}
	}
	return nil
}

// small is what a daemon may have had in memory at most.
const small = 100e6

// raceFactor is what the race detector remembers of what a program has in memory, beside that itself.
const raceFactor = 4

// detectsRaces reports whether a process was built with the race detector.
func detectsRaces(pid int) bool {
	info, err := buildinfo.ReadFile(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil && slices.Contains(info.Settings, debug.BuildSetting{Key: "-race", Value: "true"})
}

// stayedSmall fails where the daemon had more, or is not there any more.
func stayedSmall(_ context.Context, s *stage) error {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.daemon.PID()))
	if err != nil {
		return fmt.Errorf("the daemon's memory: %w", err)
	}
	_, rest, _ := strings.Cut(string(text), "\nVmHWM:")
	var kB int
	if _, err := fmt.Sscan(rest, &kB); err != nil {
		return fmt.Errorf("the daemon's memory: %w", err)
	}
	most := small
	if detectsRaces(s.daemon.PID()) {
		most *= raceFactor
	}
	if float64(kB)*1024 > most {
		return fmt.Errorf("the daemon had %.0f MB", float64(kB)*1024/1e6)
	}
	return nil
}
