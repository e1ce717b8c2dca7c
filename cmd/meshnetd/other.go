// SPDX-License-Identifier: Apache-2.0

//go:build !linux

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
)

// Network namespaces are Linux's. Elsewhere the commands exist and say so.
func linuxOnly(use, short string) *cobra.Command {
	return &cobra.Command{Use: use, Short: short + " (Linux only)", DisableFlagParsing: true,
		RunE: func(*cobra.Command, []string) error {
			return &exit{exitFailed, errors.New("this command needs Linux")}
		}}
}

func runCommand() *cobra.Command { return linuxOnly("run", "Run the daemon") }
func applyCommand() *cobra.Command {
	return linuxOnly("apply", "Put a pod's rules into a network namespace")
}
func verifyCommand() *cobra.Command {
	return linuxOnly("verify", "Compare a network namespace with a pod's plan")
}
func removeCommand() *cobra.Command {
	return linuxOnly("remove", "Take out of a network namespace what meshnetd put in")
}
func statusCommand() *cobra.Command { return linuxOnly("status", "Ask the running daemon") }
func reloadCommand() *cobra.Command {
	return linuxOnly("reload", "Have the running daemon read its configuration again")
}
func (testFlags) send(context.Context, string, []explain.Tested) error {
	return errors.New("--traffic needs Linux")
}
func doctorCommand() *cobra.Command { return linuxOnly("doctor", "Look at the node") }
func lockdownCommand() *cobra.Command {
	return linuxOnly("lockdown", "Print what lockdowns would need to let pass what they have counted")
}
