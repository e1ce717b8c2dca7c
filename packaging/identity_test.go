// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"slices"
	"strings"
	"testing"
)

// one is a container with more fields in pairs.
func one(name string, more ...any) fields {
	c := fields{"name": name, "image": "registry.example/x:1"}
	for i := 0; i < len(more); i += 2 {
		c[more[i].(string)] = more[i+1]
	}
	return c
}

func runs(uid, gid int64) fields { return fields{"runAsUser": uid, "runAsGroup": gid} }

// identified is a pod with annotations, its own security context, and containers.
func identified(marks annotations, security fields, containers ...any) fields {
	p := pod("Pod", nil, marks)
	p["metadata"].(fields)["namespace"] = "shop"
	p["spec"] = fields{"containers": containers}
	if security != nil {
		p["spec"].(fields)["securityContext"] = security
	}
	return p
}

// What meshnetd refuses is denied before, by what a manifest says; what injectors write is let through.
func TestAdmissionOfIdentities(t *testing.T) {
	const user, groups, command, image, shape, override = 0, 1, 2, 3, 4, 5 // the validations
	var (
		native  = annotations{"sidecar.istio.io/status": `{"initContainers":["istio-proxy"],"containers":null}`}
		classic = annotations{"sidecar.istio.io/status": `{"initContainers":["istio-validation"],"containers":["istio-proxy"]}`}
		optIn   = annotations{"istio-pod-network-controller/initialize": "true"}
		kuma    = annotations{"kuma.io/sidecar-injected": "true"}
		consul  = annotations{"consul.hashicorp.com/redirect-traffic-config": "{}"}
		linkerd = annotations{"linkerd.io/proxy-version": "x"}

		app       = one("app", "securityContext", runs(1000, 1000))
		proxy     = one("istio-proxy", "args", []any{"proxy", "sidecar"}, "securityContext", runs(1337, 1337))
		validator = one("istio-validation", "args", []any{"istio-iptables", "-p"}, "securityContext", runs(1337, 1337))
		mounted   = func(path string) fields {
			return one("istio-proxy", "args", []any{"proxy"}, "volumeMounts", []any{fields{"mountPath": path}}, "env", []any{fields{"name": "A"}})
		}
	)
	p := compile(t, readPolicy(t, "admission/proxy-identity.yaml"))
	for name, c := range map[string]struct {
		before, pod fields
		denied      []int
	}{
		"Istio":   {pod: identified(classic, nil, app, proxy, validator)},
		"Consul":  {pod: identified(consul, nil, app, one("consul-dataplane", "args", []any{"-addresses", "x"}, "securityContext", runs(5995, 5995)))},
		"Linkerd": {pod: identified(linkerd, nil, app, one("linkerd-proxy", "securityContext", fields{"runAsUser": int64(2102)}))},
		"Kuma": {pod: identified(kuma, nil, app, one("kuma-sidecar", "args", []any{"run", "--log-level=info"}, "securityContext", runs(5678, 5678)),
			one("kuma-validation", "command", []any{"/usr/bin/kumactl", "install", "transparent-proxy-validator"}, "args", []any{"--x"}, "securityContext", runs(5678, 5678)))},
		"with the program": {pod: identified(classic, nil, one("istio-proxy", "command", []any{"/usr/local/bin/pilot-agent"}, "args", []any{"proxy", "sidecar"}))},
		"opt-in":           {pod: identified(optIn, nil, app, proxy)},
		"outside the mesh": {pod: identified(nil, fields{"runAsUser": int64(1337), "fsGroup": int64(1337)}, one("app", "securityContext", runs(1337, 1337)))},

		"a user":               {pod: identified(native, nil, one("app", "securityContext", runs(1337, 0)), proxy), denied: []int{user}},
		"a group":              {pod: identified(native, nil, one("app", "securityContext", runs(0, 1337)), proxy), denied: []int{user}},
		"the pod's user":       {pod: identified(native, fields{"runAsUser": int64(1337)}, one("app"), proxy), denied: []int{user}},
		"not the pod's user":   {pod: identified(native, fields{"runAsUser": int64(1337)}, app, proxy)},
		"a validator too many": {pod: identified(native, nil, app, proxy, validator), denied: []int{user}},
		"another mesh's name":  {pod: identified(native, nil, one("kuma-sidecar", "securityContext", runs(1337, 1337)), proxy), denied: []int{user}},
		"Kuma's user":          {pod: identified(kuma, nil, one("app", "securityContext", runs(5678, 0))), denied: []int{user}},
		"Linkerd's validator":  {pod: identified(linkerd, nil, one("linkerd-network-validator", "securityContext", runs(2102, 0))), denied: []int{user}},
		"fsGroup":              {pod: identified(native, fields{"fsGroup": int64(1337)}, app, proxy), denied: []int{groups}},
		"supplementalGroups":   {pod: identified(native, fields{"supplementalGroups": []any{int64(7), int64(1337)}}, app, proxy), denied: []int{groups}},
		"other groups":         {pod: identified(native, fields{"fsGroup": int64(1000), "supplementalGroups": []any{int64(7)}}, app, proxy)},
		"a shell":              {pod: identified(native, nil, app, one("istio-proxy", "command", []any{"/bin/sh", "-c"}, "args", []any{"proxy sidecar"})), denied: []int{command}},
		"a shell for Linkerd":  {pod: identified(linkerd, nil, one("linkerd-proxy", "args", []any{"sh"})), denied: []int{command}},
		"a volume":             {pod: identified(native, nil, mounted("/usr/local/bin")), denied: []int{shape}},
		"a volume over all":    {pod: identified(native, nil, mounted("/")), denied: []int{shape}},
		"a volume beside":      {pod: identified(native, nil, mounted("/etc/istio/proxy"))},
		"a preloaded library":  {pod: identified(native, nil, one("istio-proxy", "args", []any{"proxy"}, "env", []any{fields{"name": "LD_PRELOAD"}})), denied: []int{shape}},

		"a user of the author's choice": {pod: identified(annotations{"linkerd.io/proxy-version": "x", "config.linkerd.io/proxy-uid": "1000"}, nil, app),
			denied: []int{user}},
		"a group of the author's choice": {pod: identified(annotations{"linkerd.io/proxy-version": "x", "config.linkerd.io/proxy-gid": "1000"},
			fields{"fsGroup": int64(1000)}, one("app")), denied: []int{groups}},
		"ids of the opt-in": {pod: identified(annotations{"istio-pod-network-controller/initialize": "true", "pod-network-controller.istio.io/envoy-userid": "1000"},
			nil, app, proxy), denied: []int{user}},
		"a user who is none":                      {pod: identified(annotations{"linkerd.io/proxy-version": "x", "config.linkerd.io/proxy-uid": "root"}, nil, app)},
		"as this pod's proxy":                     {pod: identified(native, nil, app, one("istio-proxy", "args", []any{"proxy"}, "securityContext", runs(1000, 7))), denied: []int{user}},
		"root beside a proxy that begins as root": {pod: identified(native, nil, one("app", "securityContext", runs(0, 0)), one("istio-proxy", "args", []any{"proxy"}, "securityContext", runs(0, 1337)))},
		"in its group":                            {pod: identified(native, fields{"fsGroup": int64(7)}, app, one("istio-proxy", "args", []any{"proxy"}, "securityContext", runs(7, 7))), denied: []int{groups}},
		"another user by an override": {pod: identified(annotations{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`,
			"proxy.istio.io/overrides": `{"containers":[{"name":"istio-proxy","securityContext":{"RunAsUser":1000}}]}`}, nil, app, proxy), denied: []int{override}},
		"and hidden": {pod: identified(annotations{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`,
			"proxy.istio.io/overrides": `{"containers":[{"name":"istio-proxy","securityContext":{"runA\u0073User":1000}}]}`}, nil, app, proxy), denied: []int{override}},
		"another override": {pod: identified(annotations{"sidecar.istio.io/status": `{"containers":["istio-proxy"]}`,
			"proxy.istio.io/overrides": `{"containers":[{"name":"istio-proxy","resources":{}}]}`}, nil, app, proxy)},

		"an update of something else": {before: identified(native, nil, one("app", "securityContext", runs(1337, 0))), pod: identified(native, nil, one("app", "securityContext", runs(1337, 0)))},
		"an update of an image": {before: identified(native, nil, one("app", "image", "y", "securityContext", runs(1337, 0))),
			pod: identified(native, nil, one("app", "securityContext", runs(1337, 0))), denied: []int{user}},
	} {
		t.Run(name, func(t *testing.T) {
			request := fields{"object": c.pod, "oldObject": nil, "namespaceObject": pod("Namespace", nil, nil)}
			if c.before != nil {
				request["oldObject"] = c.before
			}
			if got := p.denied(t, request); !slices.Equal(got, c.denied) {
				t.Errorf("denied by %v, want %v", got, c.denied)
			}
		})
	}

	debugged := identified(native, nil, app, proxy)
	debugged["spec"].(fields)["ephemeralContainers"] = []any{one("debug", "securityContext", runs(1337, 0))}
	debugged["spec"].(fields)["initContainers"] = []any{one("init", "securityContext", runs(1000, 0))}
	if got := p.denied(t, fields{"object": debugged, "oldObject": identified(native, nil, app, proxy), "namespaceObject": nil}); !slices.Equal(got, []int{user}) {
		t.Errorf("an ephemeral container: denied by %v", got)
	}

	own := readPolicy(t, "admission/proxy-identity.yaml")
	for i, v := range own.Spec.Variables {
		own.Spec.Variables[i].Expression = map[string]string{"images": "['registry.example/istio/proxyv2:']", "exempt": "['ml']"}[v.Name]
		if own.Spec.Variables[i].Expression == "" {
			own.Spec.Variables[i].Expression = v.Expression
		}
	}
	configured := compile(t, own)
	if got := configured.denied(t, fields{"object": identified(native, nil, app, proxy), "oldObject": nil, "namespaceObject": nil}); !slices.Equal(got, []int{image}) {
		t.Errorf("another image: denied by %v", got)
	}
	exempt := identified(native, fields{"fsGroup": int64(1337)}, one("app", "securityContext", runs(1337, 1337)))
	exempt["metadata"].(fields)["namespace"] = "ml"
	if got := configured.denied(t, fields{"object": exempt, "oldObject": nil, "namespaceObject": nil}); len(got) > 0 {
		t.Errorf("an exempt namespace: denied by %v", got)
	}
	for _, v := range own.Spec.Validations {
		if v.Message == "" || strings.Contains(v.Message, "\n") || v.Reason != "Forbidden" {
			t.Errorf("message %q, reason %q", v.Message, v.Reason)
		}
	}
}
