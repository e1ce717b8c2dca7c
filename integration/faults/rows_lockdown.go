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
	"sync/atomic"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Lockdowns beside closesUDP.
const (
	countsUDP  = "[[lockdown]]\nudp = \"none\"\n"
	closesMore = "[[lockdown]]\nmode = \"enforce\"\nverdict = \"drop\"\nudp = \"none\"\negress = \"proxy\"\ninbound = \"proxy\"\n"
)

// What takes a lockdown away and leaves the redirection.
const (
	flushLockdown = "iptables-nft -t filter -F; ip6tables-nft -t filter -F"
	unhookOutput  = "iptables-nft -t filter -D OUTPUT 1; ip6tables-nft -t filter -D OUTPUT 1" // one rule of each family
)

// lockdownRows are what can happen to a lockdown alone. What happens to all of a pod's rules is in the other rows, whose pods are
// locked down, too.
func lockdownRows() []Row {
	return []Row{
		{Fault: "lockdown flushed between two containers, the redirection left", begin: damagedInCreate(flushLockdown), end: unhook},
		{Fault: "one rule of the lockdown deleted between two containers", Rare: true, begin: damagedInCreate(unhookOutput), end: unhook},
		{Fault: "lockdown flushed in a running pod, by NET_ADMIN, until the audit", Hole: true, Rare: true, end: damagedRunning},
		{Fault: "a reload makes a lockdown refuse what it counted", Everywhere: true, Lockdown: countsUDP, begin: enforcing},
		{Fault: "a reload changes the lockdown while 6 pods start", Pods: 6, Everywhere: true, Rare: true, begin: changedMeanwhile, end: unhook},
		{Fault: "meshnetd restarted with another lockdown, which running pods get", end: replaced},
	}
}

// damagedInCreate runs a script in the pod's namespace the first time a container of it is created.
func damagedInCreate(script string) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		var once sync.Once
		return s.hook(ctx, "vandal", before, &plugin{create: func(sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, error) {
			once.Do(func() {
				path, err := pathOf(sandbox)
				s.failed(errors.Join(err, inside(ctx, path, script)))
			})
			return nil, nil
		}})
	}
}

// damagedRunning expects that the auditor finds it, and that nothing leaves the pods from then on.
func damagedRunning(ctx context.Context, s *stage) error {
	return each(s.pods, func(p *pod) error {
		if err := p.up(ctx); err != nil {
			return err
		}
		if err := inside(ctx, p.sandbox.NetNS(), flushLockdown); err != nil {
			return err
		}
		if _, err := s.daemon.WaitPod(ctx, "drift_repaired", "default/"+p.spec.Name); err != nil {
			return err
		}
		if _, err := s.capture.Since(ctx, s.capture.Mark(), s.peer.IP()); err != nil { // what left before is recorded
			return err
		}
		mark := s.capture.Mark()
		if err := p.up(ctx); err != nil {
			return err
		}
		around, err := s.seenAround(ctx, mark)
		if len(around) > 0 {
			err = errors.Join(err, fmt.Errorf("%d packets left the pod after the repair", len(around)))
		}
		return err
	})
}

// changed has the daemon read its configuration again, with another lockdown.
func (s *stage) changed(ctx context.Context, from, to string) error {
	good, err := os.ReadFile(s.configFile())
	if err != nil {
		return fmt.Errorf("another lockdown: %w", err)
	}
	text := strings.Replace(string(good), from, to, 1)
	if text == string(good) {
		return errors.New("the configuration has no lockdown to be changed")
	}
	if err := os.WriteFile(s.configFile(), []byte(text), 0o600); err != nil {
		return fmt.Errorf("another lockdown: %w", err)
	}
	return s.reload(ctx, "config_reloaded")
}

func enforcing(ctx context.Context, s *stage) error { return s.changed(ctx, countsUDP, closesUDP) }

// changedMeanwhile reloads when half of the sandboxes are there. Both lockdowns close what the pods send.
func changedMeanwhile(ctx context.Context, s *stage) error {
	var sandboxes atomic.Int64
	return s.hook(ctx, "operator", before, &plugin{runPod: func(*api.PodSandbox) error {
		if sandboxes.Add(1) == int64(len(s.pods)/2) {
			s.background(ctx, func(ctx context.Context) error { return s.changed(ctx, closesUDP, closesMore) })
		}
		return nil
	}})
}

// replaced restarts the daemon beside pods that run, and waits until each has the new rules.
func replaced(ctx context.Context, s *stage) error {
	if err := each(s.pods, func(p *pod) error { return p.up(ctx) }); err != nil {
		return err
	}
	s.daemon.Kill()
	s.lockdown = "replace_outdated = true\n" + closesMore
	daemon, err := s.runDaemon(ctx)
	if err != nil {
		return err
	}
	return each(s.pods, func(p *pod) error {
		_, err := daemon.Wait(ctx, func(l lab.Line) bool {
			return l.Event == "pod_protected" && l.Changed && l.Pod == "default/"+p.spec.Name
		})
		return err
	})
}
