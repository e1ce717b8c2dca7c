// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/status"
)

// classic is a pod as the injector leaves it with a classic sidecar, whose proxy has a user of its own: the app comes first.
func classic(name string, proxy int, more string) string {
	return strings.NewReplacer("OWN", security(proxy), "MORE", more).Replace(fill(name, "", `
apiVersion: v1
kind: Pod
metadata:
  name: NAME
  namespace: shop
  annotations:
    sidecar.istio.io/status: '{"containers":["istio-proxy"],"revision":"default"}'
    required-plugins.noderesource.dev: '["meshnetd"]'
spec:
  automountServiceAccountToken: false
  terminationGracePeriodSeconds: 1
  MORE
  containers:
    - {name: app, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "203.0.113.10:443"], securityContext: APP}
    - {name: istio-proxy, image: IMAGE, imagePullPolicy: Never, command: [/usr/local/bin/pilot-agent], args: [proxy, --passthrough], securityContext: OWN}
`))
}

// How many pods of each kind are started.
const ordinaryPods, staticPods = 20, 5

// With the kubelet's Pods API a pod is known before its first container; without it, all is as it was. The API is a gate of
// the kubelet's, so that one kubelet shows both.
func TestPodsAPI(t *testing.T) {
	for _, gate := range []bool{true, false} {
		t.Run(fmt.Sprintf("PodsAPI=%t", gate), func(t *testing.T) { podsAPI(t, gate) })
	}
}

func podsAPI(t *testing.T, gate bool) {
	s := &Steps{C: Run(t, fmt.Sprintf("--feature-gates=PodsAPI=%t", gate))}
	program, err := lab.Build(t.Context(), "meshnetd", "./cmd/meshnetd")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(s.C.path("kubelet"), "pods-api", "pods-api.sock")
	ctx, cancel := context.WithTimeout(t.Context(), 2*Patience)
	defer cancel()
	d, err := s.C.Lab().RunDaemon(ctx, program, fmt.Sprintf("kubelet.pods_api = %q\nbypass.privileged = \"refuse\"\nbypass.exempt = [\"shop\"]\n", socket))
	if err != nil {
		t.Fatal(err)
	}
	defer d.Kill()
	first := "kubelet_lost"
	if gate {
		first = "kubelet_known"
	}
	said := func(event, pod string) lab.Line {
		t.Helper()
		line, err := d.Wait(ctx, func(l lab.Line) bool { return l.Event == event && (pod == "" || l.Pod == pod) })
		if err != nil {
			t.Fatal(err)
		}
		return line
	}
	said(first, "")
	s.Kubectl(t, "create", "namespace", "shop")
	var ordinary strings.Builder
	for i := range ordinaryPods {
		ordinary.WriteString("---" + classic(fmt.Sprintf("ordinary-%d", i), 4242, ""))
	}
	s.Apply(t, ordinary.String())
	for i := range staticPods {
		name := fmt.Sprintf("static-%d", i)
		if err := os.WriteFile(filepath.Join(s.C.path("static"), name+".yaml"), []byte(classic(name, 4242, "")), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	// With the proxy's own user, which its container alone says.
	meshnetd := filepath.Join(s.C.Lab().Dir(), "meshnetd.sock")
	var node status.Status
	if err := lab.Poll(ctx, func() (done bool, err error) {
		if node, err = status.Read(ctx, meshnetd); err != nil {
			return false, err
		}
		whole := 0
		for _, sb := range node.Sandboxes {
			plan, err := status.ReadPlan(ctx, meshnetd, sb.ID)
			if err == nil && strings.Contains(fmt.Sprint(plan), "--uid-owner 4242") {
				whole++
			}
		}
		return whole == ordinaryPods+staticPods, nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, d.Log())
	}
	if refined := strings.Count(d.Log(), `"pod_refined"`); gate && refined > 0 || !gate && refined == 0 {
		t.Errorf("rules were written again for %d pods", refined)
	}
	k := node.Kubelet
	t.Logf("of %d ordinary and %d static pods %d were known at RunPodSandbox, %d were asked for, %d were not told", ordinaryPods, staticPods, k.Known, k.Asked, k.Unanswered)
	if told := k.Known + k.Asked; gate && told < ordinaryPods+staticPods || !gate && told > 0 {
		t.Errorf("%d pods were told", told)
	}
	if !gate {
		return
	}
	s.Apply(t, classic("migrating", 1337, fill("", "", `initContainers: [{name: migrate, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "203.0.113.10:443", --exit], securityContext: APP}]`)))
	said("pod_protected", "shop/migrating")
	if !strings.Contains(d.Log(), "init container migrate runs before the proxy does") { // one of its notes
		t.Error("nobody says that an init container reaches nothing")
	}
	s.Apply(t, strings.Replace(classic("powerful", 1337, ""), "drop: [ALL]", "drop: [ALL], add: [NET_ADMIN]", 1))
	if line := said("pod_can_bypass", "shop/powerful"); !strings.Contains(line.Message, "container app (net_admin)") {
		t.Errorf("said: %s", line.Message)
	}
	s.Kubectl(t, "create", "namespace", "strict")
	s.Apply(t, strings.Replace(strings.Replace(classic("refused", 1337, ""), "drop: [ALL]", "drop: [ALL], add: [NET_ADMIN]", 1), "namespace: shop", "namespace: strict", 1))
	if line := said("pod_blocked", "strict/refused"); line.Reason != "bypass" {
		t.Errorf("blocked for %s", line.Reason)
	}
	s.Apply(t, classic("impostor", 1000, "")) // the app's user is the proxy's
	if line := said("pod_blocked", "shop/impostor"); !strings.Contains(line.Message+line.Error, "container app runs as user 1000") {
		t.Errorf("blocked for %s: %s %s", line.Reason, line.Message, line.Error)
	}
	s.Apply(t, classic("host", 1337, "hostNetwork: true"))
	if line := said("pod_skipped", "shop/host"); line.Reason != "host-network" {
		t.Errorf("skipped for %s", line.Reason)
	}
}
