// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"io"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/doctor/gather"
	"github.com/meshnetd/meshnetd/explain"
)

func doctorCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "doctor",
		Short: "Look at the node, and say what meshnetd can promise on it and what to do",
		Long: "Looks at the runtime and its NRI, what keeps containers waiting, the kernel, CNI, and the daemon where one runs.\n" +
			"It works before meshnetd is installed and after, and changes nothing. Some of it needs root.\n" +
			"In a container what is not mounted there is \"unseen\", and counts for nothing: run it on the node for that.\n\n" +
			"Exit 0 when all is fine, 1 when there are warnings, 2 when something is broken, or the\ncommand line is wrong.",
		Example: "  meshnetd doctor\n" +
			"  meshnetd doctor --canary                 # see that a container really waits\n" +
			"  meshnetd doctor --json | jq '.findings[] | select(.level != \"ok\")'",
		Args: cobra.NoArgs,
	}
	file := configFlag(c)
	runtimeConfig := c.Flags().String("runtime-config", "", "the runtime's configuration `FILE` (default: the one it was started with, or the usual one)")
	canary := c.Flags().Bool("canary", false, "make a sandbox and in it a container that must be refused, and remove both")
	image := c.Flags().String("canary-image", "", "`IMAGE` of the canary, which the node must have (default: any)")
	asJSON := c.Flags().Bool("json", false, "print the findings as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		o := gather.Options{Program: buildVersion(), Config: *file, ConfigNeeded: *file != "", RuntimeConfig: *runtimeConfig,
			Canary: *canary, CanaryImage: *image}
		if o.Config == "" {
			o.Config = defaultConfigFile
		}
		report := doctor.Judge(gather.Facts(c.Context(), o))
		write := report.JSON
		if !*asJSON {
			write = func(to io.Writer) error {
				var text strings.Builder
				_ = report.Text(&text) // a builder takes everything
				_, err := io.WriteString(to, explain.PlainLines(text.String()))
				return err
			}
		}
		if err := write(c.OutOrStdout()); err != nil {
			return &exit{exitFailed, err}
		}
		if code := report.Exit(); code != 0 {
			return &exit{code, errSaid}
		}
		return nil
	}
	return c
}
