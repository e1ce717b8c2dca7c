// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

const statusTimeout = 5 * time.Second

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "Ask the running daemon about the runtime, what it guarantees, and every pod of the mesh",
		Long:  "Exit 0, or 1 when no daemon answers.",
		Args:  cobra.NoArgs,
	}
	file := configFlag(c)
	socket := c.Flags().String("socket", "", "`PATH` of the daemon's socket (default: status_socket of the configuration)")
	asJSON := c.Flags().Bool("json", false, "print what the daemon says, as JSON")
	c.RunE = func(c *cobra.Command, _ []string) error {
		path := *socket
		if path == "" {
			cfg, err := loadConfig(*file)
			if err != nil {
				return err
			}
			path = cfg.StatusSocket
		}
		ctx, cancel := context.WithTimeout(c.Context(), statusTimeout)
		defer cancel()
		s, err := status.Read(ctx, path)
		if err != nil {
			return &exit{exitFailed, err}
		}
		if !*asJSON {
			s.Text(c.OutOrStdout())
			return nil
		}
		out := json.NewEncoder(c.OutOrStdout())
		out.SetIndent("", "  ")
		return out.Encode(s)
	}
	return c
}
