// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/kube"
)

// What an init container does is the proxy's: beside a native sidecar it goes through, and before a classic one it fails.
func (m *mesh) initContainers() tenant {
	with := func(name, verb string, annotations map[string]string) pod {
		return pod{namespace: "shop", name: name, annotations: annotations, more: before(verb, m.outside(0, "18081")+name, restricted)}
	}
	native, alone := with("init-native", "get", nil), with("init-classic", "try", classic)
	return tenant{"init containers", []pod{native, alone}, func(t *testing.T) {
		m.lines(t, "init-native", "cluster=PassthroughCluster", "to="+m.outsideAddress(0, "18081"))
		m.Wait(t, "connection refused", "-n", "shop", "logs", "init-classic", "-c", "before")
		if served, err := m.C.Log("outside"); err != nil || !strings.Contains(served, "/init-native") || strings.Contains(served, "/init-classic") {
			t.Errorf("outside was asked (%v):\n%s", err, served)
		}
	}}
}

// before is an init container that gets a page.
func before(verb, url, security string) string {
	return fmt.Sprintf("  initContainers:\n    - {name: before, image: %s, imagePullPolicy: Never, args: [%s, %q], securityContext: %s}\n", appImage, verb, url, security)
}

// An init container that runs as the proxy's user, Istio's own way around a classic sidecar, is refused where the node does not
// allow it, and its author reads why.
func (m *mesh) asProxy(t *testing.T) {
	m.create(t, pod{namespace: "shop", name: "as-proxy", annotations: classic,
		more: before("get", m.outside(0, "18081")+"as-proxy", strings.ReplaceAll(restricted, "1000", "1337"))})
	m.Wait(t, "container before runs as user 1337 and group 1337, as the proxy does", "-n", "shop", "describe", "pod", "as-proxy")
	if served, err := m.C.Log("outside"); err != nil || strings.Contains(served, "/as-proxy") {
		t.Errorf("it went around (%v)", err)
	}
}

// The kubelet's probes get to the app: by the agent, which asks for it, or through the proxy.
func (m *mesh) probes() tenant {
	const probe = "readinessProbe: {httpGet: {path: /%s, port: 8080}, periodSeconds: 1}"
	rewritten := pod{namespace: "shop", name: "rewritten", container: fmt.Sprintf(probe, "rewritten")}
	as := pod{namespace: "shop", name: "as-written", container: fmt.Sprintf(probe, "as-written"), annotations: map[string]string{"sidecar.istio.io/rewriteAppHTTPProbers": "false"}}
	return tenant{"probes", []pod{rewritten, as}, func(t *testing.T) {
		m.lines(t, "as-written", "to="+m.address(t, as, 0)+":8080", "by="+m.bridge[0].String()+":")
		m.Wait(t, "/rewritten", "-n", "shop", "logs", "rewritten", "-c", "app")
		m.lines(t, "rewritten", m.inbound(t, rewritten, 0, "8080")...)
		m.none(t, "shop", "rewritten", "by="+m.bridge[0].String()+":")
	}}
}

// A proxy that runs as another user: its own traffic is let out, and the app's is not.
func (m *mesh) proxyUser() tenant {
	other := pod{namespace: "shop", name: "other", more: "    - {name: istio-proxy, image: auto, imagePullPolicy: Never, securityContext: {runAsUser: 4321, runAsGroup: 4321}}\n"}
	return tenant{"another proxy's user", []pod{other}, func(t *testing.T) {
		if user := m.Kubectl(t, "-n", "shop", "get", "pod", "other", "-o", `jsonpath={..initContainers[?(@.name=="istio-proxy")].securityContext.runAsUser}`); user != "4321" {
			t.Errorf("the proxy runs as %q", user)
		}
		m.passes(t, other, 0)
	}}
}

// Pods that start at once all have their rules before their first act.
func (m *mesh) atOnce() tenant {
	number, err := strconv.Atoi(os.Getenv("MESHNETD_ISTIO_PODS"))
	if err != nil {
		number = 10
	}
	var pods []pod
	for i := range number {
		name := fmt.Sprintf("at-once-%d", i)
		pods = append(pods, pod{namespace: "shop", name: name, args: []string{"first", webName + name}})
	}
	return tenant{fmt.Sprintf("%d at once", number), pods, func(t *testing.T) {
		for _, p := range pods {
			m.Wait(t, "answer: web", "-n", "shop", "logs", p.name, "-c", "app")
			m.lines(t, "web", "path=/"+p.name, "peer=spiffe://")
		}
	}}
}

// A container that is added to a running pod is of the mesh as well.
func (m *mesh) ephemeral(t *testing.T) {
	custom := filepath.Join(t.TempDir(), "container.yaml")
	if err := os.WriteFile(custom, []byte("{securityContext: "+restricted+"}"), 0o600); err != nil {
		t.Fatal(err)
	}
	m.Kubectl(t, "-n", "shop", "debug", "client", "--image="+appImage, "--image-pull-policy=Never", "--profile=restricted", "--custom="+custom,
		"-c", "added", "--", "/app", "first", m.outside(0, "18081")+"ephemeral")
	m.Wait(t, "answer: outside", "-n", "shop", "logs", "client", "-c", "added")
	m.lines(t, "client", "cluster=PassthroughCluster", "to="+m.outsideAddress(0, "18081"))
}

// A gateway is a proxy without an app: it has no rules, and asks others as one of the mesh.
func (m *mesh) gateway(t *testing.T) {
	gateway := pod{namespace: "shop", name: "gateway"}
	m.toTell(t, gateway)
	m.object(t, `
apiVersion: v1
kind: Pod
metadata: {name: gateway, namespace: shop, labels: {app: gateway}, annotations: {inject.istio.io/templates: gateway}}
spec:
  terminationGracePeriodSeconds: 1
  securityContext: {seccompProfile: {type: RuntimeDefault}}
  containers: [{name: istio-proxy, image: auto, imagePullPolicy: Never, securityContext: {runAsNonRoot: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}}}]
---
apiVersion: networking.istio.io/v1
kind: Gateway
metadata: {name: gateway, namespace: shop}
spec: {selector: {app: gateway}, servers: [{port: {number: 8088, name: http, protocol: HTTP}, hosts: ["*"]}]}
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata: {name: gateway, namespace: shop}
spec: {hosts: ["*"], gateways: [gateway], http: [{route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 8080}}}]}]}
`)
	m.Kubectl(t, "-n", "shop", "wait", "pod/gateway", "--for=condition=Ready", "--timeout="+kube.Patience.String())
	m.answered(t, "web peer=", "elsewhere", "plain", "http://"+m.address(t, gateway, 0)+":8088/by-gateway")
	m.lines(t, "gateway", "path=/by-gateway", "cluster=outbound|8080||web.shop.svc.cluster.local", "code=200")
	m.lines(t, "web", "path=/by-gateway", "peer=spiffe://cluster.local/ns/shop/sa/default")
	m.Wait(t, "not-a-sidecar", "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "explain", "shop/gateway")
}
