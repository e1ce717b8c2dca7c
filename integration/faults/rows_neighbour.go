// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/containerd/nri/pkg/api"
)

// seats are the places of a neighbour: before meshnetd, after it, of its index and of its name.
var seats = []struct{ name, index string }{{"other", before}, {"other", after}, {"other", same}, {"meshnetd", "50"}}

// neighbourRows are what other plugins of the node do, in each seat to a pod of their own, and what comes after all plugins
// were asked about a container.
func neighbourRows() []Row {
	each := len(seats)
	return []Row{
		// Each costs the node its two seconds; of the other seats it is tried with a shorter time, in nriplugin.
		{Fault: "plugins before meshnetd and after it time out", Pods: 2, Everywhere: true, begin: neighbours(hangs), end: unhook},
		{Fault: "plugins before, after, of meshnetd's index and of its name vanish while they are asked", Pods: each, Everywhere: true, begin: neighbours(vanishes), end: unhook},
		{Fault: "such plugins refuse each call once", Pods: each, Everywhere: true, begin: neighbours(refuses), end: unhook},
		{Fault: "such plugins give the first container a createRuntime hook that flushes the rules", Pods: each, Everywhere: true, begin: neighbours(adjusts), end: named},
		{Fault: "rules flushed in StartContainer before meshnetd is asked, and the lock on the namespace held", Everywhere: true, AtStart: true, begin: flushedAndHeld, end: letGo},
		{Fault: "rules flushed in StartContainer, by a plugin after meshnetd", Hole: true, begin: flushedInStart, end: unhook},
	}
}

// neighbours connects a plugin in each seat, which does something to one of the row's pods.
func neighbours(does func(ctx context.Context, is func(*api.PodSandbox) bool) *plugin) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		for i, seat := range seats[:len(s.pods)] {
			is := func(sandbox *api.PodSandbox) bool { return sandbox.GetName() == s.pods[i].spec.Name }
			if err := s.hook(ctx, seat.name, seat.index, does(ctx, is)); err != nil {
				return err
			}
		}
		return nil
	}
}

// hangs says nothing any more, until the runtime throws it out.
func hangs(ctx context.Context, is func(*api.PodSandbox) bool) *plugin {
	return &plugin{runPod: func(sandbox *api.PodSandbox) error {
		if is(sandbox) {
			<-ctx.Done()
		}
		return nil
	}}
}

func vanishes(_ context.Context, is func(*api.PodSandbox) bool) *plugin {
	p := &plugin{}
	p.create = func(sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, error) {
		if is(sandbox) {
			p.disconnect()
		}
		return nil, nil
	}
	return p
}

func refuses(_ context.Context, is func(*api.PodSandbox) bool) *plugin {
	var sandboxes, creates, starts sync.Once
	refuse := func(once *sync.Once, sandbox *api.PodSandbox) (err error) {
		if is(sandbox) {
			once.Do(func() { err = errors.New("not today") })
		}
		return err
	}
	return &plugin{
		runPod: func(sandbox *api.PodSandbox) error { return refuse(&sandboxes, sandbox) },
		create: func(sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, error) {
			return nil, refuse(&creates, sandbox)
		},
		start: func(sandbox *api.PodSandbox) error { return refuse(&starts, sandbox) },
	}
}

// adjusts adds a hook, which runs when all plugins have been asked. It is the first container's: while that of a later one
// runs, the first one runs already.
func adjusts(_ context.Context, is func(*api.PodSandbox) bool) *plugin {
	return &plugin{create: func(sandbox *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, error) {
		if !is(sandbox) || c.GetName() != "app" {
			return nil, nil
		}
		path, err := pathOf(sandbox)
		if err != nil {
			return nil, err
		}
		adjustment := &api.ContainerAdjustment{}
		adjustment.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/usr/bin/env", Args: append([]string{"env"}, within(path, flushAll)...),
			Env: []string{"PATH=" + os.Getenv("PATH")}}}})
		return adjustment, nil
	}}
}

// flushedInStart takes the rules away the first time a container of the pod is started.
func flushedInStart(ctx context.Context, s *stage) error {
	var once sync.Once
	return s.hook(ctx, "vandal", after, &plugin{start: func(sandbox *api.PodSandbox) (err error) {
		once.Do(func() { err = flush(ctx, sandbox) })
		return err
	}})
}

// flushedAndHeld keeps meshnetd from repairing what it finds.
func flushedAndHeld(ctx context.Context, s *stage) error {
	var once sync.Once
	return s.hook(ctx, "vandal", before, &plugin{start: func(sandbox *api.PodSandbox) (err error) {
		once.Do(func() { err = errors.Join(s.hold(ctx, sandbox), flush(ctx, sandbox)) })
		return err
	}})
}

// named expects that meshnetd names each of them, where the runtime says who changed a container.
func named(ctx context.Context, s *stage) error {
	for _, seat := range seats {
		if who := seat.index + "-" + seat.name + " changed hooks"; s.lab.Runtime().Validates() && !strings.Contains(s.daemon.Log(), who) {
			s.failed(fmt.Errorf("meshnetd does not say: %s", who))
		}
	}
	return unhook(ctx, s)
}
