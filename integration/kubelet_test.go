// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/podsapi"
)

// Where the kubelet tells its pods, the proxy's own user is in the first rules and nobody else has it, on every runtime:
// also where that tells no users.
func TestProxyIdentityByTheKubelet(t *testing.T) {
	labtest.OnEach(t, func(t *testing.T, l *lab.Lab) {
		sidecar, impostor := labtest.ProxyContainer, lab.ContainerSpec{Name: "app", Args: []string{"pause"}, User: 4242, Group: app}
		sidecar.User, sidecar.Group = 4242, 4242
		member := impostor
		member.Name, member.User, member.Group = "member", app, 4242
		honest := lab.ContainerSpec{Name: "honest", Args: []string{"pause"}, User: app, Group: app}
		spec := lab.PodSpec{Name: "web", UID: "uid-of-web", Annotations: labtest.Injected()}
		kubelet := &podsapi.Server{Socket: filepath.Join(l.Dir(), "pods-api.sock"), Watch: podsapi.Telling(podsapi.Pod(spec, honest, impostor, member, sidecar))}
		if err := kubelet.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(kubelet.Stop)
		daemon := labtest.RunDaemon(t, l, fmt.Sprintf("kubelet.pods_api = %q", kubelet.Socket))
		daemon.Expect(t, func(l lab.Line) bool { return l.Event == "kubelet_known" })
		pod, err := l.RunPod(labtest.Within(t, time.Minute), spec)
		if err != nil {
			t.Fatal(err)
		}
		if text := labtest.Saved(t, pod); !strings.Contains(text, "--uid-owner 4242") || strings.Contains(text, "--uid-owner 1337") {
			t.Errorf("the first rules are not by the proxy's user:\n%s", text)
		}
		for _, refused := range []lab.ContainerSpec{impostor, member} {
			_, err := pod.RunContainer(labtest.Within(t, time.Minute), refused)
			if err == nil || !strings.Contains(err.Error(), "meshnetd refuses container "+refused.Name+" of pod default/web") {
				t.Errorf("%s: %v", refused.Name, err)
			}
		}
		for _, runs := range []lab.ContainerSpec{honest, sidecar} {
			if _, err := pod.RunContainer(labtest.Within(t, time.Minute), runs); err != nil {
				t.Error(err)
			}
		}
		if strings.Contains(daemon.Log(), "pod_refined") || strings.Contains(daemon.Log(), "spec_contradicted") {
			t.Error("the runtime creates other containers than the kubelet told")
		}
	})
}
