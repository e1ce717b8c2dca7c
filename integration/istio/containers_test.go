// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"fmt"
	"strings"
	"testing"
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
