// SPDX-License-Identifier: Apache-2.0

package istio_test

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

func edit(pod rules.Pod, fn func(*rules.Pod)) rules.Pod {
	fn(&pod)
	return pod
}

func with(c ...rules.Container) rules.Pod {
	return edit(injected(), func(p *rules.Pod) { p.Containers, p.Complete = c, true })
}

func label(pod rules.Pod, value string) rules.Pod {
	return edit(pod, func(p *rules.Pod) { p.Labels = map[string]string{"sidecar.istio.io/inject": value} })
}

func proxyWith(args ...string) rules.Container {
	return rules.Container{Name: "istio-proxy", Args: args}
}

func TestDecide(t *testing.T) {
	plain := rules.Pod{Namespace: "shop", Name: "cart"}
	optIn := edit(plain, func(p *rules.Pod) {
		p.Annotations = map[string]string{"istio-pod-network-controller/initialize": "true"}
	})
	const (
		isPresent = "annotation sidecar.istio.io/status is present"
		noStatus  = "no annotation sidecar.istio.io/status"
		noProxy   = "the pod has no container istio-proxy"
		asksIn    = `annotation istio-pod-network-controller/initialize is "true"`
		initSets  = "init container istio-init sets the pod up"
		inject    = "sidecar.istio.io/inject"
		keyStatus = "sidecar.istio.io/status"
		templates = "inject.istio.io/templates"
	)
	disableEnvoy := func(value string) rules.Pod {
		return with(rules.Container{Name: "istio-proxy", Env: map[string]string{"DISABLE_ENVOY": value}})
	}
	for _, tt := range []struct {
		name   string
		pod    rules.Pod
		action rules.Action
		reason rules.Reason
		detail string
	}{
		{"injected", injected(), rules.Enrol, rules.ReasonInjected, isPresent},
		{"native sidecar", injected(keyStatus, statusNative), rules.Enrol, rules.ReasonInjected, isPresent},
		{"no annotation at all", plain, rules.Skip, rules.ReasonNotInjected, noStatus},
		{"proxy without status", edit(plain, func(p *rules.Pod) { p.Containers = []rules.Container{sidecar} }),
			rules.Skip, rules.ReasonNotInjected, noStatus},
		{"opt-in", optIn, rules.Enrol, rules.ReasonOptIn, asksIn},
		{"opt-in beside status", injected("istio-pod-network-controller/initialize", "true"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"opt-in of another value", edit(plain, func(p *rules.Pod) {
			p.Annotations = map[string]string{"istio-pod-network-controller/initialize": "True"}
		}), rules.Skip, rules.ReasonNotInjected, noStatus},

		{"host network", edit(injected(), func(p *rules.Pod) { p.HostNetwork = true }),
			rules.Skip, rules.ReasonHostNetwork, "the pod shares the node's network namespace"},
		{"host network and a bad annotation", edit(injected("traffic.sidecar.istio.io/includeInboundPorts", "x"), func(p *rules.Pod) { p.HostNetwork = true }),
			rules.Skip, rules.ReasonHostNetwork, "the pod shares the node's network namespace"},
		{"excluded namespace", edit(injected(), func(p *rules.Pod) { p.Namespace = "kube-system" }),
			rules.Skip, rules.ReasonNamespaceExcluded, "namespace kube-system is excluded by the node's configuration"},
		{"excluded namespace, exact name only", edit(injected(), func(p *rules.Pod) { p.Namespace = "kube-system-2" }),
			rules.Enrol, rules.ReasonInjected, isPresent},
		{"deployer pod", injected("openshift.io/deployer-pod-for.name", "cart-1"),
			rules.Enrol, rules.ReasonInjected, isPresent},
		{"build pod", injected("openshift.io/build.name", ""),
			rules.Enrol, rules.ReasonInjected, isPresent},

		{"inject false by annotation", injected(inject, "false"), rules.Skip, rules.ReasonInjectDisabled, "annotation " + inject + " is false"},
		{"inject 0", injected(inject, "0"), rules.Skip, rules.ReasonInjectDisabled, "annotation " + inject + " is false"},
		{"inject true", injected(inject, "true"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"inject unparsable", injected(inject, "disabled"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"inject empty", injected(inject, ""), rules.Enrol, rules.ReasonInjected, isPresent},
		{"inject false by label", label(injected(), "F"), rules.Skip, rules.ReasonInjectDisabled, "label " + inject + " is false"},
		{"label true over annotation false", label(injected(inject, "false"), "true"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"label false over annotation true", label(injected(inject, "true"), "false"), rules.Skip, rules.ReasonInjectDisabled, "label " + inject + " is false"},
		{"label unparsable over annotation false", label(injected(inject, "false"), "no"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"inject false without status", label(plain, "false"), rules.Skip, rules.ReasonNotInjected, noStatus},
		{"inject false with opt-in", label(optIn, "false"), rules.Skip, rules.ReasonInjectDisabled, "label " + inject + " is false"},

		{"istio-init by status", injected(keyStatus, `{"initContainers":["istio-init"],"containers":["istio-proxy"]}`),
			rules.Skip, rules.ReasonInitContainer, initSets},
		{"istio-init although a plugin is required", injected(keyStatus, `{"initContainers":["istio-init"]}`, "required-plugins.noderesource.dev", `["meshnetd"]`),
			rules.Skip, rules.ReasonInitContainer, initSets + ", although annotation required-plugins.noderesource.dev asks for a plugin that would: " +
				"the injector is not in CNI mode (pilot.cni.enabled; for istioctl components.cni.enabled, which overwrites it)"},
		{"istio-init by manifest", with(rules.Container{Name: "istio-init"}, sidecar), rules.Skip, rules.ReasonInitContainer, initSets},
		{"istio-init of the status although the manifest has none", edit(with(sidecar), func(p *rules.Pod) {
			p.Annotations[keyStatus] = `{"initContainers":["istio-init"]}`
		}), rules.Skip, rules.ReasonInitContainer, initSets},
		{"no proxy in the manifest", with(rules.Container{Name: "app"}), rules.Skip, rules.ReasonNoProxy, noProxy},
		{"no containers in the manifest", edit(injected(), func(p *rules.Pod) { p.Complete = true }),
			rules.Skip, rules.ReasonNoProxy, noProxy},
		{"no proxy in the status", injected(keyStatus, `{"containers":["other"]}`),
			rules.Skip, rules.ReasonNoProxy, "annotation sidecar.istio.io/status names no container istio-proxy"},
		{"no proxy in the status, but in the manifest", edit(with(sidecar), func(p *rules.Pod) {
			p.Annotations[keyStatus] = `{"containers":["other"]}`
		}), rules.Enrol, rules.ReasonInjected, isPresent},

		{"without Envoy", disableEnvoy("true"), rules.Skip, rules.ReasonNotSidecar, "container istio-proxy runs without Envoy (DISABLE_ENVOY)"},
		{"with Envoy", disableEnvoy("false"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"DISABLE_ENVOY unparsable", disableEnvoy("yes"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"router", with(proxyWith("proxy", "router")), rules.Skip, rules.ReasonNotSidecar, "container istio-proxy is a router"},
		{"sidecar by its arguments", with(proxyWith("proxy", "sidecar")), rules.Enrol, rules.ReasonInjected, isPresent},
		{"proxy without a type", with(proxyWith("proxy", "")), rules.Enrol, rules.ReasonInjected, isPresent},
		{"proxy with one argument", with(proxyWith("proxy")), rules.Enrol, rules.ReasonInjected, isPresent},
		{"another command", with(proxyWith("wait", "router")), rules.Enrol, rules.ReasonInjected, isPresent},
		{"the last proxy counts", with(sidecar, proxyWith("proxy", "router")), rules.Skip, rules.ReasonNotSidecar, "container istio-proxy is a router"},

		{"gateway", injected(templates, "gateway"), rules.Skip, rules.ReasonNotSidecar, "annotation " + templates + " names gateway"},
		{"grpc agent", injected(templates, "grpc-agent"), rules.Skip, rules.ReasonNotSidecar, "annotation " + templates + " names grpc-agent"},
		{"grpc simple, with blanks", injected(templates, "custom, grpc-simple "), rules.Skip, rules.ReasonNotSidecar, "annotation " + templates + " names grpc-simple"},
		{"gateway and sidecar", injected(templates, "sidecar,gateway"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"custom template", injected(templates, "sidecar,custom"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"template where the arguments do not say", edit(with(proxyWith("proxy")), func(p *rules.Pod) { p.Annotations[templates] = "gateway" }),
			rules.Skip, rules.ReasonNotSidecar, "annotation " + templates + " names gateway"},
		{"a template that only starts like one", injected(templates, "gateway-2"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"arguments over template", edit(with(sidecar), func(p *rules.Pod) { p.Annotations[templates] = "gateway" }),
			rules.Enrol, rules.ReasonInjected, isPresent},

		{"interception NONE", injected("sidecar.istio.io/interceptionMode", "NONE"),
			rules.Skip, rules.ReasonInterceptionNone, "sidecar.istio.io/interceptionMode is NONE: the pod asks for no redirection"},
		{"interception NONE beside a bad list", injected("sidecar.istio.io/interceptionMode", "NONE", "traffic.sidecar.istio.io/includeInboundPorts", "x"),
			rules.Skip, rules.ReasonInterceptionNone, "sidecar.istio.io/interceptionMode is NONE: the pod asks for no redirection"},

		{"status true", injected(keyStatus, "true"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status empty object", injected(keyStatus, "{}"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status empty", injected(keyStatus, ""), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status blank", injected(keyStatus, " \n"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status null", injected(keyStatus, "null"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status list", injected(keyStatus, "[1]"), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status without names", injected(keyStatus, `{"containers":null,"initContainers":[]}`), rules.Enrol, rules.ReasonInjected, isPresent},
		{"status cut off", injected(keyStatus, `{"containers":[`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "{\"containers\":[": not JSON at byte 15: unexpected end of JSON input`},
		{"status of another kind", injected(keyStatus, `injected`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "injected": not JSON at byte 1: invalid character 'i' looking for beginning of value`},
		{"status with more after it", injected(keyStatus, `{} x`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "{} x": not JSON at byte 4: invalid character 'x' after top-level value`},
		{"status containers no list", injected(keyStatus, `{"containers":"istio-proxy"}`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "{\"containers\":\"istio-proxy\"}": containers is not a list`},
		{"status init containers no list", injected(keyStatus, `{"initContainers":{}}`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "{\"initContainers\":{}}": initContainers is not a list`},
		{"status name no string", injected(keyStatus, `{"containers":["istio-proxy",7]}`), rules.Reject, rules.ReasonBadInput,
			`annotation sidecar.istio.io/status: "{\"containers\":[\"istio-proxy\",7]}": containers[1] is not a string`},
		{"status bad in a pod that is not to be injected", label(injected(keyStatus, "{"), "false"),
			rules.Skip, rules.ReasonInjectDisabled, "label " + inject + " is false"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := mesh.Decide(tt.pod)
			if d.Action != tt.action || d.Reason != tt.reason || d.Detail != tt.detail {
				t.Errorf("got  %s, %s: %s\nwant %s, %s: %s", d.Action, d.Reason, d.Detail, tt.action, tt.reason, tt.detail)
			}
			if d.Mesh != "istio" {
				t.Errorf("mesh is %q", d.Mesh)
			}
			if enrolled := d.Action == rules.Enrol; enrolled != (d.Planner != nil) || enrolled != (d.Intent != nil) {
				t.Errorf("%s with planner %t, intent %v", d.Action, d.Planner != nil, d.Intent)
			}
		})
	}
}

// The opt-in's own annotations, which count only with it.
func TestOptIn(t *testing.T) {
	const (
		port = "pod-network-controller.istio.io/envoy-port"
		uid  = "pod-network-controller.istio.io/envoy-userid"
		gid  = "pod-network-controller.istio.io/envoy-groupid"
	)
	optedIn := func(pairs ...string) rules.Pod {
		pod := injected(append(pairs, "istio-pod-network-controller/initialize", "true")...)
		delete(pod.Annotations, "sidecar.istio.io/status")
		return pod
	}
	t.Run("defaults", func(t *testing.T) {
		in := intentOf(t, mesh, optedIn())
		if in.OutboundPort != 15001 || in.UID != 1337 || in.GID != 1337 {
			t.Errorf("got port %d, uid %d, gid %d", in.OutboundPort, in.UID, in.GID)
		}
	})
	t.Run("all", func(t *testing.T) {
		in := intentOf(t, mesh, optedIn(port, "15100", uid, "2102", gid, "3102"))
		if in.OutboundPort != 15100 || in.UID != 2102 || in.GID != 3102 || in.InboundPort != 15006 {
			t.Errorf("got ports %d and %d, uid %d, gid %d", in.OutboundPort, in.InboundPort, in.UID, in.GID)
		}
	})
	t.Run("not without the opt-in", func(t *testing.T) {
		in := intentOf(t, mesh, injected(port, "nonsense", uid, "nonsense", gid, "nonsense"))
		if in.OutboundPort != 15001 || in.UID != 1337 || in.GID != 1337 {
			t.Errorf("got port %d, uid %d, gid %d", in.OutboundPort, in.UID, in.GID)
		}
	})
	for _, tt := range []struct{ key, value, want string }{
		{port, "0", "not a port from 1 to 65535"},
		{port, "65536", "not a port from 1 to 65535"},
		{port, "", "not a port from 1 to 65535"},
		{port, "15001,15002", "not a port from 1 to 65535"},
		{uid, "0", "not a number from 1 to "},
		{uid, "-1", "not a number from 1 to "},
		{uid, "istio-proxy", "not a number from 1 to "},
		{uid, "4294967295", "not a number from 1 to 4294967294"}, // no id: iptables refuses it
		{gid, "4294967296", "not a number from 1 to "},
		{gid, "4294967295", "not a number from 1 to 4294967294"},
		{gid, " 1337", "not a number from 1 to "},
	} {
		t.Run(tt.key+"="+tt.value, func(t *testing.T) {
			rejected(t, optedIn(tt.key, tt.value), "annotation "+tt.key, tt.value, tt.want)
		})
	}
	t.Run("the inbound port", func(t *testing.T) {
		rejected(t, optedIn(port, "15006"), "proxy ports", "15006", "outbound and inbound listener cannot share a port")
	})
}

// rejected checks that a pod is refused with exactly this place and value, and a problem that begins so;
// whether its containers are all known makes no difference.
func rejected(t *testing.T, pod rules.Pod, place, value, problem string) {
	t.Helper()
	if pod.Container("istio-proxy") != nil && !pod.Complete {
		pod.Complete = true
		rejected(t, pod, place, value, problem)
		pod.Complete = false
	}
	d := mesh.Decide(pod)
	want := (&rules.InputError{Place: place, Value: value, Problem: problem}).Error()
	if d.Action != rules.Reject || d.Reason != rules.ReasonBadInput || problem == "" || !strings.HasPrefix(d.Detail, want) {
		t.Errorf("got  %s, %s: %s\nwant %s, %s: %s", d.Action, d.Reason, d.Detail, rules.Reject, rules.ReasonBadInput, want)
	}
}

// OpenShift's keys count where the configuration says OpenShift: anywhere else anybody may write them.
func TestOpenShift(t *testing.T) {
	defaults := istio.Standard()
	defaults.OpenShift = true
	for _, key := range []string{"openshift.io/deployer-pod-for.name", "openshift.io/build.name"} {
		labelled := injected()
		labelled.Labels = map[string]string{key: "cart-1"}
		for _, pod := range []rules.Pod{injected(key, ""), labelled} {
			if d := (istio.New(defaults)).Decide(pod); d.Action != rules.Skip || d.Reason != rules.ReasonBuildPod {
				t.Errorf("%s: %s (%s)", key, d.Action, d.Reason)
			}
			if d := mesh.Decide(pod); d.Action != rules.Enrol {
				t.Errorf("%s, where nobody says that this is OpenShift: %s (%s)", key, d.Action, d.Reason)
			}
		}
	}
}

const optIn = "istio-pod-network-controller/initialize"

// A deployer has the opt-in from the template of the pods that it deploys, and no proxy. It is known by OpenShift's label, when
// its sandbox starts and by its manifest.
func TestDeployer(t *testing.T) {
	pod := rules.Pod{Namespace: "tenant", Name: "site-1-deploy", Labels: map[string]string{"openshift.io/deployer-pod-for.name": "site-1"},
		Annotations: map[string]string{"openshift.io/deployment-config.name": "site", "openshift.io/deployment.name": "site-1", optIn: "true"}}
	manifest := pod
	manifest.Complete, manifest.Containers = true, []rules.Container{{Name: "deployment"}}
	for _, p := range []rules.Pod{pod, manifest} {
		if d := mesh.Decide(p); d.Action != rules.Skip || d.Reason != rules.ReasonBuildPod {
			t.Errorf("of %d containers: %s (%s: %s)", len(p.Containers), d.Action, d.Reason, d.Detail)
		}
	}
	pod.Labels = nil
	if d := mesh.Decide(pod); d.Action != rules.Enrol {
		t.Errorf("without its label: %s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
}

// The old controller has an init container that waits, by the name of the one that writes rules.
func TestWaiterOfTheController(t *testing.T) {
	waiter := rules.Container{Name: "istio-init", Image: "registry.example/istio-pod-network-controller:latest", Args: []string{"init"}}
	real := rules.Container{Name: "istio-init", Image: "registry.example/proxyv2:1.2", Args: []string{"istio-iptables", "-p", "15001", "-u", "1337"}}
	proxy := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}
	const status = `{"initContainers":["istio-init"],"containers":["istio-proxy"]}`
	in, out := injected("sidecar.istio.io/status", status, optIn, "true"), injected("sidecar.istio.io/status", status)
	with := func(pod rules.Pod, containers ...rules.Container) rules.Pod {
		pod.Containers, pod.Complete = append(containers, proxy), true
		return pod
	}
	edited := func(c rules.Container, edit func(*rules.Container)) rules.Container { edit(&c); return c }
	for name, tt := range map[string]struct {
		pod    rules.Pod
		action rules.Action
	}{
		"its sandbox":                    {in, rules.Enrol},
		"its manifest":                   {with(in, waiter), rules.Enrol},
		"by its argument":                {with(in, edited(waiter, func(c *rules.Container) { c.Image = "" })), rules.Enrol},
		"by its image":                   {with(in, edited(waiter, func(c *rules.Container) { c.Args = nil })), rules.Enrol},
		"Istio's own":                    {with(in, real), rules.Skip},
		"a directory of that name":       {with(in, edited(real, func(c *rules.Container) { c.Image = "istio-pod-network-controller/proxyv2:1.2" })), rules.Skip},
		"without the opt-in":             {with(out, waiter), rules.Skip},
		"its sandbox, without":           {out, rules.Skip},
		"named, and not in the manifest": {with(in), rules.Skip},
	} {
		if d := mesh.Decide(tt.pod); d.Action != tt.action {
			t.Errorf("%s: %s (%s: %s), want %s", name, d.Action, d.Reason, d.Detail, tt.action)
		}
	}
}
