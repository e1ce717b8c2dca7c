// SPDX-License-Identifier: Apache-2.0

//go:build pages

package main

import (
	"fmt"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"
	"github.com/spf13/cobra/doc"
)

// pagesCommands is what the package is built with, and not in it: `go run -tags pages ./cmd/meshnetd pages DIR` writes
// the man pages and completions of the commands that there are. Their date is SOURCE_DATE_EPOCH.
func pagesCommands() []*cobra.Command {
	return []*cobra.Command{{
		Use:    "pages DIR",
		Hidden: true,
		Args:   cobra.ExactArgs(1),
		RunE:   func(c *cobra.Command, args []string) error { return writePages(c.Root(), args[0]) },
	}}
}

func writePages(root *cobra.Command, dir string) error {
	root.DisableAutoGenTag = true
	man := filepath.Join(dir, "man")
	if err := os.MkdirAll(man, 0o755); err != nil {
		return fmt.Errorf("write the pages: %w", err)
	}
	if err := doc.GenManTree(root, &doc.GenManHeader{Section: "1", Source: "meshnetd", Manual: "meshnetd"}, man); err != nil {
		return fmt.Errorf("write the man pages: %w", err)
	}
	for name, write := range map[string]func(string) error{
		"meshnetd.bash": func(path string) error { return root.GenBashCompletionFileV2(path, true) },
		"_meshnetd":     root.GenZshCompletionFile,
		"meshnetd.fish": func(path string) error { return root.GenFishCompletionFile(path, true) },
	} {
		if err := write(filepath.Join(dir, name)); err != nil {
			return fmt.Errorf("write the completion %s: %w", name, err)
		}
	}
	return nil
}
