// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/status"
)

// A classic sidecar's ports, which istio-validation's arguments say where a policy lets them, and the DNS capture of the proxy's
// environment, are in the first rules: they are written once. Where none lets them, the pod is refused.
func (s *told) ports(t *testing.T) {
	validation := fill("", "", `initContainers: [{name: istio-validation, image: IMAGE, imagePullPolicy: Never, command: [/usr/local/bin/pilot-agent, istio-iptables], args: [validate, -p, "15301", -z, "15306"], securityContext: PROXY}]`)
	pod := after(t, classic("ports", 1337, validation), `status: '{`, `"initContainers":["istio-validation"],`)
	pod = after(t, pod, `"203.0.113.10:443"`, ", --exit") // and once more, when the proxy listens
	pod = after(t, pod, "args: [proxy, --passthrough", `, --outbound, "15301", --inbound, "15306"], env: [{name: ISTIO_META_DNS_CAPTURE, value: "true"}`)
	s.Apply(t, pod+"---"+strings.Replace(pod, "namespace: shop", "namespace: strict", 1))
	s.Wait(t, `"reply":"outbound original_dst=203.0.113.10:443"`, "-n", "shop", "logs", "ports", "-c", "app")
	plan, err := status.ReadPlan(s.ctx, s.socket(), s.sandbox(t, "ports").ID)
	if err != nil {
		t.Fatal(err)
	}
	for _, port := range []string{"15301", "15306", "15053"} {
		if !strings.Contains(fmt.Sprint(plan), port) {
			t.Errorf("no rule has port %s", port)
		}
	}
	if line := s.said(t, "pod_blocked", "strict/ports"); line.Reason != "loosened" {
		t.Errorf("blocked for %s", line.Reason)
	}
	if again := s.times("pod_refined", "shop/ports"); s.gate && again > 0 || !s.gate && again == 0 {
		t.Errorf("its rules were written again %d times", again)
	}
}

// Without the host's process ids nothing but the kubelet tells that a pod has the host's network.
func (s *told) hostNetwork(t *testing.T) {
	s.Apply(t, classic("host", 1337, "hostNetwork: true"))
	if !s.gate {
		s.said(t, "pod_blocked", "shop/host")
	} else if line := s.said(t, "pod_skipped", "shop/host"); line.Reason != "host-network" {
		t.Errorf("skipped for %s", line.Reason)
	}
	s.Kubectl(t, "-n", "shop", "delete", "pod", "host", "--now", "--wait=false")
}

// A pod's class is its handler's for `meshnetd plan`, as for the daemon.
func (s *told) runtimeClass(t *testing.T) {
	s.Apply(t, "{apiVersion: node.k8s.io/v1, kind: RuntimeClass, metadata: {name: runc}, handler: runc}")
	s.Apply(t, classic("class", 1337, "runtimeClassName: runc"))
	if line := s.said(t, "pod_blocked", "shop/class"); line.Reason != "runtime-handler" {
		t.Errorf("blocked for %s", line.Reason)
	}
	if said := s.plan(t, "class"); !strings.Contains(said, `runtime handler "runc" is not one of runtime_handlers`) {
		t.Errorf("the plan says\n%s", said)
	}
	s.Kubectl(t, "-n", "shop", "delete", "pod", "class", "--now", "--wait=false")
}

// An init container that runs before the proxy reaches nothing, and the pod's event and plan say it.
func (s *told) initContainers(t *testing.T) {
	s.Apply(t, classic("migrating", 1337, fill("", "", `initContainers: [{name: migrate, image: IMAGE, imagePullPolicy: Never, args: [connect, tcp, "203.0.113.10:443", --exit], securityContext: APP}]`)))
	s.said(t, "pod_protected", "shop/migrating")
	for what, said := range map[string]string{"event": s.d.Log(), "plan": s.plan(t, "migrating")} { // it is one of the event's notes
		if !strings.Contains(said, "init container migrate runs before the proxy does") {
			t.Errorf("its %s does not say it", what)
		}
	}
}

// What goes around a pod's rules is said before it is created, or refused; status and metrics have it.
func (s *told) waysAround(t *testing.T) {
	const none = "allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}"
	given := func(name, powers string) string { return strings.Replace(classic(name, 1337, ""), none, powers, 1) }
	ways := map[string]string{
		"net_admin":  given("net-admin", "capabilities: {drop: [ALL], add: [NET_ADMIN]}"),
		"net_raw":    given("net-raw", "capabilities: {drop: [ALL], add: [NET_RAW]}"),
		"privileged": given("privileged", "privileged: true"),
		"host_pid":   classic("host-pid", 1337, "hostPID: true"),
	}
	for way, pod := range ways {
		s.Apply(t, pod)
		name, want := strings.ReplaceAll(way, "_", "-"), "container app ("+way+")"
		if line := s.said(t, "pod_can_bypass", "shop/"+name); !strings.Contains(line.Message, want) {
			t.Errorf("said of %s: %s", name, line.Message)
		}
		if told := s.sandbox(t, name).CanBypass; !strings.Contains(told, want) {
			t.Errorf("status says of %s: %q", name, told)
		}
	}
	metrics := s.metrics(t)
	for way := range ways {
		if want := fmt.Sprintf("meshnetd_sandboxes_can_bypass{way=%q} 1\n", way); !strings.Contains(metrics, want) {
			t.Errorf("no %s", want)
		}
	}
	s.Apply(t, strings.Replace(given("refused", "capabilities: {drop: [ALL], add: [NET_ADMIN]}"), "namespace: shop", "namespace: strict", 1))
	if line := s.said(t, "pod_blocked", "strict/refused"); line.Reason != "bypass" {
		t.Errorf("blocked for %s", line.Reason)
	}
}

// sandbox is that of a pod of the shop.
func (s *told) sandbox(t *testing.T, name string) status.Sandbox {
	t.Helper()
	all := s.status(t).Sandboxes
	at := slices.IndexFunc(all, func(sb status.Sandbox) bool { return sb.Namespace == "shop" && sb.Name == name })
	if at < 0 {
		t.Fatalf("%s is none of %v", name, all)
	}
	return all[at]
}

func (s *told) metrics(t *testing.T) string {
	t.Helper()
	text, err := lab.Metrics(t.Context(), s.socket())
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// The proxy's user is nobody else's.
func (s *told) impostors(t *testing.T) {
	s.Apply(t, classic("impostor", 1000, "")) // the app's user is the proxy's
	if line := s.said(t, "pod_blocked", "shop/impostor"); !strings.Contains(line.Message+line.Error, "container app runs as user 1000") {
		t.Errorf("blocked for %s: %s %s", line.Reason, line.Message, line.Error)
	}
}
