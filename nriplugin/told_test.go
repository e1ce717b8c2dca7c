// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

var someNode = rules.Node{Meshes: []rules.Mesh{istio.New(istio.Standard())}}

// The stub keeps all messages of Synchronize until the last one has come: whatever a node's containers have in their
// environment and arguments, what is kept of them is little.
func TestLargeContainersTakeNoMemory(t *testing.T) {
	raw, told, held := measured(t)
	const messages, each = 32, 4
	large := strings.Repeat("x", 200<<10)
	before := heap.Live()
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
	sent := int64(messages * each * len(large) * 4)
	if kept := receive(t, "Synchronize", held) - before; kept > sent/8 {
		t.Errorf("%d bytes are kept of %d", kept, sent)
	}
	if got := told.synced[0]; len(got) != messages*each || len(got[0].Containers) != 1 || got[0].Containers[0].Env != nil ||
		!cmp.Equal(got[0].Containers[0].Args[:2], []string{"sh", "-c"}) {
		t.Errorf("%d pods", len(got))
	}
}

// Words take memory of their own, however short they are: what is kept of a pod is what decides about it, in however many words
// its labels, its annotations and its containers say more.
func TestManyWordsTakeNoMemory(t *testing.T) {
	raw, told, held := measured(t)
	const messages, many = 8, 10_000
	keys, words, groups := map[string]string{}, make([]string, 10*many), make([]uint32, 10*many)
	variables := []string{"ISTIO_DUAL_STACK=false"}
	for i := range many {
		word := fmt.Sprintf("%04x", i)
		keys[word], variables = "", append(variables, word+"=")
	}
	keys["sidecar.istio.io/status"], keys["sidecar.istio.io/injekt"] = "{}", "false"
	variables = append(variables, "ISTIO_DUAL_STACK=true")
	before := heap.Live()
	for i := range messages {
		id := fmt.Sprint(i)
		in := func(name string, args []string) *api.Container {
			return &api.Container{PodSandboxId: id, Name: name, State: api.ContainerState_CONTAINER_RUNNING, Labels: keys, Annotations: keys, Env: variables, Args: args,
				User: &api.User{Uid: 1, AdditionalGids: groups}}
		}
		request := &api.SynchronizeRequest{More: i < messages-1, Pods: []*api.PodSandbox{{Id: id, Pid: 1, Labels: keys, Annotations: keys}},
			Containers: []*api.Container{in("app", words), in("istio-proxy", []string{"pilot-agent", "proxy", "sidecar", "--domain", "x"})}}
		if _, err := raw.plugin.Synchronize(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	if kept := receive(t, "Synchronize", held) - before; kept > messages*64<<10 {
		t.Errorf("%d bytes are kept of each pod", kept/messages)
	}
	if got := told.synced[0]; len(got) != messages || len(got[0].Containers) != 2 || got[0].Annotations["sidecar.istio.io/status"] != "{}" ||
		!cmp.Equal(got[0].Unread, []string{"sidecar.istio.io/injekt"}) || !got[0].Containers[0].Running ||
		!cmp.Equal(got[0].Containers[1].Env, map[string]string{"ISTIO_DUAL_STACK": "true"}) || len(got[0].Containers[1].Args) != 5 {
		t.Errorf("%d pods, the first %.1000v", len(got), got[0])
	}
}

// measured runs the plugin, and returns its runtime, what it was told, and how much memory is held when it was told all.
func measured(t *testing.T) (raw *rawRuntime, told *pods, held chan int64) {
	t.Helper()
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	held = make(chan int64, 1)
	told = &pods{node: someNode, synchronize: func(context.Context, []rules.Pod) { held <- heap.Live() }}
	run(t, socket, told)
	raw, _, _ = meet(t, conns, "containerd", "v2.4.2")
	return raw, told, held
}

// What an injector writes is told as it is.
func TestWhatDecidesIsTold(t *testing.T) {
	half := strings.Repeat("x", rules.StandardBudget().Bytes/2)
	proxy := app(meshed("a"))
	proxy.Name, proxy.Env, proxy.Args = "istio-proxy", []string{"ISTIO_META_DNS_CAPTURE=true"}, []string{"pilot-agent", "proxy", "sidecar", half}
	proxy.Linux = &api.LinuxContainer{Namespaces: []*api.LinuxNamespace{{Type: network, Path: "/n"}}, CgroupsPath: "/c"}
	want := containerOf(proxy)
	proxy.Env = append(proxy.Env, "A="+half+half+half)
	var heard told
	heard.hear(&pods{node: someNode}, []*api.PodSandbox{meshed("a")}, []*api.Container{proxy, nil, {}})
	if diff := cmp.Diff([]rules.Container{want}, heard.all()[0].Containers); diff != "" {
		t.Error(diff)
	}
	if left := heard.all(); len(left) > 0 {
		t.Errorf("%d pods are told twice", len(left))
	}
}
