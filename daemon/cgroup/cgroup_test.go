// SPDX-License-Identifier: Apache-2.0

package cgroup

import (
	"testing"
	"testing/fstest"
)

func TestMemory(t *testing.T) {
	const v1, v2 = "9:name=systemd:/\n4:cpu,memory:/kubepods/pod1/c\n0::/\n", "0::/system.slice/meshnetd.service\n"
	for name, tt := range map[string]struct {
		self  string
		files map[string]string
		want  int64
	}{
		"a unit":            {v2, map[string]string{"system.slice/meshnetd.service/memory.max": "536870912\n", "system.slice/memory.max": "max\n"}, 512 << 20},
		"throttled earlier": {v2, map[string]string{"system.slice/meshnetd.service/memory.max": "536870912\n", "system.slice/meshnetd.service/memory.high": "268435456\n"}, 256 << 20},
		"a slice with less": {v2, map[string]string{"system.slice/meshnetd.service/memory.max": "536870912\n", "system.slice/memory.max": "1048576\n"}, 1 << 20},
		"no limit":          {v2, map[string]string{"system.slice/meshnetd.service/memory.max": "max\n"}, 0},
		"a container":       {"0::/\n", map[string]string{"memory.max": "1048576\n"}, 1 << 20},
		"outside its root":  {"0::/../../other\n", map[string]string{"memory.max": "1048576\n"}, 1 << 20},
		"version 1": {v1, map[string]string{"memory/kubepods/pod1/c/memory.limit_in_bytes": "536870912\n",
			"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 512 << 20},
		"version 1, in a container": {v1, map[string]string{"memory/memory.limit_in_bytes": "1048576\n"}, 1 << 20},
		"version 1, no limit":       {v1, map[string]string{"memory/memory.limit_in_bytes": "9223372036854771712\n"}, 0},
		"nothing to read":           {v2, nil, 0},
		"nonsense":                  {"x\n::\n0::/a\n", map[string]string{"a/memory.max": "-1\n"}, 0},
		"empty":                     {"", map[string]string{"memory.max": "\n"}, 0},
	} {
		root := fstest.MapFS{"proc/self/cgroup": {Data: []byte(tt.self)}}
		for file, text := range tt.files {
			root["sys/fs/cgroup/"+file] = &fstest.MapFile{Data: []byte(text)}
		}
		if got := Memory(root); got != tt.want {
			t.Errorf("%s: %d, want %d", name, got, tt.want)
		}
	}
	if got := Memory(fstest.MapFS{}); got != 0 {
		t.Errorf("without /proc: %d", got)
	}
}
