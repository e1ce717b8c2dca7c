// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// What is asked of the runtime and read on the node costs a test less than a kubectl does, and needs no API server.

// proxied sees that what pods ask, and what they are asked, goes through their proxies now.
func (m *mesh) proxied(t *testing.T, pods ...pod) {
	t.Helper()
	server := net.JoinHostPort(m.bridge[0].String(), outsidePort)
	for _, p := range pods {
		m.more(t, p, func() { m.asks(t, p, server) }, "cluster=PassthroughCluster", "to="+server)
		own := net.JoinHostPort(m.status(t, p).GetStatus().GetNetwork().GetIp(), "8080")
		m.more(t, p, func() { m.asks(t, plain, own) }, "to="+own)
	}
}

// asks has a pod ask a server until it answers.
func (m *mesh) asks(t *testing.T, p pod, server string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/2)
	defer cancel()
	var last string
	if err := lab.Poll(ctx, func() (bool, error) {
		id := m.container(t, p, "app")
		said, err := m.C.Lab().CRI().ExecSync(ctx, &criv1.ExecSyncRequest{ContainerId: id, Cmd: []string{"/app", "get", "http://" + server + "/"}})
		last = fmt.Sprintf("%s %s %v", said.GetStdout(), said.GetStderr(), err)
		return err == nil && strings.Contains(last, " peer="), nil
	}); err != nil {
		t.Fatalf("%s/%s asked %s, and at last %s", p.namespace, p.name, server, last)
	}
}

// more waits until the access log of a pod has one more line with all the texts than before.
func (m *mesh) more(t *testing.T, p pod, do func(), texts ...string) {
	t.Helper()
	before := len(m.accesses(t, p, texts...))
	do()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience/4)
	defer cancel()
	if err := lab.Poll(ctx, func() (bool, error) { return len(m.accesses(t, p, texts...)) > before, nil }); err != nil {
		t.Fatalf("the proxy of %s/%s logged no access with %q, but\n%s", p.namespace, p.name, texts, strings.Join(m.accesses(t, p), "\n"))
	}
}

// accesses are the lines of all that a pod's proxies logged which have all the texts.
func (m *mesh) accesses(t *testing.T, p pod, texts ...string) []string {
	t.Helper()
	logs, err := filepath.Glob(filepath.Join(m.C.Lab().Dir(), "kube", "pods", p.namespace+"_"+p.name+"_*", "istio-proxy", "*.log"))
	if err != nil {
		t.Fatal(err)
	}
	var said strings.Builder
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			t.Fatal(err)
		}
		for line := range strings.Lines(string(text)) {
			_, line, _ = strings.Cut(line, " F ") // as the runtime marks a whole line
			said.WriteString(line)
		}
	}
	return accesses(said.String(), texts...)
}

// kernel is what nf_tables has in a pod's network namespace.
func (m *mesh) kernel(t *testing.T, p pod) string {
	t.Helper()
	netns := fmt.Sprintf("--net=/proc/%d/ns/net", pid(t, m.status(t, p).GetInfo()))
	out, err := exec.CommandContext(t.Context(), "nsenter", netns, "nft", "list", "ruleset").CombinedOutput()
	if err != nil {
		t.Fatalf("rig: %v: %s", err, out)
	}
	return string(out)
}

// labels are those of a pod's containers and sandboxes in the runtime.
func (p pod) labels() map[string]string {
	labels := map[string]string{"io.kubernetes.pod.namespace": p.namespace}
	if p.name != "" {
		labels["io.kubernetes.pod.name"] = p.name
	}
	return labels
}

// status is what the runtime tells of the sandbox that a pod has.
func (m *mesh) status(t *testing.T, p pod) *criv1.PodSandboxStatusResponse {
	t.Helper()
	client := m.C.Lab().CRI()
	list, err := client.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{
		State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}, LabelSelector: p.labels()}})
	if err != nil || len(list.GetItems()) != 1 {
		t.Fatalf("rig: %s/%s has %d sandboxes, want 1; %v", p.namespace, p.name, len(list.GetItems()), err)
	}
	answer, err := client.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: list.GetItems()[0].GetId(), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// container is the one of that name, which runs, of the pod, or of the namespace's only pod.
func (m *mesh) container(t *testing.T, p pod, name string) (id string) {
	t.Helper()
	labels := p.labels()
	labels["io.kubernetes.container.name"] = name
	list, err := m.C.Lab().CRI().ListContainers(t.Context(), &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}, LabelSelector: labels}})
	if err != nil || len(list.GetContainers()) != 1 {
		t.Fatalf("rig: %d containers of %v run, want 1; %v", len(list.GetContainers()), labels, err)
	}
	return list.GetContainers()[0].GetId()
}

func (m *mesh) process(t *testing.T, p pod, container string) int {
	t.Helper()
	answer, err := m.C.Lab().CRI().ContainerStatus(t.Context(), &criv1.ContainerStatusRequest{ContainerId: m.container(t, p, container), Verbose: true})
	if err != nil {
		t.Fatal(err)
	}
	return pid(t, answer.GetInfo())
}

// pid is what the runtime tells about a container or a sandbox.
func pid(t *testing.T, told map[string]string) int {
	t.Helper()
	var info struct{ PID int }
	if err := json.Unmarshal([]byte(told["info"]), &info); err != nil || info.PID == 0 {
		t.Fatalf("rig: no process in %v, %v", told, err)
	}
	return info.PID
}
