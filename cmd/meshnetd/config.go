// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/config"
)

const defaultConfigFile = "/etc/meshnetd/meshnetd.toml"

func configFlag(c *cobra.Command) *string {
	return c.Flags().String("config", "", "configuration `FILE` (default "+defaultConfigFile+", or built-in values where that does not exist)")
}

// loadConfig reads the file that was asked for, which must exist, or the default one, which need not.
func loadConfig(file string) (config.Config, error) {
	path := file
	if file == "" {
		path = defaultConfigFile
	}
	c, err := config.Load(path)
	if file == "" && errors.Is(err, fs.ErrNotExist) {
		return config.Default(), nil
	}
	if err != nil {
		return config.Config{}, &exit{exitBadConfig, err}
	}
	return c, nil
}

func checkCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "check",
		Short: "Check a configuration file, or print the documented one",
		Long:  "Exit 0 for a good configuration, 2 with every problem of a bad one, by file, line and key.",
		Args:  cobra.NoArgs,
	}
	file := configFlag(c)
	reference := c.Flags().Bool("print-reference", false, "print the reference configuration: every key, with its default")
	c.RunE = func(c *cobra.Command, _ []string) error {
		if *reference {
			_, err := fmt.Fprint(c.OutOrStdout(), config.Reference)
			return err
		}
		if _, err := loadConfig(*file); err != nil {
			return err
		}
		_, err := fmt.Fprintln(c.OutOrStdout(), "the configuration is good")
		return err
	}
	return c
}

// newLogger writes to standard error, which systemd and the kubelet collect. The journal has its own clock.
func newLogger(l config.Log) *slog.Logger {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // validated: one of config.Levels
	options := &slog.HandlerOptions{Level: level}
	if l.Format == "json" {
		return slog.New(slog.NewJSONHandler(os.Stderr, options))
	}
	if os.Getenv("JOURNAL_STREAM") != "" {
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options))
}
