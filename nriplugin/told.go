// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"sync"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/rules"
)

// told is what the messages of Synchronize have told by now: of each pod and container what decides, since everybody's can say
// megabytes more, and all of them are there at once. Its zero value has heard nothing.
type told struct {
	mu         sync.Mutex
	pods       []rules.Pod
	containers map[string][]rules.Container // by their sandbox
}

// hear takes in one message.
func (t *told) hear(by Enforcer, sandboxes []*api.PodSandbox, containers []*api.Container) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.containers == nil {
		t.containers = map[string][]rules.Container{}
	}
	for _, c := range containers {
		if c.GetState() != api.ContainerState_CONTAINER_STOPPED { // CRI-O may list those too
			id := c.GetPodSandboxId()
			t.containers[id] = append(t.containers[id], by.Bounded(containerOf(c)))
		}
	}
	for _, sandbox := range sandboxes {
		// A stopped sandbox has neither process nor namespace, so there is nothing to look at.
		if pod := podOf(sandbox); pod.NetNS != "" || sandbox.GetPid() != 0 {
			t.pods = append(t.pods, by.Deciding(pod))
		}
	}
}

// all returns the pods with their containers.
func (t *told) all() []rules.Pod {
	t.mu.Lock()
	defer t.mu.Unlock()
	for i := range t.pods {
		t.pods[i].Containers = t.containers[t.pods[i].SandboxID]
	}
	all := t.pods
	t.pods, t.containers = nil, nil
	return all
}
