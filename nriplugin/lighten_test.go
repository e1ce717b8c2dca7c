// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"fmt"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

// The stub keeps all messages of Synchronize until the last one has come: whatever a node's containers have in their
// environment and arguments, what is kept of them is little.
func TestLargeContainersTakeNoMemory(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	held := make(chan uint64, 1)
	told := &pods{synchronize: func(context.Context, []rules.Pod) { held <- heap() }}
	run(t, socket, told)
	raw, _, _ := meet(t, conns, "containerd", "v2.4.2")
	const messages, each = 32, 4
	large := strings.Repeat("x", 200<<10)
	before := heap()
	for i := range messages {
		request := &api.SynchronizeRequest{More: i < messages-1}
		for j := range each {
			id := fmt.Sprintf("%d-%d", i, j)
			request.Pods = append(request.Pods, &api.PodSandbox{Id: id, Pid: 1})
			request.Containers = append(request.Containers, &api.Container{PodSandboxId: id, Name: "app",
				Env: []string{"A=" + large}, Args: []string{"sh", "-c", "exec " + large, large}, Mounts: []*api.Mount{{Source: large}}})
		}
		if _, err := raw.plugin.Synchronize(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	sent := uint64(messages * each * len(large) * 4)
	if kept := receive(t, "Synchronize", held) - before; kept > sent/8 && int64(kept) > 0 {
		t.Errorf("%d bytes are kept of %d", kept, sent)
	}
	if got := told.synced[0]; len(got) != messages*each || len(got[0].Containers) != 1 || got[0].Containers[0].Env != nil ||
		!cmp.Equal(got[0].Containers[0].Args[:2], []string{"sh", "-c"}) {
		t.Errorf("%d pods", len(got))
	}
}

func heap() uint64 {
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// What an injector writes is told as it is.
func TestLightenLeavesWhatCounts(t *testing.T) {
	half := strings.Repeat("x", mostTold/2)
	of := func() *api.Container {
		c := app(meshed("a"))
		c.Env, c.Args = []string{"ISTIO_META_DNS_CAPTURE=true", "A=" + half}, []string{"pilot-agent", "proxy", "sidecar", half}
		c.Linux = &api.LinuxContainer{Namespaces: []*api.LinuxNamespace{{Type: network, Path: "/n"}}, CgroupsPath: "/c"}
		return c
	}
	c := of()
	lighten(&api.SynchronizeRequest{Containers: []*api.Container{c, nil, {}}})
	if diff := cmp.Diff(containerOf(of()), containerOf(c)); diff != "" {
		t.Error(diff)
	}
}
