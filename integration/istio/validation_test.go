// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/cri"
	"github.com/meshnetd/meshnetd/integration/kube"
)

// Where the runtime holds pods back by itself, they do without istio-validation: the first act of an app is the proxy's, and
// the admission policy lets nobody out of what holds it back.
func TestWithoutValidation(t *testing.T) {
	m := start(t)
	if said := m.Kubectl(t, "-n", "meshnetd-system", "exec", "ds/meshnetd", "--", "meshnetd", "status"); !strings.Contains(said, "guaranteed") {
		t.Errorf("the node's tier: %s", said)
	}
	if came := (cri.Client{Socket: m.C.Lab().Socket()}).Canary(t.Context(), appImage); came.Refused == "" {
		t.Errorf("the canary: %+v", came)
	}
	m.guide(t, "Without istio-validation")
	server := net.JoinHostPort(m.bridge[0].String(), outsidePort)
	sooner := pod{namespace: "shop", name: "sooner", args: []string{"first", "http://" + server + "/"}}
	wants := pod{namespace: "shop", name: "wants", annotations: map[string]string{"inject.istio.io/templates": "sidecar"}}
	m.run(t, sooner, wants)
	const containers = "jsonpath={.spec.initContainers[*].name}"
	if got := m.Kubectl(t, "-n", "shop", "get", "pod", "sooner", "-o", containers); got != "istio-proxy" {
		t.Errorf("the pod's init containers are %q", got)
	}
	if got := m.Kubectl(t, "-n", "shop", "get", "pod", "wants", "-o", containers); got != "istio-validation istio-proxy" {
		t.Errorf("with the template of before they are %q", got)
	}
	m.Wait(t, "answer: outside", "-n", "shop", "logs", "sooner", "-c", "app")
	m.lines(t, "sooner", "cluster=PassthroughCluster", "to="+server)
	m.protected(t, sooner, wants)

	for name, undone := range map[string]map[string]string{
		"pod":       {"required-plugins.noderesource.dev/pod": "[]"},
		"container": {"required-plugins.noderesource.dev/container.app": "[]"},
		"tolerate":  {"tolerate-missing-nri-plugins.noderesource.dev": "true"},
	} {
		p := pod{namespace: "shop", name: name, annotations: undone}
		m.WaitInput(t, "ValidatingAdmissionPolicy 'meshnetd-required-plugin'", p.manifest(), "create", "--dry-run=server", "-f", "-")
	}
	// Values that leave istio-validation out and do not ask for meshnetd give pods that the policy refuses.
	if err := m.install(t.Context(), t, "--set", "components.cni.enabled=true",
		"-f", filepath.Join(kube.Root(t), "packaging", "istio", "istioctl-without-validation.yaml")); err != nil {
		t.Fatal(err)
	}
	m.WaitInput(t, "a pod of the mesh needs the annotation", pod{namespace: "shop", name: "neither"}.manifest(), "create", "--dry-run=server", "-f", "-")
}
