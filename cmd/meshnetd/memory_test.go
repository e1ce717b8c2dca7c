// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"runtime/debug"
	"testing"
	"testing/fstest"
)

// Go collects before the kernel kills, unless the environment says when.
func TestMemoryIsBoundBelowTheControlGroups(t *testing.T) {
	before, percent := debug.SetMemoryLimit(-1), debug.SetGCPercent(100)
	restore := func() { debug.SetMemoryLimit(before); debug.SetGCPercent(percent) }
	defer restore()
	limited := fstest.MapFS{"proc/self/cgroup": {Data: []byte("0::/\n")}, "sys/fs/cgroup/memory.max": {Data: []byte("536870912\n")}}
	t.Setenv("GOGC", "100")
	for name, tt := range map[string]struct {
		root        fstest.MapFS
		environment string
		want        int64
		said        string
	}{
		"limited":               {limited, "", 192 << 20, "memory=[go_limit=201326592 cgroup_limit=536870912]"},
		"without a limit":       {fstest.MapFS{}, "", before, ""},
		"as the environment is": {limited, "1GiB", before, ""},
	} {
		restore()
		t.Setenv("GOMEMLIMIT", tt.environment)
		said := boundMemory(tt.root).String()
		if got := debug.SetMemoryLimit(-1); got != tt.want || tt.said != "" && said != tt.said {
			t.Errorf("%s: %d, want %d; %s", name, got, tt.want, said)
		}
	}
}
