// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func applyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "apply --netns PATH -f POD",
		Short: "Put a pod's rules into a network namespace, and verify them",
		Long: "The daemon's own flow, by hand. Needs root.\n\n" +
			"Exit 0 done or nothing to do; 1 failed; 2 wrong command line or configuration; 3 the pod is refused.",
		Example: "  meshnetd apply --netns /var/run/netns/cni-0123 -f pod.yaml",
		Args:    cobra.NoArgs,
	}
	path, file, configFile := netnsFlag(c), podFlag(c), configFlag(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		return onNamespace(c, *path, *configFile, *file, func(ctx context.Context, e *daemon.Enforcer, _ []netns.ID, pod rules.Pod) error {
			o := e.Enforce(ctx, lifecycle.ByHand, pod)
			for _, note := range o.Plan.Notes {
				fmt.Fprintln(c.OutOrStdout(), "note:", status.Plain(note))
			}
			switch {
			case o.Err != nil:
				return failure(o)
			case o.Result == lifecycle.Skipped:
				fmt.Fprintf(c.OutOrStdout(), "nothing to do: %s (%s)\n", o.Decision.Reason, status.Plain(o.Decision.Detail))
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
