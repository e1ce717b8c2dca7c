// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"os"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
	"github.com/meshnetd/meshnetd/status/report"
)

func reportCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "report",
		Short: "Write one page about this node, for a ticket or an audit",
		Long: "Asks the running daemon for its status and about every pod of the mesh: how it was decided, what is not captured, and\n" +
			"whether the kernel holds its rules now. Written is an HTML page that is whole in itself: no script, no network.\n" +
			"It has the names of pods and their settings, and nothing of what they send.\n\n" +
			"Exit 0, whatever is on the page; 1 no daemon, or no right to ask it; 2 wrong command line or configuration.",
		Example: "  meshnetd report >node.html\n  kubectl -n meshnetd-system exec POD-OF-THAT-NODE -- meshnetd report >node.html",
		Args:    cobra.NoArgs,
	}
	ask := askingFlags(c)
	c.RunE = func(c *cobra.Command, _ []string) error {
		socket, s, err := ask.status(c.Context())
		if err != nil {
			return err
		}
		r := report.Report{Written: time.Now(), Status: s}
		r.Node, _ = os.Hostname() // without one the page says nothing of it
		for _, sb := range s.Sandboxes {
			pod := report.Pod{Sandbox: sb}
			x, err := status.Explain(c.Context(), socket, sb.ID)
			if err == nil {
				pod.Explanation = &x
				var v status.Verdict
				if v, err = status.Verify(c.Context(), socket, sb.ID); err == nil {
					pod.Verdict = &v
				}
			}
			switch {
			case errors.Is(err, status.ErrUnknown) || pod.Verdict != nil && pod.Verdict.Result == status.Gone:
				continue // it has ended meanwhile
			case err != nil:
				pod.Error = err.Error()
			}
			r.Pods = append(r.Pods, pod)
		}
		page, err := r.HTML()
		if err == nil {
			_, err = c.OutOrStdout().Write(page)
		}
		if err != nil {
			return &exit{exitFailed, err}
		}
		return nil
	}
	return c
}
