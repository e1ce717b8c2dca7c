// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// synchronizeAttacks are by a tenant outside the mesh whose containers do not fit into the message in which NRI tells
// a plugin what there is. meshnetd was restarted, and cannot come back until they are gone.
func synchronizeAttacks() []Row {
	return []Row{
		{Fault: "12 containers with 1.2 MB of environment, and meshnetd restarted", begin: tooLarge(3, 4), end: evicted},
		// Where fewer than four pods are left to tell, containerd ends. It is started anew, as systemd does.
		{Fault: "one pod with 9 such containers, by which containerd ends whenever a plugin comes", begin: deadly, end: evictedAndRestarted},
	}
}

// large is an environment that any pod may have: literally, or by two references to one ConfigMap.
func large() (env []string) {
	for i := range 12 {
		env = append(env, fmt.Sprintf("BALLAST_%d=%s", i, strings.Repeat("x", 100_000)))
	}
	return env
}

// ballast runs pods with large containers, none of which has to be started for it.
func (s *stage) ballast(ctx context.Context, pods, containers int) error {
	for range pods {
		name := s.unique("ballast")
		p, err := s.lab.RunPod(ctx, lab.PodSpec{Name: name, UID: name})
		if err != nil {
			return err
		}
		s.hostile = append(s.hostile, p.ID)
		for i := range containers {
			if _, err := p.CreateContainer(ctx, lab.ContainerSpec{Name: fmt.Sprint("ballast-", i), Env: large()}); err != nil {
				return err
			}
		}
	}
	return nil
}

func tooLarge(pods, containers int) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if err := s.ballast(ctx, pods, containers); err != nil {
			return err
		}
		s.daemon.Kill()
		_, err := s.startDaemon(ctx, "nri_not_synchronized")
		return err
	}
}

// evicted removes the attacker's pods, as an operator does who has read the line.
func evicted(ctx context.Context, s *stage) error {
	for _, id := range s.hostile {
		if err := s.removePod(ctx, id); err != nil {
			return err
		}
	}
	return nil
}

// deadly waits until meshnetd has seen the runtime end twice, and leaves it alone.
func deadly(ctx context.Context, s *stage) error {
	s.supervise(ctx)
	if err := s.ballast(ctx, 1, 9); err != nil {
		return err
	}
	s.daemon.Kill()
	d, err := s.startDaemon(ctx, "nri_not_synchronized")
	if err != nil {
		return err
	}
	if _, err := d.Wait(ctx, func(l lab.Line) bool {
		return l.Event == "nri_not_synchronized" && strings.Contains(l.Error, "2 times") && strings.Contains(l.Error, "next try is in 1m0s")
	}); err != nil {
		return err
	}
	s.daemon = d
	ends := s.ends.Load()
	s.later(func() {
		if ends < 2 || s.ends.Load() != ends {
			s.failed(fmt.Errorf("the runtime ended %d times before meshnetd left it alone, and %d times in all", ends, s.ends.Load()))
		}
	})
	return nil
}

func evictedAndRestarted(ctx context.Context, s *stage) error {
	if err := evicted(ctx, s); err != nil {
		return err
	}
	s.daemon.Kill()
	_, err := s.runDaemon(ctx)
	return err
}

// supervise starts the runtime again whenever it ends, until the row is over.
func (s *stage) supervise(ctx context.Context) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 1)
	go func() {
		err := lab.Poll(ctx, func() (bool, error) {
			if s.lab.Alive() {
				return false, nil
			}
			s.ends.Add(1)
			_ = s.lab.Restart(ctx) // it may end before it is ready
			return false, nil
		})
		if errors.Is(err, context.Canceled) {
			err = nil
		}
		done <- err
	}()
	s.later(func() {
		cancel()
		s.failed(<-done)
	})
}
