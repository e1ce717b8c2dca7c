// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"fmt"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

// version is set by the build from git.
var version = ""

func buildVersion() string {
	if version != "" {
		return version
	}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		return info.Main.Version
	}
	return "(unknown)"
}

// running is how many nodes run a version.
type running struct {
	Version string `json:"version"`
	Nodes   int    `json:"nodes"`
	Note    string `json:"note,omitempty"`
}

func versionCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "version",
		Short: "The version of this plugin, and those that the nodes run",
		Long: "Plugin and daemons may be one release apart.\n\n" +
			"Exit 0; 1 a node did not answer, or has no pod of meshnetd; 2 wrong command line.",
		Example: "  kubectl meshnetd version\n  kubectl meshnetd version --client",
		Args:    cobra.NoArgs,
	}
	client := c.Flags().Bool("client", false, "only the plugin's, without asking anybody")
	o.outputFlag(c, "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		shown := newTable(c.OutOrStdout(), o.output, []column{{"RUNS", 10}, {"VERSION", 24}, {"NODES", 5}, {"NOTE", 0}})
		said := struct {
			Plugin  string    `json:"plugin"`
			Daemons []running `json:"daemons"`
		}{Plugin: buildVersion(), Daemons: []running{}}
		if *client {
			if o.output == "" {
				fmt.Fprintln(c.OutOrStdout(), "kubectl-meshnetd", said.Plugin)
			}
			return shown.document(said)
		}
		k, err := o.cluster()
		if err != nil {
			return err
		}
		nodes := map[string]int{}
		silent, err := ask(c, k, "", shown, func(s status.Status, _ place) string { return s.Version }, func(v string) { nodes[v]++ })
		if err != nil {
			return err
		}
		shown.row("plugin", said.Plugin)
		for v, n := range nodes {
			said.Daemons = append(said.Daemons, running{v, n, apart(said.Plugin, v)})
		}
		slices.SortFunc(said.Daemons, func(a, b running) int { return cmp.Compare(a.Version, b.Version) })
		for _, r := range said.Daemons {
			shown.row("meshnetd", r.Version, fmt.Sprint(r.Nodes), r.Note)
		}
		if err := shown.document(said); err != nil {
			return err
		}
		return verdict(c, silent, tally{})
	}
	return c
}

// apart says that two versions are more than one release apart, "" where they are not, or nobody can tell.
func apart(plugin, daemon string) string {
	major, minor, ok := release(plugin)
	otherMajor, otherMinor, otherOK := release(daemon)
	if ok && otherOK && (major != otherMajor || max(minor, otherMinor)-min(minor, otherMinor) > 1) {
		return "more than one release apart from this plugin: take that of their version"
	}
	return ""
}

func release(version string) (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(strings.TrimPrefix(version, "v"), ".")
	second, _, _ := strings.Cut(rest, ".")
	major, err1 := strconv.Atoi(first)
	minor, err2 := strconv.Atoi(second)
	return major, minor, err1 == nil && err2 == nil
}
