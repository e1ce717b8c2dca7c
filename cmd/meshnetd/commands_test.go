// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/meshnetd/meshnetd/internal/golden"
)

// docs/commands.md has the text that the man pages and --help have.
func TestCommandsPage(t *testing.T) {
	var page strings.Builder
	page.WriteString("# Commands\n\nWritten by a test from the commands themselves (`make docs`).\n")
	for _, c := range root().Commands() {
		if !c.Hidden && c.Name() != "help" && c.Name() != "completion" {
			describeCommand(&page, c)
		}
	}
	golden.Check(t, "../../../docs/commands.md", page.String())
}

func describeCommand(page *strings.Builder, c *cobra.Command) {
	fmt.Fprintf(page, "\n## %s\n\n%s.\n\n    %s\n", c.CommandPath(), strings.TrimSuffix(c.Short, "."), c.UseLine())
	if c.Long != "" {
		fmt.Fprintf(page, "\n%s\n", c.Long)
	}
	var flags strings.Builder
	c.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Name != "help" && !f.Hidden {
			flags.WriteString(flagRow(f))
		}
	})
	if flags.Len() > 0 {
		fmt.Fprintf(page, "\n| Option | |\n|---|---|\n%s", flags.String())
	}
	if c.Example != "" {
		page.WriteString("\nExamples:\n\n")
		for line := range strings.Lines(c.Example + "\n") {
			page.WriteString("  " + line)
		}
	}
}

func flagRow(f *pflag.Flag) string {
	value, usage := pflag.UnquoteUsage(f)
	name := strings.TrimSpace("--" + f.Name + " " + value)
	if f.Shorthand != "" {
		name = "-" + f.Shorthand + ", " + name
	}
	if f.DefValue != "" && f.DefValue != "false" && f.DefValue != "[]" {
		usage += fmt.Sprintf(" (default `%s`)", f.DefValue)
	}
	return fmt.Sprintf("| `%s` | %s |\n", name, strings.ReplaceAll(usage, "|", `\|`))
}
