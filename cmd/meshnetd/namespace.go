// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/rules"
)

// commandTimeout bounds what a command does to one namespace; nobody's deadline depends on it.
const commandTimeout = 30 * time.Second

func netnsFlag(c *cobra.Command) *string {
	path := c.Flags().String("netns", "", "`PATH` of the network namespace")
	_ = c.MarkFlagRequired("netns") // fails only for a flag that does not exist
	return path
}

func applyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "apply --netns PATH -f POD",
		Short: "Put a pod's rules into a network namespace, and verify them",
		Long:  "The daemon's own flow, by hand. Exit 0 done or nothing to do, 1 failed, 3 the pod is refused.",
		Args:  cobra.NoArgs,
	}
	path, file, configFile := netnsFlag(c), podFlag(c), configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return onNamespace(c, *path, *configFile, *file, func(ctx context.Context, e *daemon.Enforcer, pod rules.Pod) error {
			o := e.Enforce(ctx, daemon.ByHand, pod)
			for _, note := range o.Plan.Notes {
				fmt.Fprintln(c.OutOrStdout(), "note:", note)
			}
			switch {
			case o.Err != nil:
				return failure(o)
			case o.Result == daemon.Skipped:
				fmt.Fprintf(c.OutOrStdout(), "nothing to do: %s (%s)\n", o.Decision.Reason, o.Decision.Detail)
			case !o.Changed:
				fmt.Fprintf(c.OutOrStdout(), "nothing to do: the namespace holds the plan already (%d rules verified)\n", o.Plan.Rules())
			default:
				fmt.Fprintf(c.OutOrStdout(), "done: %d rules applied and verified\n", o.Plan.Rules())
			}
			return nil
		})
	}
	return c
}

func verifyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "verify --netns PATH -f POD",
		Short: "Compare a network namespace with a pod's plan",
		Long:  "Exit 0 when the kernel holds exactly the plan, 4 with a line for each difference, 1 failed, 3 the pod is refused.",
		Args:  cobra.NoArgs,
	}
	path, file, configFile := netnsFlag(c), podFlag(c), configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return onNamespace(c, *path, *configFile, *file, func(ctx context.Context, e *daemon.Enforcer, pod rules.Pod) error {
			o := e.Verify(ctx, pod)
			if o.Err != nil {
				return failure(o)
			}
			if o.Decision.Reason == rules.ReasonInitContainer {
				fmt.Fprintf(c.OutOrStdout(), "nothing to verify: %s\n", o.Decision.Detail)
				return nil
			}
			for _, line := range o.Differences {
				fmt.Fprintln(c.OutOrStdout(), line)
			}
			if len(o.Differences) > 0 {
				return &exit{exitDifference, fmt.Errorf("%d differences", len(o.Differences))}
			}
			fmt.Fprintf(c.OutOrStdout(), "the kernel holds the plan: %d rules\n", o.Plan.Rules())
			return nil
		})
	}
	return c
}

func removeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove --netns PATH",
		Short: "Take out of a network namespace what meshnetd put in, and nothing else",
		Args:  cobra.NoArgs,
	}
	path, configFile := netnsFlag(c), configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		cfg, err := loadConfig(*configFile)
		if err != nil {
			return err
		}
		ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
		defer cancel()
		changed, err := removeAll(ctx, cfg, *path)
		if err != nil {
			return &exit{exitFailed, err}
		}
		message := "nothing to do: meshnetd has nothing in this namespace"
		if changed {
			message = "done: meshnetd's rules are out"
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), message)
		return err
	}
	return c
}

// removeAll looks with everything that works here, or with what is configured: the rules may have been
// written by another.
func removeAll(ctx context.Context, cfg config.Config, path string) (changed bool, err error) {
	isolated, err := netns.Isolate()
	if err != nil {
		return false, err
	}
	defer isolated.Close()
	names := []string{backend.IPTables, xtables.NFT, xtables.Legacy} // each nf_tables one removes what others wrote there
	if cfg.Backend != backend.Auto {
		names = []string{cfg.Backend}
	}
	var missing []error
	for _, name := range names {
		firewall, err := backend.Find(ctx, name, false, isolated)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		enforcer, err := newEnforcer(cfg, firewall, func(daemon.Outcome) {})
		if err != nil {
			return changed, err
		}
		did, err := enforcer.Remove(ctx, path)
		if err != nil {
			return changed, err
		}
		changed = changed || did
	}
	if len(missing) == len(names) {
		return false, errors.Join(missing...)
	}
	return changed, nil
}

// onNamespace reads the inputs and calls fn with the flow and the pod in its namespace.
func onNamespace(c *cobra.Command, path, configFile, file string, fn func(context.Context, *daemon.Enforcer, rules.Pod) error) error {
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
	firewall, err := backend.Find(ctx, cfg.Backend, false, isolated)
	if err != nil {
		return &exit{exitFailed, err}
	}
	enforcer, err := newEnforcer(cfg, firewall, func(daemon.Outcome) {})
	if err != nil {
		return &exit{exitFailed, err}
	}
	// For a sandbox the runtime names, the host's namespace means a hostNetwork pod; here it is a mistake.
	ns, err := netns.Open(path, enforcer.Host())
	if err != nil {
		return &exit{exitFailed, err}
	}
	ns.Close()
	return fn(ctx, enforcer, pod)
}

func failure(o daemon.Outcome) error {
	if o.Result == daemon.Refused {
		return &exit{exitRefused, fmt.Errorf("pod %s is refused: %w", o.Pod, o.Err)}
	}
	return &exit{exitFailed, fmt.Errorf("pod %s, %s: %w", o.Pod, o.Stage, o.Err)}
}
