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

// ofGo is the part, in eighths, of what the control group allows that Go may use. Half of it is for the rules of pods,
// whose memory the kernel charges to who wrote them, and which stay: see the budget in the reference configuration. The
// rest is for threads, sockets and programs.
const ofGo = 3

// boundMemory makes Go collect before the kernel kills, and says what it found. What the environment says goes first.
func boundMemory(root fs.FS) slog.Attr {
	if os.Getenv("GOGC") == "" {
		debug.SetGCPercent(50) // a node's memory is dearer than what little time collecting takes here
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
