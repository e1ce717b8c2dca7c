// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
)

func lockdownCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "lockdown [NAMESPACE]",
		Short: "Print what lockdowns would need to let pass what they have counted",
		Long: "Prints, for each [[lockdown]] of the running daemon's configuration, the fewest entries of its keys that let pass what the pods\n" +
			"of this node sent and got since the daemon's start and a lockdown in mode \"report\" counted, as TOML, with the pods that need\n" +
			"each. They are a report, no advice: a program of a pod chooses where it connects to, so read each line before it goes into the\n" +
			"configuration. The daemon looks at each audit for connections that the kernel still remembers: a refused one is forgotten at\n" +
			"once, one by UDP or ICMP after 30 seconds, and what a lockdown in mode \"enforce\" closes never becomes one. `kubectl meshnetd\n" +
			"lockdown` asks all nodes.\n\n" +
			"Exit 0, also when nothing is lacking; 1 no daemon, or no right to ask it; 2 wrong command line or configuration.",
		Example: "  meshnetd lockdown\n  meshnetd lockdown 'agents-*'\n  meshnetd lockdown --json | jq -r '.entries[] | select(.key == \"allow\") | .value'",
		Args:    cobra.MaximumNArgs(1),
	}
	asJSON := c.Flags().Bool("json", false, "print the entries as JSON")
	ask := askingFlags(c)
	c.RunE = func(c *cobra.Command, args []string) error {
		var chosen selection
		if err := chosen.read(args); err != nil {
			return err
		}
		if strings.Contains(strings.Join(args, ""), "/") {
			return errors.New("name a namespace: what a lockdown lets pass is for all of its pods")
		}
		_, s, err := ask.status(c.Context())
		if err != nil {
			return err
		}
		entries, err := explain.Entries(slices.DeleteFunc(s.Lacks, func(l status.Lack) bool { return !chosen.has(status.Sandbox{Namespace: l.Namespace}) }))
		full := slices.DeleteFunc(s.LacksMore, func(namespace string) bool { return !chosen.has(status.Sandbox{Namespace: namespace}) })
		switch {
		case err != nil:
			return &exit{exitFailed, err}
		case *asJSON:
			return printDocument(c.OutOrStdout(), explain.EntriesDocument(entries, full))
		}
		return explain.PrintEntries(c.OutOrStdout(), entries, full)
	}
	return c
}
