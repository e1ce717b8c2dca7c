// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestStory is what happens to a cluster with the chart: tenants under Pod Security's strictest level, with the
// image and the chart as they are delivered.
func TestStory(t *testing.T) {
	s := &story{Steps: NewSteps(t, Run(t))}
	s.install(t)
	s.Kubectl(t, "create", "namespace", "shop")
	s.Kubectl(t, "label", "namespace", "shop", "pod-security.kubernetes.io/enforce=restricted")
	t.Run("upgrade", s.upgrades)
	t.Run("manifests", s.manifests)
	t.Run("privileges", s.privileges)
	t.Run("first connection", s.firstConnection)
	t.Run("plugin", s.plugin)
	t.Run("two families", s.twoFamilies)
	t.Run("init container", s.initContainer)
	t.Run("without validation", s.withoutValidation)
	t.Run("bad annotation", s.badAnnotation)
	t.Run("workloads", s.workloads)
	t.Run("host network", s.hostNetwork)
	t.Run("absent", s.absent)
	t.Run("stuck", s.stuck)
	t.Run("power", s.power)
	t.Run("admission", s.admission) // last: it stays
}

type story struct {
	*Steps
}

// install installs a meshnetd of an earlier time, with its own chart.
func (s *story) install(t *testing.T) {
	t.Helper()
	s.Images(t)
	s.System(t)
	if err := s.Release(t.Context(), filepath.Join(os.Getenv("MESHNETD_FROZEN"), "meshnetd"), "frozen"); err != nil {
		t.Fatal(err)
	}
}

// The app's first act is a connection, and the proxy gets it; the kubelet's probe gets by the proxy to the app.
func (s *story) firstConnection(t *testing.T) {
	s.Apply(t, meshed("web", ""))
	s.Ready(t, "web")
	s.byTheProxy(t, "web")
	proxied := s.Kubectl(t, "-n", "shop", "logs", "web", "-c", "istio-proxy") // the pod is ready by this probe
	if !strings.Contains(proxied, `"listener":"inbound"`) || !strings.Contains(proxied, ":8080") {
		t.Errorf("the kubelet's probe did not come by the proxy: %s", proxied)
	}
	s.Kubectl(t, "-n", "shop", "delete", "pod", "web", "--now")
}

// The author of a pod reads what is wrong with it, and mends it where it is.
func (s *story) badAnnotation(t *testing.T) {
	const annotation = "traffic.sidecar.istio.io/includeInboundPorts"
	s.Apply(t, meshed("broken", annotation+`: "8080,http"`))
	s.Wait(t, `annotation `+annotation+`: "8080,http": item 2, "http", is not a port`, "-n", "shop", "describe", "pod", "broken")
	s.Kubectl(t, "-n", "shop", "annotate", "--overwrite", "pod/broken", annotation+"=8080")
	s.Ready(t, "broken")
	s.byTheProxy(t, "broken")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "broken", "--now")
}

// Without meshnetd pods of the mesh wait and others start; with it again, they start.
func (s *story) absent(t *testing.T) {
	s.Kubectl(t, "-n", "meshnetd-system", "delete", "daemonset", "meshnetd", "--cascade=foreground", "--wait")
	s.Apply(t, meshed("waits", "")+"---"+plain("plain"))
	s.Ready(t, "plain")
	s.Wait(t, `required plugin "meshnetd" not present`, "-n", "shop", "describe", "pod", "waits")
	if started := s.Kubectl(t, "-n", "shop", "get", "pod", "waits", "-o",
		"jsonpath={.status.initContainerStatuses[*].containerID}{.status.containerStatuses[*].containerID}"); started != "" {
		t.Errorf("containers of the mesh ran without meshnetd: %s", started)
	}
	s.Upgrade(t)
	s.Ready(t, "waits")
	s.byTheProxy(t, "waits")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "waits", "plain", "--now")
}

// byTheProxy waits until the app's first connection has ended at the proxy: a pod can be ready before that.
func (s *story) byTheProxy(t *testing.T, pod string) {
	t.Helper()
	s.Wait(t, `"reply":"outbound original_dst=203.0.113.10:443"`, "-n", "shop", "logs", pod, "-c", "app")
}
