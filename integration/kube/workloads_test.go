// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// replicas are as many pods as one Deployment has here.
const replicas = 50

// What makes pods beside people: a Deployment whose pods start at once, and a Job, whose pods get no second try.
func (s *story) workloads(t *testing.T) {
	begun := time.Now()
	s.Apply(t, workload(t, meshed("many", ""), "apps/v1", "Deployment", map[string]any{
		"replicas": replicas, "selector": map[string]any{"matchLabels": map[string]any{"app": "many"}}}))
	s.Kubectl(t, "-n", "shop", "rollout", "status", "deployment/many", "--timeout="+Patience.String())
	t.Logf("%d pods ready in %s", replicas, time.Since(begun).Round(time.Millisecond))
	ctx, cancel := context.WithTimeout(t.Context(), Patience)
	defer cancel()
	said, got := "", 0
	if err := lab.Poll(ctx, func() (done bool, err error) {
		said, err = s.C.Kubectl(ctx, "", "-n", "shop", "logs", "-l", "app=many", "-c", "app", "--max-log-requests", "60")
		got = strings.Count(said, `"reply":"outbound original_dst=203.0.113.10:443"`)
		return err == nil && got == replicas, nil
	}); err != nil {
		t.Errorf("the first connections of %d pods of %d were the proxy's (%v):\n%s", got, replicas, err, said)
	}
	s.Kubectl(t, "-n", "shop", "delete", "deployment", "many", "--cascade=foreground", "--wait")

	job := strings.Replace(meshed("once", ""), `"203.0.113.10:443"]`, `"203.0.113.10:443", --exit]`, 1)
	job, _, _ = strings.Cut(job, "    - name: web\n") // it would never end
	s.Apply(t, workload(t, job+"  restartPolicy: Never\n", "batch/v1", "Job", map[string]any{"backoffLimit": 0}))
	s.Kubectl(t, "-n", "shop", "wait", "job/once", "--for=condition=Complete", "--timeout="+Patience.String())
	if said := s.Kubectl(t, "-n", "shop", "logs", "job/once", "-c", "app"); !strings.Contains(said, `"reply":"outbound original_dst=203.0.113.10:443"`) {
		t.Errorf("the Job's first connection ended elsewhere: %s", said)
	}
	s.Kubectl(t, "-n", "shop", "delete", "job", "once", "--cascade=foreground", "--wait")
}

// A pod of the node's network is left alone, and the node's own connections with it.
func (s *story) hostNetwork(t *testing.T) {
	// Pod Security's level of tenants forbids it.
	s.Kubectl(t, "create", "namespace", "node")
	pod := strings.NewReplacer("namespace: shop", "namespace: node", "spec:\n", "spec:\n  hostNetwork: true\n").Replace(plain("host"))
	s.Apply(t, pod)
	s.Kubectl(t, "-n", "node", "wait", "pod/host", "--for=condition=Ready", "--timeout="+Patience.String())
	if status := s.Kubectl(t, "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "status"); strings.Contains(status, "node/host") {
		t.Errorf("meshnetd has something to do with it:\n%s", status)
	}
	s.Kubectl(t, "delete", "namespace", "node")
}

// The proxy speaks both families, and both are the proxy's in both directions.
func (s *story) twoFamilies(t *testing.T) {
	pod := after(t, meshed("families", ""), "  containers:\n", fill("", "", `
    - {name: app6, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "[2001:db8::10]:443"], securityContext: APP}
    - {name: web6, image: IMAGE, imagePullPolicy: Never, args: [serve, "[::]:8080", app], securityContext: APP}
`[1:]))
	s.Apply(t, dualStack(t, pod))
	s.Ready(t, "families")
	s.byTheProxy(t, "families")
	s.Wait(t, `"reply":"outbound original_dst=[2001:db8::10]:443"`, "-n", "shop", "logs", "families", "-c", "app6")
	for _, addr := range s.podIPs(t, "families") {
		target := netip.AddrPortFrom(addr, 8080)
		s.Apply(t, strings.Replace(plain("client"), "[pause]", fmt.Sprintf("[connect, tcp, %q]", target), 1))
		s.Wait(t, `"reply":"app peer=`, "-n", "shop", "logs", "client") // the proxy passes it on
		s.Kubectl(t, "-n", "shop", "delete", "pod", "client", "--now")
		s.Wait(t, fmt.Sprintf(`"original_dst":"%s"`, target), "-n", "shop", "logs", "families", "-c", "istio-proxy")
	}
	s.Kubectl(t, "-n", "shop", "delete", "pod", "families", "--now")
}

// With a native sidecar an init container of the pod's own comes after the proxy, and is of the mesh already.
func (s *story) initContainer(t *testing.T) {
	s.Apply(t, after(t, meshed("prepared", ""), "args: [proxy, --passthrough], securityContext: "+security(1337)+"}\n",
		fill("", "", `    - {name: prepare, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "203.0.113.10:443", --exit], securityContext: APP}
`)))
	s.Ready(t, "prepared")
	if said := s.Kubectl(t, "-n", "shop", "logs", "prepared", "-c", "prepare"); !strings.Contains(said, `"reply":"outbound original_dst=203.0.113.10:443"`) {
		t.Errorf("the init container's connection ended elsewhere: %s", said)
	}
	s.byTheProxy(t, "prepared")
	s.Kubectl(t, "-n", "shop", "delete", "pod", "prepared", "--now")
}

// workload makes the pod a template of something that makes pods.
func workload(t *testing.T, pod, version, kind string, spec map[string]any) string {
	t.Helper()
	var p map[string]any
	if err := yaml.Unmarshal([]byte(pod), &p); err != nil {
		t.Fatal(err)
	}
	metadata := p["metadata"].(map[string]any)
	name := metadata["name"]
	spec["template"] = map[string]any{"spec": p["spec"],
		"metadata": map[string]any{"annotations": metadata["annotations"], "labels": map[string]any{"app": name}}}
	text, err := yaml.Marshal(map[string]any{"apiVersion": version, "kind": kind, "spec": spec,
		"metadata": map[string]any{"name": name, "namespace": metadata["namespace"]}})
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
