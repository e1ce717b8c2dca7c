// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"io/fs"
	"log/slog"
	"os"
	"runtime/debug"

	"github.com/meshnetd/meshnetd/daemon/cgroup"
)

// ofGo is how many eighths of the control group's memory Go may use. Half of the whole is for pods' rules, which the kernel
// charges to the process that wrote them for as long as they exist: see the budget in the reference configuration. The
// rest is for threads, sockets and programs.
const ofGo = 3

// boundMemory makes Go collect garbage before the kernel kills the process, and returns what it found. The environment's
// settings take precedence.
func boundMemory(root fs.FS) slog.Attr {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // collecting costs little here, and memory is dear on a node
	}
	limit := cgroup.Memory(root)
	if os.Getenv("GOMEMLIMIT") == "" && limit > 0 {
		debug.SetMemoryLimit(limit / 8 * ofGo)
	}
	attributes := []any{slog.Int64("go_limit", debug.SetMemoryLimit(-1))}
	if limit > 0 {
		attributes = append(attributes, slog.Int64("cgroup_limit", limit))
	}
	return slog.Group("memory", attributes...)
}
