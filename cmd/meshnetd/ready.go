// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// takeoverPatience is how long after the session began a pod that cannot be taken over keeps the daemon from being ready:
// one broken or hostile pod must not hold up a cluster's rollout. Its containers are still looked at when they are
// created.
const takeoverPatience = 20 * time.Second

func readyCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "ready",
		Short: "Ask the running daemon whether it protects the node: for probes and scripts",
		Long: "Asks the daemon over its status socket whether the runtime has accepted it and the pods that were there before are\n" +
			"taken over. A pod that cannot be taken over counts for the first 20 seconds only, and one that its author has to correct not at\n" +
			"all; `meshnetd status` goes on naming it. /readyz and systemd are told the same.\n" +
			"That is what a new pod of a DaemonSet has to wait for before the old one may go.\n\n" +
			"Exit 0 it is ready; 1 it is not, with the reason, or nobody answers; 2 wrong command line or configuration.",
		Example: "  meshnetd ready\n  until meshnetd ready; do sleep 1; done\n  kubectl -n meshnetd-system exec ds/meshnetd -- meshnetd ready",
		Args:    cobra.NoArgs,
	}
	ask := askingFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		_, s, err := ask.status(c.Context())
		if err != nil {
			return err
		}
		if err := unready(s, time.Now()); err != nil {
			return &exit{exitFailed, err}
		}
		_, err = fmt.Fprintln(c.OutOrStdout(), "ready:", session(s))
		return err
	}
	return c
}

// unready returns why a daemon with this status does not protect its node, and what to look at. The sentence stays the
// same while nothing changes, since the kubelet makes an event of each new one.
func unready(s status.Status, now time.Time) error {
	if !s.Connected && s.Waiting != nil {
		return fmt.Errorf("not ready: no session with the runtime since %s: %s", earlier(s).UTC().Format(time.RFC3339), explain.PlainLines(s.Waiting.Why))
	}
	if !s.Connected {
		return fmt.Errorf("not ready: no session with the runtime since %s: look at the log for nri_waiting or nri_lost, and run meshnetd doctor on the node",
			earlier(s).UTC().Format(time.RFC3339))
	}
	pending, first := 0, ""
	for _, sb := range s.Sandboxes {
		if sb.State == string(lifecycle.StatePending) && !rules.Reason(sb.Reason).Mendable() {
			if pending++; pending == 1 {
				first = sb.Namespace + "/" + sb.Name
			}
		}
	}
	if pending > 0 && now.Sub(s.Since) < takeoverPatience {
		return fmt.Errorf("not ready: pods that were there before the session are not taken over yet: %d, such as %s; `meshnetd status --outcome pending` says why", pending, first)
	}
	return nil
}

// earlier returns when the last session ended, or the daemon started.
func earlier(s status.Status) time.Time {
	if s.Since.IsZero() {
		return s.Started
	}
	return s.Since
}

// session says with whom there is one, and what that is worth.
func session(s status.Status) string {
	if s.Runtime == nil {
		return "connected"
	}
	return fmt.Sprintf("connected to %s %s, tier %s", explain.PlainLines(s.Runtime.Name), explain.PlainLines(s.Runtime.Version), explain.PlainLines(s.Runtime.Tier))
}
