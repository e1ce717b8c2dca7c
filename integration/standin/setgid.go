// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"os"
	"strconv"
	"syscall"
)

// runSetgid makes a copy of itself that belongs to a group, which the caller only has to be a member of, and becomes
// it with the arguments that follow.
func runSetgid(args []string) error {
	if len(args) < 2 {
		return fmt.Errorf("usage: setgid GID ARGS...")
	}
	gid, err := strconv.Atoi(args[0])
	if err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	program, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	const mine = "/tmp/setgid"
	if err := os.WriteFile(mine, program, 0o755); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := os.Chown(mine, -1, gid); err != nil {
		return fmt.Errorf("setgid: %w", err)
	}
	if err := os.Chmod(mine, 0o755|os.ModeSetgid); err != nil { // after chown, which takes the bit away
		return fmt.Errorf("setgid: %w", err)
	}
	return fmt.Errorf("setgid: %w", syscall.Exec(mine, append([]string{mine}, args[1:]...), os.Environ()))
}
