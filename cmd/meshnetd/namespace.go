// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
)

// commandTimeout bounds what a command does to one namespace; nobody's deadline depends on it.
const commandTimeout = 30 * time.Second

func netnsFlag(c *cobra.Command) *string {
	path := c.Flags().String("netns", "", "`PATH` of the network namespace")
	_ = c.MarkFlagRequired("netns") // fails only for a flag that does not exist
	return path
}

// onNamespace reads the inputs and calls fn with the flow, the host's namespaces and the pod in its own.
func onNamespace(c *cobra.Command, path, configFile, file string, fn func(context.Context, *daemon.Enforcer, []netns.ID, rules.Pod) error) error {
	cfg, err := loadConfig(configFile)
	if err != nil {
		return err
	}
	pod, err := readPod(c, file)
	if err != nil {
		return err
	}
	pod.NetNS = path
	ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
	defer cancel()
	isolated, err := netns.Isolate()
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer isolated.Close()
	firewall, err := backend.Find(ctx, backend.Want{Name: cfg.Backend, Plan: explain.Node(cfg).Widest()}, isolated)
	if err != nil {
		return &exit{exitFailed, err}
	}
	locks, err := netns.MakeLocks(cfg.LockDir)
	if err != nil {
		return &exit{exitFailed, err}
	}
	defer locks.Close()
	host, err := netns.Host(cfg.HostNetNS)
	if err != nil {
		return &exit{exitFailed, err}
	}
	// For a sandbox the runtime names, the host's namespace means a hostNetwork pod; here it is a mistake.
	ns, err := netns.Open(path, host)
	if err != nil {
		return &exit{exitFailed, err}
	}
	ns.Close()
	return fn(ctx, newEnforcer(cfg, host, locks, firewall, func(outcome.Outcome) {}), host, pod)
}

func failure(o outcome.Outcome) error {
	if o.Result == lifecycle.Refused {
		return &exit{exitRefused, fmt.Errorf("pod %s is refused: %w", o.Pod, o.Err)}
	}
	return &exit{exitFailed, fmt.Errorf("pod %s, %s: %w", o.Pod, o.Stage, o.Err)}
}
