// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"context"
	"fmt"
	"os"
	"os/exec"
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

// told is a cluster whose kubelet tells its pods, or does not, to a meshnetd without the host's process ids.
type told struct {
	*Steps
	ctx     context.Context
	gate    bool
	program string
	config  string
	d       *lab.Daemon
}

func podsAPI(t *testing.T, gate bool) {
	s := &told{Steps: &Steps{C: Run(t, fmt.Sprintf("--feature-gates=PodsAPI=%t", gate))}, gate: gate}
	var cancel context.CancelFunc
	s.ctx, cancel = context.WithTimeout(t.Context(), 2*Patience)
	defer cancel()
	s.config = fmt.Sprintf("kubelet.pods_api = %q\nbypass.privileged = \"refuse\"\nbypass.exempt = [\"shop\"]\nruntime_handlers = [\"\"]\n[[policy]]\nnamespaces = [\"shop\"]\nmay_loosen = true\n",
		filepath.Join(s.C.path("kubelet"), "pods-api", "pods-api.sock"))
	s.run(t)
	defer s.d.Kill()
	if gate {
		s.said(t, "kubelet_known", "")
	} else {
		s.said(t, "kubelet_lost", "")
	}
	s.Kubectl(t, "create", "namespace", "shop")
	s.Kubectl(t, "create", "namespace", "strict")
	t.Run("users", s.users)
	t.Run("ports", s.ports)
	t.Run("host network", s.hostNetwork)
	t.Run("runtime class", s.runtimeClass)
	if gate {
		t.Run("init containers", s.initContainers)
		t.Run("ways around", s.waysAround)
		t.Run("impostors", s.impostors)
	}
}

// run runs the daemon in a PID namespace of its own, as a container's is.
func (s *told) run(t *testing.T) {
	t.Helper()
	program, err := lab.Build(s.ctx, "meshnetd", "./cmd/meshnetd")
	if err != nil {
		t.Fatal(err)
	}
	s.program = program
	apart := filepath.Join(t.TempDir(), "apart")
	script := fmt.Sprintf("#!/bin/sh\nexec unshare --pid --fork --kill-child --mount-proc --propagation slave %q \"$@\"\n", program)
	if err := os.WriteFile(apart, []byte(script), 0o700); err != nil {
		t.Fatal(err)
	}
	if s.d, err = s.C.Lab().RunDaemon(s.ctx, apart, s.config); err != nil {
		t.Fatal(err)
	}
}

// said waits until the daemon says an event, of a pod or of none.
func (s *told) said(t *testing.T, event, pod string) lab.Line {
	t.Helper()
	line, err := s.d.Wait(s.ctx, func(l lab.Line) bool { return l.Event == event && (pod == "" || l.Pod == pod) })
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// times counts the events of a pod, or of all.
func (s *told) times(event, pod string) (n int) {
	for line := range strings.Lines(s.d.Log()) {
		if strings.Contains(line, fmt.Sprintf(`"event":%q`, event)) && strings.Contains(line, pod) {
			n++
		}
	}
	return n
}

func (s *told) status(t *testing.T) status.Status {
	t.Helper()
	node, err := status.Read(s.ctx, s.socket())
	if err != nil {
		t.Fatal(err)
	}
	return node
}

func (s *told) socket() string { return filepath.Join(s.C.Lab().Dir(), "meshnetd.sock") }

// plan returns what `meshnetd plan` says of a pod as the API server has it.
func (s *told) plan(t *testing.T, pod string) string {
	t.Helper()
	config := filepath.Join(t.TempDir(), "meshnetd.toml")
	if err := os.WriteFile(config, []byte(s.config), 0o600); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(s.ctx, s.program, "plan", "--config", config, "-f", "-")
	cmd.Stdin = strings.NewReader(s.Kubectl(t, "-n", "shop", "get", "pod", pod, "-o", "yaml"))
	out, err := cmd.CombinedOutput() // it ends with an error where the pod would be refused
	if len(out) == 0 {
		t.Fatal(err)
	}
	return string(out)
}

// The proxy's own user, which its container alone says, is in the first rules of ordinary and static pods.
func (s *told) users(t *testing.T) {
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
	if err := lab.Poll(s.ctx, func() (done bool, err error) {
		whole := 0
		for _, sb := range s.status(t).Sandboxes {
			plan, err := status.ReadPlan(s.ctx, s.socket(), sb.ID)
			if err == nil && strings.Contains(fmt.Sprint(plan), "--uid-owner 4242") {
				whole++
			}
		}
		return whole == ordinaryPods+staticPods, nil
	}); err != nil {
		t.Fatalf("%v\n%s", err, s.d.Log())
	}
	if refined := s.times("pod_refined", ""); s.gate && refined > 0 || !s.gate && refined == 0 {
		t.Errorf("rules were written again for %d pods", refined)
	}
	k := s.status(t).Kubelet
	t.Logf("of %d ordinary and %d static pods %d were known at RunPodSandbox, %d were asked for, %d were not told", ordinaryPods, staticPods, k.Known, k.Asked, k.Unanswered)
	if told := k.Known + k.Asked; s.gate && told < ordinaryPods+staticPods || !s.gate && told > 0 {
		t.Errorf("%d pods were told", told)
	}
}
