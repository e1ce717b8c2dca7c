// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"context"
	"encoding/json"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/kube"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// missing is what the author of a pod reads that waits for meshnetd.
const missing = `required plugin "meshnetd" not present`

// TestNode is what becomes of pods while things happen to their node. What is left after a failure is nothing to begin with.
func TestNode(t *testing.T) {
	m := start(t)
	t.Cleanup(func() {
		if m.host != nil {
			m.host.Kill()
		}
	})
	m.service(t)
	m.run(t, web, client, plain)
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"sandbox killed", m.killed}, {"Istio says nftables", m.nativeNftables}, {"meshnetd ends", m.ended}, {"meshnetd is killed", m.daemonKilled},
		{"revision", m.revision}, {"node restarts", m.restarted}, {"IPv6 only", m.ipv6Only},
	} {
		if !t.Run(part.name, part.run) {
			return
		}
	}
}

// through sees that the client's questions go through both proxies.
func (m *mesh) through(t *testing.T, path string) {
	t.Helper()
	m.answered(t, "web peer=", "shop", "client", webName+path)
	m.lines(t, "client", "path=/"+path, "cluster=outbound|8080||web.shop.svc.cluster.local")
	m.lines(t, "web", "path=/"+path, "peer=spiffe://")
}

// first is a pod whose app asks at once.
func (m *mesh) first(name string) pod {
	return pod{namespace: "shop", name: name, args: []string{"first", webName + name}}
}

// acted sees that such a pod's first act went through both proxies.
func (m *mesh) acted(t *testing.T, p pod) {
	t.Helper()
	m.ready(t, p)
	m.Wait(t, "answer: web", "-n", "shop", "logs", p.name, "-c", "app")
	m.lines(t, p.name, "path=/"+p.name, "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
	m.lines(t, "web", "path=/"+p.name, "peer=spiffe://")
}

// sandbox is what the runtime says of a pod's.
type sandbox struct {
	ID  string
	PID int
}

func (m *mesh) sandbox(t *testing.T, p pod) sandbox {
	t.Helper()
	runtime := m.C.Lab().CRI()
	list, err := runtime.ListPodSandbox(t.Context(), &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{
		State:         &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY},
		LabelSelector: map[string]string{"io.kubernetes.pod.namespace": p.namespace, "io.kubernetes.pod.name": p.name},
	}})
	if err != nil || len(list.GetItems()) != 1 {
		t.Fatalf("rig: %s/%s has %d sandboxes (%v)", p.namespace, p.name, len(list.GetItems()), err)
	}
	id := list.GetItems()[0].GetId()
	status, err := runtime.PodSandboxStatus(t.Context(), &criv1.PodSandboxStatusRequest{PodSandboxId: id, Verbose: true})
	if err != nil {
		t.Fatalf("rig: %v", err)
	}
	found := sandbox{ID: id}
	if err := json.Unmarshal([]byte(status.GetInfo()["info"]), &found); err != nil || found.PID == 0 {
		t.Fatalf("rig: no process of the sandbox of %s/%s in %v (%v)", p.namespace, p.name, status.GetInfo(), err)
	}
	return found
}

// A pod whose sandbox dies has another one, with its rules.
func (m *mesh) killed(t *testing.T) {
	m.toTell(t, client)
	m.through(t, "before")
	before := m.containers(t, client)
	if err := syscall.Kill(m.sandbox(t, client).PID, syscall.SIGKILL); err != nil {
		t.Fatalf("rig: %v", err)
	}
	m.anew(t, before, client)
	m.through(t, "anew")
	m.protected(t, client)
}

func (m *mesh) containers(t *testing.T, p pod) string {
	t.Helper()
	return m.Kubectl(t, "-n", p.namespace, "get", "pod", p.name, "-o", "jsonpath={.status.containerStatuses[*].containerID}")
}

// anew waits until the pod is ready with another container than it had.
func (m *mesh) anew(t *testing.T, before string, p pod) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	if err := lab.Poll(ctx, func() (bool, error) {
		out, err := m.C.Kubectl(ctx, "", "-n", p.namespace, "get", "pod", p.name, "-o", "jsonpath={.status.containerStatuses[?(@.ready==true)].containerID}")
		return out != "" && out != before, err
	}); err != nil {
		t.Fatalf("%s/%s does not come back: %v", p.namespace, p.name, err)
	}
}

// While meshnetd is away pods of the mesh wait, and those that run go on. The next one, here a process of the node, is what
// they waited for.
func (m *mesh) ended(t *testing.T) {
	m.end(t)
	waiting := m.first("waiting")
	m.create(t, waiting)
	m.Wait(t, missing, "-n", "shop", "describe", "pod", "waiting")
	m.through(t, "ended")
	m.asProcess(t)
	m.acted(t, waiting)
	hosted := pod{namespace: "shop", name: "hosted"}
	m.run(t, hosted)
	m.passes(t, hosted, 0)
	m.through(t, "hosted")
	m.protected(t, web, client, waiting, hosted)
}

