// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/explain"
)

func removeCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "remove --netns PATH",
		Short: "Take out of a network namespace what meshnetd put in, and nothing else",
		Long: "A running daemon that knows the pod puts it back. Needs root.\n\n" +
			"Exit 0 done or nothing to do; 1 failed; 2 wrong command line or configuration.",
		Example: "  meshnetd remove --netns /var/run/netns/cni-0123",
		Args:    cobra.NoArgs,
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
	host, err := netns.Host(cfg.HostNetNS)
	if err != nil {
		return false, err
	}
	locks, err := netns.MakeLocks(cfg.LockDir)
	if err != nil {
		return false, err
	}
	defer locks.Close()
	names := []string{backend.IPTables, xtables.NFT, xtables.Legacy} // each nf_tables one removes what others wrote there
	if cfg.Backend != backend.Auto {
		names = []string{cfg.Backend}
	}
	var missing []error
	for _, name := range names {
		firewall, err := backend.Find(ctx, backend.Want{Name: name, Plan: explain.Node(cfg).Widest()}, isolated)
		if err != nil {
			missing = append(missing, err)
			continue
		}
		did, err := newEnforcer(cfg, host, locks, firewall, func(outcome.Outcome) {}).Remove(ctx, path)
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
