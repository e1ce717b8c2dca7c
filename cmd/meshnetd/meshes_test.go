// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"path/filepath"
	"strings"
	"testing"
)

const linkerdsPod = `apiVersion: v1
kind: Pod
metadata:
  name: cart
  namespace: shop
  labels: {linkerd.io/control-plane-ns: linkerd}
  annotations: {linkerd.io/proxy-version: x}
spec:
  containers: [{name: app}, {name: linkerd-proxy}]
status:
  podIPs: [{ip: 10.0.0.7}]
`

func TestTheMeshIsNamed(t *testing.T) {
	twice := strings.Replace(strings.Replace(linkerdsPod, "annotations: {", `annotations: {sidecar.istio.io/status: "{}", `, 1), "[{name: app}", "[{name: istio-proxy}, {name: app}", 1)
	for _, tt := range []struct {
		name, pod string
		args      []string
		code      int
		want      []string
	}{
		{"plan", linkerdsPod, []string{"plan"}, 0, []string{"mesh: linkerd\ndecision: redirect (injected: "}},
		{"json", linkerdsPod, []string{"plan", "-o", "json"}, 0, []string{`"mesh": "linkerd"`, "PROXY_INIT_OUTPUT"}},
		{"explain", linkerdsPod, []string{"explain"}, 0, []string{"mesh: linkerd\n", "1. istio: skip (not-injected): ", "inboundPort", "4143"}},
		{"twice", twice, []string{"plan"}, exitRefused, []string{"mesh: -\ndecision: reject (two-meshes: istio and linkerd claim the pod"}},
		{"twice, explained", twice, []string{"explain"}, exitRefused, []string{"mesh: -\n", "istio: redirect (injected)", "linkerd: redirect (injected)", "reject (two-meshes): "}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			code, out, err := execute(t, tt.pod, append(tt.args, "-f", "-", "--config", testdata("default.toml"))...)
			if code != tt.code || err != nil && tt.code == 0 {
				t.Errorf("exit %d, want %d: %v", code, tt.code, err)
			}
			for _, want := range tt.want {
				if !strings.Contains(out, want) {
					t.Errorf("no %q in\n%s", want, out)
				}
			}
		})
	}
}

// The example of a static profile is good, and selects its pod.
func TestStaticExample(t *testing.T) {
	example := func(name string) string { return filepath.Join("..", "..", "examples", name) }
	code, out, err := execute(t, "", "explain", "-f", example("static.yaml"), "--config", example("static.toml"))
	if code != 0 || err != nil {
		t.Fatalf("exit %d: %v", code, err)
	}
	for _, want := range []string{"mesh: house\ndecision: redirect (selected: ", "static profile house", "--uid-owner 4000 -j RETURN",
		"--dports 16020 -j RETURN", "--to-ports 16001", "-d 169.254.0.0/16", "does not go through the proxy"} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in\n%s", want, out)
		}
	}
}
