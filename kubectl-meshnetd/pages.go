// SPDX-License-Identifier: Apache-2.0

//go:build pages

package main

import (
	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// pagesCommands is what the package is built with, and not in it: `go run -tags pages . pages DIR` writes the man pages of the
// commands that there are. Their date is SOURCE_DATE_EPOCH.
func pagesCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "pages DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE: func(c *cobra.Command, args []string) error {
			c.Root().DisableAutoGenTag = true
			return doc.GenManTree(c.Root(), &doc.GenManHeader{Section: "1", Source: "meshnetd", Manual: "meshnetd"}, args[0])
		},
	}}
}
