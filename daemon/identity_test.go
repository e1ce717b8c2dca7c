// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// as is a container that runs something.
func as(name string, uid int64, args ...string) rules.Container {
	c := container(name, uid)
	c.Args = args
	return c
}

// An author chooses names: what passes as the proxy is what this pod's injector added, with what that runs.
func TestImpostorsOfEveryMesh(t *testing.T) {
	kuma := map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "cniMode: true"}
	gateway := map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "cniMode: true\nredirect: {inbound: {enabled: false}}"}
	consul := map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
		"consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001}`}
	linkerd := map[string]string{"linkerd.io/proxy-version": "x"}
	native := map[string]string{"sidecar.istio.io/status": `{"initContainers":["istio-proxy"],"containers":null}`}
	validator := []string{"/usr/bin/kumactl", "install", "transparent-proxy-validator"}
	for name, tt := range map[string]struct {
		annotations map[string]string
		container   rules.Container
		refused     bool
	}{
		"Istio's proxy":                     {native, as("istio-proxy", 1337, "/usr/local/bin/pilot-agent", "proxy", "sidecar"), false},
		"Istio's proxy runs a shell":        {native, as("istio-proxy", 1337, "/bin/sh", "-c", "pilot-agent proxy"), true},
		"Istio's validator, not added":      {native, as("istio-validation", 1337, "/usr/local/bin/pilot-agent", "istio-iptables"), true},
		"Istio's validator, as another":     {native, as("istio-validation", 1000, "/bin/sh"), false},
		"Kuma's proxy":                      {kuma, as("kuma-sidecar", 5678, "/usr/bin/kuma-dp", "run"), false},
		"Kuma's validator":                  {kuma, as("kuma-validation", 5678, validator...), false},
		"Kuma's validator runs a shell":     {kuma, as("kuma-validation", 5678, "/bin/sh"), true},
		"Kuma's validator, of a gateway":    {gateway, as("kuma-validation", 5678, validator...), true},
		"Istio's proxy in Kuma's pod":       {kuma, as("istio-proxy", 5678, "/usr/local/bin/pilot-agent", "proxy"), true},
		"Consul's proxy":                    {consul, as("consul-dataplane", 5995, "/usr/local/bin/dumb-init", "/usr/local/bin/consul-dataplane"), false},
		"Consul's proxy of old":             {consul, as("envoy-sidecar", 5995, "envoy"), true},
		"Linkerd's proxy":                   {linkerd, as("linkerd-proxy", 2102, "/usr/lib/linkerd/linkerd2-proxy-identity"), false},
		"Linkerd's validator, as the proxy": {linkerd, as("linkerd-network-validator", 2102, "/usr/lib/linkerd/linkerd2-network-validator"), true},
	} {
		t.Run(name, func(t *testing.T) {
			e, _ := severalMeshes(t, newMemory())
			ctx := limited(t, patience)
			pod := sandbox(t, "web")
			pod.Annotations = tt.annotations
			if _, ok := tt.annotations["linkerd.io/proxy-version"]; ok {
				pod.Labels = map[string]string{"linkerd.io/control-plane-ns": "linkerd"}
			}
			if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
				t.Fatalf("got %s, %v", o.Result, o.Err)
			}
			o := e.Admit(ctx, pod, tt.container)
			if refused := o.Error() != nil; refused != tt.refused || refused != (o.Impostor != "") {
				t.Errorf("refused: %t, %v", refused, o.Error())
			}
		})
	}
}

// The proxy's group among additional groups becomes a container's own by a setgid file.
func TestGroupsOfTheProxy(t *testing.T) {
	e, r := newEnforcer(t, newMemory())
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	member := app
	member.Groups = []uint32{1000, 1337}
	o := e.Admit(ctx, pod, member)
	if o.Error() == nil || !strings.Contains(o.Error().Error(), "as a pod's fsGroup or supplementalGroups make it") {
		t.Errorf("got %v", o.Error())
	}
	proxy := container("istio-proxy", 1337)
	proxy.Groups = []uint32{1337}
	if o := e.Admit(ctx, pod, proxy); o.Error() != nil {
		t.Error(o.Error())
	}
	p := *e.policy.Load()
	p.ProxyIdentity = config.IdentityReport
	e.SetPolicy(p)
	if o := e.Admit(ctx, pod, member); o.Error() != nil || o.Impostor == "" {
		t.Errorf("report: got %v", o.Error())
	}
	if got := r.events(); got[len(got)-1] != outcome.EventImpostor {
		t.Errorf("recorded %v", got)
	}
}

// The proxy does not come to run as a container which was let through before it: not as its user, not as one of its
// groups, and not because that has a name of the injector's.
func TestProxyAfterAnImpostor(t *testing.T) {
	for name, c := range map[string]rules.Container{
		"user":  as("app", 2000),
		"name":  as("istio-validation", 2000, "/bin/sh", "-c", strings.Repeat("x", 1<<16)),
		"group": {Name: "app", UID: new(int64(1)), GID: new(int64(1)), Groups: []uint32{2000}},
	} {
		t.Run(name, func(t *testing.T) {
			m := newMemory()
			e, _ := newEnforcer(t, m)
			ctx := limited(t, patience)
			pod := sandbox(t, "web")
			pod.Annotations = map[string]string{"sidecar.istio.io/status": `{"initContainers":["istio-validation","istio-proxy"]}`}
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			before := m.holds(t, pod.NetNS).Key()
			if name == "name" { // the injector's own name says as whom the proxy runs
				if o := e.Admit(ctx, pod, c); o.Error() == nil {
					t.Error("a shell was let through as istio-validation")
				}
				return
			}
			if o := e.Admit(ctx, pod, c); o.Error() != nil {
				t.Fatal(o.Error())
			}
			if o := e.Admit(ctx, pod, container("istio-proxy", 2000)); o.Error() == nil || o.Impostor == "" {
				t.Errorf("got %v", o.Error())
			}
			if m.holds(t, pod.NetNS).Key() != before {
				t.Error("the rules let it go around the mesh")
			}
		})
	}
}

// Pods of a namespace that is exempt may do on purpose what is refused elsewhere.
func TestExemptNamespaces(t *testing.T) {
	e, r := newEnforcer(t, newMemory())
	p := *e.policy.Load()
	p.IdentityExempt = []string{"kserve-*"}
	e.SetPolicy(p)
	ctx := limited(t, patience)
	for namespace, refused := range map[string]bool{"kserve-test": false, "kserve": true} {
		pod := sandbox(t, namespace)
		pod.Namespace = namespace
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		if o := e.Admit(ctx, pod, container("download", 1337)); (o.Error() != nil) != refused {
			t.Errorf("%s: got %v", namespace, o.Error())
		}
	}
	if got := strings.Count(strings.Join(r.events(), " "), outcome.EventBlocked); got != 1 {
		t.Errorf("recorded %v", r.events())
	}
}
