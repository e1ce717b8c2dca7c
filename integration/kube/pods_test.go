// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// security is what Pod Security's level "restricted" asks of a container.
func security(id int) string {
	return fmt.Sprintf("{runAsUser: %d, runAsGroup: %d, runAsNonRoot: true, allowPrivilegeEscalation: false, "+
		"capabilities: {drop: [ALL]}, seccompProfile: {type: RuntimeDefault}}", id, id)
}

// meshed is a pod as Istio's injector leaves it in CNI mode with native sidecars, with the stand-in for its images.
// annotation is one more, "key: value", or nothing.
func meshed(name, annotation string) string {
	return fill(name, annotation, `
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  namespace: shop
  annotations:
    sidecar.istio.io/status: '{"initContainers":["istio-validation","istio-proxy"],"containers":null,"revision":"default"}'
    sidecar.istio.io/interceptionMode: REDIRECT
    traffic.sidecar.istio.io/excludeInboundPorts: "15020"
    required-plugins.noderesource.dev: '["meshnetd"]'
    ANNOTATION
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  initContainers:
    - {name: istio-validation, image: IMAGE, imagePullPolicy: Never, command: [/usr/local/bin/pilot-agent, istio-iptables], args: [validate], securityContext: PROXY}
    - {name: istio-proxy, image: IMAGE, imagePullPolicy: Never, restartPolicy: Always, command: [/usr/local/bin/pilot-agent], args: [proxy, --passthrough], securityContext: PROXY}
  containers:
    - {name: app, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "203.0.113.10:443"], securityContext: APP}
    - name: web
      image: IMAGE
      imagePullPolicy: Never
      args: [serve, "0.0.0.0:8080", app]
      securityContext: APP
      readinessProbe: {tcpSocket: {port: 8080}, periodSeconds: 1}
`)
}

// plain is a pod outside the mesh.
func plain(name string) string {
	return fill(name, "", `
apiVersion: v1
kind: Pod
metadata: {name: NAME, namespace: shop}
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  containers:
    - {name: app, image: IMAGE, imagePullPolicy: Never, args: [pause], securityContext: APP}
`)
}

func fill(name, annotation, manifest string) string {
	return strings.NewReplacer("NAME", name, "IMAGE", lab.Image, "ANNOTATION", annotation,
		"PROXY", security(1337), "APP", security(1000)).Replace(manifest)
}

// after puts more behind a line of a manifest, which must have it.
func after(t *testing.T, manifest, line, more string) string {
	t.Helper()
	if !strings.Contains(manifest, line) {
		t.Fatalf("no %q in\n%s", line, manifest)
	}
	return strings.Replace(manifest, line, line+more, 1)
}

// dualStack has the proxy say that it speaks both families.
func dualStack(t *testing.T, manifest string) string {
	t.Helper()
	return after(t, manifest, "args: [proxy, --passthrough]", `, env: [{name: ISTIO_DUAL_STACK, value: "true"}]`)
}

// podIPs returns the addresses of a pod of the shop.
func (s *story) podIPs(t *testing.T, pod string) []netip.Addr {
	t.Helper()
	var status struct {
		Status struct{ PodIPs []struct{ IP netip.Addr } }
	}
	if err := json.Unmarshal([]byte(s.Kubectl(t, "-n", "shop", "get", "pod", pod, "-o", "json")), &status); err != nil {
		t.Fatal(err)
	}
	var all []netip.Addr
	for _, ip := range status.Status.PodIPs {
		all = append(all, ip.IP)
	}
	if len(all) != 2 {
		t.Fatalf("%s has the addresses %v, want one of each family", pod, all)
	}
	return all
}
