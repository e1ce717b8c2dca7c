// SPDX-License-Identifier: Apache-2.0

package main

import (
	"slices"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
)

func lockdownCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "lockdown",
		Short: "Print what lockdowns would need to let pass what they have counted, on any node",
		Long: "Asks every node what the lockdowns of its configuration counted of the namespace's pods and do not let pass, and prints the\n" +
			"fewest entries of their keys that would, as TOML, with the pods that need each. `meshnetd lockdown --help` says what is\n" +
			"known of that, and what is not.\n\n" +
			"Exit 0, also when nothing is lacking; 1 a node did not answer, or has no pod of meshnetd; 2 wrong command line.",
		Example: "  kubectl meshnetd lockdown -n payments\n  kubectl meshnetd lockdown -A -o json | jq '.entries | length'",
		Args:    cobra.NoArgs,
	}
	all := allFlag(c)
	o.outputFlag(c, "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		return k.lockdown(c, func(namespace string) bool { return *all || namespace == k.here })
	}
	return c
}

func (c *cluster) lockdown(command *cobra.Command, chosen func(namespace string) bool) error {
	var lacks []status.Lack
	var full []string
	silent, err := ask(command, c, "", newTable(command.OutOrStdout(), "json", nil), func(s status.Status, _ place) status.Status {
		return status.Status{Lacks: s.Lacks, LacksMore: s.LacksMore}
	}, func(s status.Status) {
		lacks = append(lacks, slices.DeleteFunc(s.Lacks, func(l status.Lack) bool { return !chosen(l.Namespace) })...)
		full = append(full, slices.DeleteFunc(s.LacksMore, func(namespace string) bool { return !chosen(namespace) })...)
	})
	if err != nil {
		return err
	}
	slices.Sort(full)
	full = slices.Compact(full)
	entries, err := explain.Entries(lacks)
	switch {
	case err != nil:
		return &exit{exitFailed, err}
	case c.output == "":
		err = explain.PrintEntries(command.OutOrStdout(), entries, full)
	default:
		err = newTable(command.OutOrStdout(), c.output, nil).document(explain.EntriesDocument(entries, full))
	}
	if err != nil {
		return err
	}
	return verdict(command, silent, tally{})
}
