// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"strings"
	"testing"
)

// oncall is somebody who may ask, and nothing else. See plugin.
const oncall = "system:serviceaccount:shop:oncall"

// What an engineer on call asks of the whole cluster, who may read and not run anything; with the API server, its proxy and its
// Roles as they are.
func (s *story) plugin(t *testing.T) {
	s.Kubectl(t, "-n", "shop", "create", "serviceaccount", "oncall")
	s.Kubectl(t, "-n", "meshnetd-system", "create", "rolebinding", "oncall", "--role", "meshnetd-read", "--serviceaccount", "shop:oncall")
	s.Kubectl(t, "create", "clusterrolebinding", "oncall", "--clusterrole", "meshnetd-system-meshnetd-read", "--serviceaccount", "shop:oncall")
	s.Apply(t, meshed("web", "")+"---"+plain("plain"))
	s.Ready(t, "web")
	s.Ready(t, "plain")
	ask := func(args ...string) []string {
		return append([]string{"meshnetd", "--as", oncall, "-n", "shop"}, args...)
	}
	s.Wait(t, "guaranteed", ask("status")...) // the daemon before may have the port for some seconds more
	for _, tt := range []struct {
		want string
		args []string
	}{
		{"total", []string{"status"}},
		{"protected", []string{"pods"}},
		{"decision: redirect (injected", []string{"explain", "web"}},
		{"does not know this pod: this is decided by its manifest", []string{"explain", "plain"}},
		{"ends: to the proxy's outbound listener, port 15001", []string{"trace", "web", "tcp", "203.0.113.10:443"}},
		// What is decided of the API server's pod is what the daemon decided of the runtime's, to the last rule.
		{"0 new, 0 changed, 0 loosened, 0 refused, 1 unchanged", []string{"plan"}},
		{"pod_protected", []string{"events"}},
		{"meshnetd", []string{"version"}},
	} {
		if out := s.Kubectl(t, ask(tt.args...)...); !strings.Contains(out, tt.want) {
			t.Errorf("kubectl meshnetd %v: no %q in\n%s", tt.args, tt.want, out)
		}
	}
	s.Wait(t, "kubectl.exec makes the Role", ask("verify", "web")...)
	s.Kubectl(t, "-n", "meshnetd-system", "create", "rolebinding", "oncall-exec", "--role", "meshnetd-exec", "--serviceaccount", "shop:oncall")
	s.Wait(t, "the kernel holds the plan", ask("verify", "web")...)
	s.Wait(t, "node "+Node, ask("doctor")...)
	s.otherNodes(t, ask("status"))
	s.Kubectl(t, "-n", "shop", "delete", "pod", "web", "plain", "--now")
}

// otherNodes are one whose meshnetd is dead and one that never had any: both are named, and the rest is told.
func (s *story) otherNodes(t *testing.T, status []string) {
	t.Helper()
	const room = `{"pods": "10", "cpu": "2", "memory": "4Gi"}` // without any the scheduler gives a node nothing
	node := func(name, os string) string {
		return "apiVersion: v1\nkind: Node\nmetadata: {name: " + name + ", labels: {kubernetes.io/os: " + os + "}}\n"
	}
	s.Apply(t, node("dead", "linux")+"---\n"+node("by-systemd", "none"))
	s.Kubectl(t, "patch", "node", "dead", "--subresource=status", "-p", `{"status": {"capacity": `+room+`, "allocatable": `+room+`}}`)
	s.Wait(t, "dead", "-n", "meshnetd-system", "get", "pods", "-o", "wide") // the DaemonSet's pod, which nobody starts
	out, err := s.C.Kubectl(t.Context(), "", status...)
	if err == nil || !strings.Contains(out, "guaranteed") {
		t.Errorf("%v: %s", err, out)
	} else {
		for _, want := range []string{"exit status 1", "node dead: ", "node by-systemd: no pod of meshnetd is there", "nothing is known of 2 nodes"} {
			if !strings.Contains(err.Error(), want) {
				t.Errorf("no %q in %v", want, err)
			}
		}
	}
	s.Kubectl(t, "delete", "node", "dead", "by-systemd")
	s.Kubectl(t, "-n", "meshnetd-system", "delete", "pods", "--field-selector", "spec.nodeName=dead", "--force")
}
