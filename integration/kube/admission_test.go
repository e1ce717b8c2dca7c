// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// marked is a pod of a mesh for which no scheduler comes: it stays as its author made it.
func marked(name, annotations, labels string) string {
	return fill(name, "", fmt.Sprintf(`
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  namespace: shop
  annotations: {required-plugins.noderesource.dev: '["meshnetd"]', %s}
  labels: {%s}
spec:
  schedulerName: nobody
  automountServiceAccountToken: false
  containers: [{name: app, image: IMAGE, imagePullPolicy: Never, args: [pause], securityContext: APP}]
`, annotations, labels))
}

// What a pod's author may do to it after it was let in, by each of the ways in which the API server takes annotations:
// the pod, its status, and both kinds of bindings.
func TestAdmission(t *testing.T) {
	c := Run(t)
	kubectl := func(input string, args ...string) error {
		out, err := c.Kubectl(t.Context(), input, args...)
		if err != nil {
			err = fmt.Errorf("%w\n%s", err, out)
		}
		return err
	}
	must := func(input string, args ...string) {
		t.Helper()
		if err := kubectl(input, args...); err != nil {
			t.Fatal(err)
		}
	}
	must("", "create", "namespace", "shop")
	const injected = `sidecar.istio.io/status: "{}"`
	pods := map[string]struct{ annotations, labels, change string }{
		"istio":   {injected, "", "sidecar.istio.io/inject"},
		"opt-in":  {`istio-pod-network-controller/initialize: "true"`, "", "istio-pod-network-controller/initialize"},
		"consul":  {`consul.hashicorp.com/connect-inject-status: injected, consul.hashicorp.com/transparent-proxy-status: enabled, consul.hashicorp.com/redirect-traffic-config: "{}"`, "", "consul.hashicorp.com/redirect-traffic-config"},
		"kuma":    {`kuma.io/sidecar-injected: "true", traffic.kuma.io/transparent-proxy-config: "cniMode: true"`, "", "traffic.kuma.io/transparent-proxy-config"},
		"linkerd": {"linkerd.io/proxy-version: v1", "linkerd.io/control-plane-ns: linkerd", "config.linkerd.io/skip-outbound-ports"},
	}
	bind := func(pod, annotation string) (manifest string) {
		return fmt.Sprintf(`{"apiVersion":"v1","kind":"Binding","metadata":{"name":%q,"namespace":"shop","annotations":{%q:"x"}},"target":{"kind":"Node","name":%q}}`, pod, annotation, Node)
	}
	// attacks are what is tried on a pod that is there, none of which is to last.
	attacks := func(pod, key string) map[string]func() error {
		return map[string]func() error{
			"annotate": func() error {
				return kubectl("", "-n", "shop", "annotate", "--overwrite", "--dry-run=server", "pod", pod, key+"=x")
			},
			"by its status": func() error {
				return kubectl("", "-n", "shop", "patch", "--dry-run=server", "pod", pod, "--subresource=status", "--type=merge", "-p", fmt.Sprintf(`{"metadata":{"annotations":{%q:"x"}}}`, key))
			},
			"by a binding of the pod": func() error {
				return kubectl(bind(pod, key), "create", "--raw", "/api/v1/namespaces/shop/pods/"+pod+"/binding?dryRun=All", "-f", "-")
			},
			"by a binding": func() error {
				return kubectl(bind(pod, key), "create", "--raw", "/api/v1/namespaces/shop/bindings?dryRun=All", "-f", "-")
			},
		}
	}
	for name, pod := range pods {
		must(marked(name, pod.annotations, pod.labels), "apply", "-f", "-")
		for way, attack := range attacks(name, pod.change) {
			if err := attack(); err != nil {
				t.Errorf("%s %s: it is no attack without the policy: %v", name, way, err)
			}
		}
	}
	must("", "apply", "--validate=strict", "-f", filepath.Join(Root(t), "packaging", "admission"))
	bare := strings.Replace(marked("bare", injected, ""), `required-plugins.noderesource.dev: '["meshnetd"]', `, "", 1)
	heavy := strings.Replace(marked("heavy", "a: b", ""), "args: [pause]", "args: [pause, "+strings.Repeat("x", 256<<10)+"]", 1)
	impostor := strings.Replace(marked("impostor", injected, ""), "securityContext: "+security(1000), "securityContext: "+security(1337), 1)
	// The policies are in force some moments after they are there.
	for manifest, want := range map[string]string{bare: "a pod of the mesh needs the annotation", heavy: "more than 256 KiB of environment",
		impostor: "a container runs as the mesh's proxy without being it"} {
		ctx, cancel := context.WithTimeout(t.Context(), Patience)
		defer cancel()
		if err := lab.Poll(ctx, func() (bool, error) {
			err := kubectl(manifest, "create", "--dry-run=server", "-f", "-")
			return err != nil && strings.Contains(err.Error(), want), nil
		}); err != nil {
			t.Fatalf("a pod is not refused with %q: %v", want, err)
		}
	}
	large := strings.Replace(marked("large", "a: b", ""), "args: [pause]", "env: ["+strings.Repeat("{name: A, value: $(B)}, {name: B, value: c}, ", 16)+
		strings.Repeat("{name: X, value: "+strings.Repeat("x", 10<<10)+"}, ", 20)+"], args: [pause]", 1)
	must(large, "create", "--dry-run=server", "-f", "-")
	for name, pod := range pods {
		for way, attack := range attacks(name, pod.change) {
			if err := attack(); err == nil || !strings.Contains(err.Error(), "ValidatingAdmissionPolicy 'meshnetd-required-plugin'") {
				t.Errorf("%s %s: %v", name, way, err)
			}
		}
		manifest := strings.Replace(marked(name+"-2", pod.annotations, pod.labels), `required-plugins.noderesource.dev: '["meshnetd"]', `, "", 1)
		if err := kubectl(manifest, "create", "--dry-run=server", "-f", "-"); err == nil || !strings.Contains(err.Error(), "a pod of the mesh needs the annotation") {
			t.Errorf("a pod of %s without the annotation: %v", name, err)
		}
		for way, attack := range attacks(name, "example.com/else") {
			if err := attack(); err != nil {
				t.Errorf("%s, something else %s: %v", name, way, err)
			}
		}
		must("", "-n", "shop", "label", "pod", name, "a=b")
		must("", "-n", "shop", "delete", "pod", name, "--now")
	}
	// A kubelet and a scheduler do their work as before.
	must(plain("plain"), "apply", "-f", "-")
	must("", "-n", "shop", "wait", "--for=condition=Ready", "--timeout=2m", "pod/plain")
	if types, err := c.Kubectl(t.Context(), "", "get", "validatingadmissionpolicies", "-o", "jsonpath={.items[*].status.typeChecking.expressionWarnings[*].fieldRef}"); err != nil {
		t.Error(err)
	} else if types != "" {
		t.Logf("types that could not be checked: %s", types)
	}
}
