// SPDX-License-Identifier: Apache-2.0

// Package cgroup reads how much memory the control groups of this process allow it, of version 1 or 2, in a unit or in
// a container.
package cgroup

import (
	"io/fs"
	"math"
	"path"
	"slices"
	"strconv"
	"strings"
)

// hierarchy is where the kernel shows memory's control groups, and what the files with limits are called.
type hierarchy struct {
	root  string
	files []string
}

var (
	version1 = hierarchy{"sys/fs/cgroup/memory", []string{"memory.limit_in_bytes"}}
	version2 = hierarchy{"sys/fs/cgroup", []string{"memory.max", "memory.high"}} // memory.high throttles
)

// Memory returns the least that the process's control group or one above it allows, in bytes; 0 is no limit, or none
// that can be read. The root is that of the file system.
func Memory(root fs.FS) int64 {
	text, err := fs.ReadFile(root, "proc/self/cgroup")
	if err != nil {
		return 0
	}
	h, group := find(string(text))
	least := int64(math.MaxInt64)
	// In a container, the path may be the host's while only the container's own group has files, at the root: so all
	// parents of the path are tried.
	for at := path.Clean("/" + group); ; at = path.Dir(at) {
		for _, file := range h.files {
			if n, limited := limit(root, path.Join(h.root, at, file)); limited {
				least = min(least, n)
			}
		}
		if at == "/" {
			break
		}
	}
	if least == math.MaxInt64 {
		return 0
	}
	return least
}

// find returns where memory is accounted for, of what proc_pid_cgroup(5) describes: version 1 where that has the
// controller.
func find(text string) (h hierarchy, group string) {
	h = version2
	for line := range strings.Lines(text) {
		parts := strings.SplitN(strings.TrimSpace(line), ":", 3)
		if len(parts) < 3 {
			continue
		}
		if slices.Contains(strings.Split(parts[1], ","), "memory") {
			return version1, parts[2]
		}
		if parts[0] == "0" {
			group = parts[2]
		}
	}
	return h, group
}

// unlimited is what version 1 says where there is no limit, or more: a page less than the largest number.
const unlimited = math.MaxInt64 &^ (1<<20 - 1)

func limit(root fs.FS, file string) (bytes int64, limited bool) {
	text, err := fs.ReadFile(root, file)
	if err != nil {
		return 0, false
	}
	n, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64) // "max" is no number
	return n, err == nil && n > 0 && n < unlimited
}