// end ends the DaemonSet's.
func (m *mesh) end(t *testing.T) {
	t.Helper()
	m.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--ignore-not-found", "--cascade=foreground", "--wait")
}

// asProcess has meshnetd as a process of the node, unless it is one.
func (m *mesh) asProcess(t *testing.T) {
	t.Helper()
	if m.host != nil {
		return
	}
	m.end(t)
	program, err := buildMeshnetd(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), kube.Patience)
	defer cancel()
	if m.host, err = m.C.Lab().RunDaemon(ctx, program, ""); err != nil {
		t.Fatalf("meshnetd: %v", err)
	}
}

// The same where it is killed; and a pod that does not wait for it, as pods were before their injector had the annotation, has
// no rules until it is there: istio-validation keeps it from starting, or is found running. The next one writes another kind of
// rules, and leaves those that are there.
func (m *mesh) daemonKilled(t *testing.T) {
	policy := filepath.Join(kube.Root(t), "packaging", "admission", "required-plugin.yaml")
	m.asProcess(t)
	m.host.Kill()
	m.host = nil
	m.Kubectl(t, "delete", "-f", policy)
	orphan, older := m.first("orphan"), m.first("older")
	older.annotations = map[string]string{"required-plugins.noderesource.dev/pod": "[]"}
	m.WaitInput(t, "older created", older.manifest(), "create", "--dry-run=server", "-f", "-") // the policy holds for some moments more
	m.create(t, orphan, older)
	m.Wait(t, missing, "-n", "shop", "describe", "pod", "orphan")
	m.Wait(t, `"exitCode":126`, "-n", "shop", "get", "pod", "older", "-o", "jsonpath={.status.initContainerStatuses[0]}")
	m.through(t, "killed")
	m.Config = `backend = "nftables"`
	m.Upgrade(t)
	m.acted(t, orphan)
	m.acted(t, older)
	m.through(t, "again")
	m.protected(t, web, client, orphan, older)
	for line := range strings.Lines(m.said(t)) {
		if strings.Contains(line, "pod_protected") && strings.Contains(line, orphan.name) && !strings.Contains(line, "nftables") {
			t.Errorf("not by nftables: %s", line)
		}
	}
	m.Kubectl(t, "apply", "-f", policy)
}

// Istio's own value for rules of nf_tables is one more argument of istio-validation.
func (m *mesh) nativeNftables(t *testing.T) {
	if err := m.install(t.Context(), t, "-f", filepath.Join(kube.Root(t), "packaging", "istio", "istioctl.yaml"), "--set", "values.global.nativeNftables=true"); err != nil {
		t.Fatalf("Istio: %v", err)
	}
	m.WaitInput(t, "--native-nftables", pod{namespace: "transparent", name: "tried"}.manifest(), "create", "--dry-run=server", "-f", "-",
		"-o", "jsonpath={.spec.initContainers[0].args}")
	native, through := pod{namespace: "shop", name: "native"}, pod{namespace: "transparent", name: "native-tproxy", annotations: map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY"}}
	m.run(t, native, through)
	m.passes(t, native, 0)
	m.passes(t, through, 0)
	m.protected(t, native, through)
}

// A namespace that names a revision is as one that is labelled for injection.
func (m *mesh) revision(t *testing.T) {
	m.Kubectl(t, "create", "namespace", "revised")
	m.Kubectl(t, "label", "namespace", "revised", "istio.io/rev=default", "pod-security.kubernetes.io/enforce=restricted")
	revised := pod{namespace: "revised", name: "revised"}
	m.run(t, revised)
	if of := m.Kubectl(t, "-n", "revised", "get", "pod", "revised", "-o", `jsonpath={.metadata.annotations.istio\.io/rev}`); of != "default" {
		t.Errorf("injected by %q", of)
	}
	m.passes(t, revised, 0)
	m.protected(t, revised)
}

// The node loses its power. When it is back, pods of the mesh start with their rules.
func (m *mesh) restarted(t *testing.T) {
	m.toTell(t, web, client)
	before := map[string]string{"web": m.containers(t, web), "client": m.containers(t, client)}
	if err := m.C.PowerOff(t.Context()); err != nil {
		t.Fatalf("rig: %v", err)
	}
	if err := m.C.PowerOn(t.Context(), func() error { return nil }); err != nil {
		t.Fatalf("rig: %v", err)
	}
	m.anew(t, before["web"], web)
	m.anew(t, before["client"], client)
	m.through(t, "restarted")
	m.protected(t, web, client)
}
