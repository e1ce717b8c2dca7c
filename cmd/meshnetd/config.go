// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"io/fs"

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
		Long: "Needs no privileges and no daemon.\n\n" +
			"Exit 0 for a good configuration; 2 with every problem of a bad one, by file, line and key, or for a wrong command line.",
		Example: "  meshnetd check\n  meshnetd check --config new.toml && mv new.toml /etc/meshnetd/meshnetd.toml && meshnetd reload\n" +
			"  meshnetd check --print-reference > /etc/meshnetd/meshnetd.toml",
		Args: cobra.NoArgs,
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
