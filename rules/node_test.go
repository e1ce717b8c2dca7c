// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

var (
	istios   = istio.New(istio.Standard())
	consuls  = consul.New(consul.Standard())
	kumas    = kuma.New(kuma.Standard())
	linkerds = linkerd.New(linkerd.Standard())
)

func everyMesh() rules.Node {
	return rules.Node{Meshes: []rules.Mesh{istios, consuls, kumas, linkerds}, RuntimeHandlers: []string{""}}
}

var samePrefix = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// The marks of the injectors, by mesh.
var marks = map[string]rules.Pod{
	"istio": {Annotations: map[string]string{"sidecar.istio.io/status": "{}"}},
	"consul": {Annotations: map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
		"consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000}`}},
	"kuma": {Annotations: map[string]string{"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": "cniMode: true"}},
	"linkerd": {Labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"},
		Annotations: map[string]string{"linkerd.io/proxy-version": "x"}},
}

// injectedBy is a pod that the injectors of these meshes have been at, and more annotations by keys and values.
func injectedBy(meshes []string, more ...string) rules.Pod {
	pod := rules.Pod{Namespace: "shop", Name: "cart", Labels: map[string]string{"app": "cart"}, Annotations: map[string]string{"a": "b"},
		IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7")}}
	for _, mesh := range meshes {
		for key, value := range marks[mesh].Labels {
			pod.Labels[key] = value
		}
		for key, value := range marks[mesh].Annotations {
			pod.Annotations[key] = value
		}
	}
	for i := 0; i < len(more); i += 2 {
		pod.Annotations[more[i]] = more[i+1]
	}
	return pod
}

func TestOneMeshOfSeveralDecides(t *testing.T) {
	for _, mesh := range everyMesh().Meshes {
		pod := injectedBy([]string{mesh.Name()})
		alone := rules.Node{Meshes: []rules.Mesh{mesh}, RuntimeHandlers: []string{""}}.Decide(pod)
		d := everyMesh().Decide(pod)
		if d.Action != rules.Enrol || d.Mesh != mesh.Name() || d.Detail != alone.Detail {
			t.Errorf("%s: %s by %q (%s: %s)", mesh.Name(), d.Action, d.Mesh, d.Reason, d.Detail)
			continue
		}
		plan, err := d.Planner(rules.Network{Addresses: pod.IPs})
		own, err2 := alone.Planner(rules.Network{Addresses: pod.IPs})
		if err != nil || err2 != nil || plan.Key() != own.Key() {
			t.Errorf("%s: not the plan that it makes alone: %v, %v", mesh.Name(), err, err2)
		}
		if diff := cmp.Diff(mesh.Footprint(), plan.Footprint, samePrefix); diff != "" {
			t.Errorf("%s: the plan has not its own footprint:\n%s", mesh.Name(), diff)
		}
		pod.RuntimeHandler = "kata"
		if d := everyMesh().Decide(pod); d.Reason != rules.ReasonRuntimeHandler || d.Mesh != mesh.Name() {
			t.Errorf("%s with another runtime: %s by %q", mesh.Name(), d.Reason, d.Mesh)
		}
	}
}

func TestNoMeshClaimsThePod(t *testing.T) {
	hostNetwork := injectedBy([]string{"istio", "linkerd"})
	hostNetwork.HostNetwork = true
	excluded := injectedBy(nil)
	excluded.Namespace = "kuma-system"
	for name, tt := range map[string]struct {
		pod    rules.Pod
		reason rules.Reason
		mesh   string
		detail string
	}{
		"no trace":           {injectedBy(nil), rules.ReasonNotInjected, "", "no injector of a mesh that is enabled here"},
		"host network":       {hostNetwork, rules.ReasonHostNetwork, "", "shares the node's network namespace"},
		"the last says more": {injectedBy([]string{"consul"}, "consul.hashicorp.com/transparent-proxy-status", ""), rules.ReasonInterceptionNone, "consul", "asks for no redirection"},
		"one's namespace":    {excluded, rules.ReasonNamespaceExcluded, "kuma", "namespace kuma-system is excluded"},
		"an init container":  {injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config", "{}"), rules.ReasonInitContainer, "kuma", "kuma-init"},
		"the first of two": {injectedBy([]string{"kuma", "istio"}, "traffic.kuma.io/transparent-proxy-config", "{}", "sidecar.istio.io/status", `{"initContainers":["istio-init"]}`),
			rules.ReasonInitContainer, "istio", "istio-init"},
	} {
		d := everyMesh().Decide(tt.pod)
		if d.Action != rules.Skip || d.Reason != tt.reason || d.Mesh != tt.mesh || !strings.Contains(d.Detail, tt.detail) {
			t.Errorf("%s: %s by %q (%s: %s)", name, d.Action, d.Mesh, d.Reason, d.Detail)
		}
	}
	if d := (rules.Node{}).Decide(injectedBy(nil)); d.Action != rules.Skip || d.Reason != rules.ReasonNotInjected || d.Detail == "" {
		t.Errorf("without meshes: %+v", d)
	}
	only := rules.Node{Meshes: []rules.Mesh{istios}}
	if diff := cmp.Diff(istios.Decide(injectedBy(nil)), only.Decide(injectedBy(nil))); diff != "" {
		t.Errorf("one mesh decides as it did alone:\n%s", diff)
	}
}

func TestTwoMeshesClaimThePod(t *testing.T) {
	for name, tt := range map[string]struct {
		pod    rules.Pod
		detail []string
	}{
		"two injectors": {injectedBy([]string{"istio", "linkerd"}), []string{"istio and linkerd claim the pod",
			"istio (injected: annotation sidecar.istio.io/status is present)", "linkerd (injected: label"}},
		"all": {injectedBy([]string{"istio", "consul", "kuma", "linkerd"}), []string{"istio and consul and kuma and linkerd claim"}},
		"one that is refused": {injectedBy([]string{"consul", "linkerd"}, "consul.hashicorp.com/redirect-traffic-config", "{"), []string{
			"consul and linkerd", "consul (bad-input: annotation consul.hashicorp.com/redirect-traffic-config"}},
		"an init container": {injectedBy([]string{"kuma", "linkerd"}, "traffic.kuma.io/transparent-proxy-config", "{}"), []string{
			"kuma and linkerd", "kuma (init-container: "}},
		"an init container and one that is refused": {injectedBy([]string{"kuma", "linkerd"}, "traffic.kuma.io/transparent-proxy-config", "{}",
			"config.linkerd.io/proxy-uid", "x"), []string{"kuma (init-container: ", "linkerd (bad-input: "}},
	} {
		d := everyMesh().Decide(tt.pod)
		if d.Action != rules.Reject || d.Reason != rules.ReasonTwoMeshes || d.Mesh != "" || d.Planner != nil {
			t.Errorf("%s: %s by %q (%s: %s)", name, d.Action, d.Mesh, d.Reason, d.Detail)
		}
		for _, part := range tt.detail {
			if !strings.Contains(d.Detail, part) {
				t.Errorf("%s: %q is not in %q", name, part, d.Detail)
			}
		}
	}
	// What is no claim.
	excluded := everyMesh()
	defaults := istio.Standard()
	defaults.ExcludeNamespaces = []string{"shop"}
	excluded.Meshes[0] = istio.New(defaults)
	if d := excluded.Decide(injectedBy([]string{"istio", "linkerd"})); d.Action != rules.Enrol || d.Mesh != "linkerd" {
		t.Errorf("in a namespace that one excludes: %s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
	off := everyMesh()
	off.Meshes, off.Disabled = off.Meshes[1:], off.Meshes[:1]
	if d := off.Decide(injectedBy([]string{"istio", "linkerd"})); d.Action != rules.Enrol || d.Mesh != "linkerd" {
		t.Errorf("with one switched off: %s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
}

// What only a container shows is a claim as well.
func TestAContainerMakesTheSecondClaim(t *testing.T) {
	pod := injectedBy([]string{"istio", "linkerd"}, "inject.istio.io/templates", "gateway")
	if d := everyMesh().Decide(pod); d.Action != rules.Enrol || d.Mesh != "linkerd" {
		t.Fatalf("at first: %s by %q (%s: %s)", d.Action, d.Mesh, d.Reason, d.Detail)
	}
	pod.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}}}
	if d := everyMesh().Decide(pod); d.Action != rules.Reject || d.Reason != rules.ReasonTwoMeshes {
		t.Errorf("with the container: %s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
	if !everyMesh().Refines("istio-proxy") || everyMesh().Refines("app") {
		t.Error("not the containers that say more")
	}
	off := rules.Node{Meshes: []rules.Mesh{linkerds}, Disabled: []rules.Mesh{istios}}
	if !off.Refines("istio-proxy") {
		t.Error("a pod of a mesh that is switched off may still get containers")
	}
}

func TestPoliciesHoldForEveryMesh(t *testing.T) {
	node := everyMesh()
	node.Annotations = []rules.AnnotationPolicy{{Annotation: "config.linkerd.io/*", Otherwise: rules.Refuse}}
	if d := node.Decide(injectedBy([]string{"linkerd"}, "config.linkerd.io/skip-outbound-ports", "80")); d.Action != rules.Reject || d.Reason != rules.ReasonForbidden || d.Mesh != "linkerd" {
		t.Errorf("%s by %q (%s: %s)", d.Action, d.Mesh, d.Reason, d.Detail)
	}
	if d := node.Decide(injectedBy(nil, "config.linkerd.io/skip-outbound-ports", "80")); d.Action != rules.Skip || d.Reason != rules.ReasonNotInjected {
		t.Errorf("outside: %s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
	node.Annotations[0] = rules.AnnotationPolicy{Annotation: "kuma.io/sidecar-injected", Otherwise: rules.Ignore}
	if d := node.Decide(injectedBy([]string{"kuma"})); d.Action != rules.Reject || d.Reason != rules.ReasonForbidden || d.Mesh != "kuma" {
		t.Errorf("one that would take the pod out of its mesh: %s by %q (%s)", d.Action, d.Mesh, d.Detail)
	}
}

func TestExplainAsksEveryMesh(t *testing.T) {
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want []string // what each step begins with; "..." are some more
	}{
		"one": {injectedBy([]string{"consul"}), []string{"istio: skip (not-injected): no annotation", "kuma: skip (not-injected): ",
			"linkerd: skip (not-injected): ", "...", "redirect (injected): "}},
		"none": {injectedBy(nil), []string{"istio: skip (not-injected): ", "consul: skip", "kuma: skip", "linkerd: skip",
			"skip (not-injected): no injector"}},
		"one says more": {injectedBy([]string{"consul"}, "consul.hashicorp.com/transparent-proxy-status", ""), []string{
			"istio: skip", "kuma: skip", "linkerd: skip", "...", "skip (interception-none): "}},
		"two": {injectedBy([]string{"consul", "linkerd"}), []string{"istio: skip (not-injected): ", "consul: redirect (injected): ",
			"kuma: skip (not-injected): ", "linkerd: redirect (injected): ", "reject (two-meshes): consul and linkerd"}},
	} {
		steps := everyMesh().Explain(tt.pod).Account.Steps
		for i, want := range tt.want {
			at := i
			if i == len(tt.want)-1 {
				at = len(steps) - 1
			}
			if want != "..." && (at >= len(steps) || !strings.HasPrefix(steps[at], want)) {
				t.Errorf("%s: step %d does not begin with %q:\n%s", name, at, want, strings.Join(steps, "\n"))
			}
		}
	}
	pod := injectedBy([]string{"istio"})
	want := append([]string{}, istios.Explain(pod).Account.Steps...)
	steps := everyMesh().Explain(pod).Account.Steps
	if diff := cmp.Diff(want, steps[len(steps)-len(want):]); diff != "" {
		t.Errorf("not the steps of the mesh that decides:\n%s", diff)
	}
	if settings := everyMesh().Explain(pod).Account.Settings; len(settings) == 0 || settings[0].Source == "" {
		t.Errorf("settings: %v", settings)
	}
	if diff := cmp.Diff(want, (rules.Node{Meshes: []rules.Mesh{istios}, RuntimeHandlers: []string{""}}).Explain(pod).Account.Steps); diff != "" {
		t.Errorf("one mesh alone has nothing to say of others:\n%s", diff)
	}
	if d := (rules.Node{}).Explain(pod); d.Account != nil {
		t.Errorf("without meshes: %+v", d.Account)
	}
}

// A pod outside of every mesh is what a node has most of.
func TestAPodOutsideCostsNoAllocation(t *testing.T) {
	node, pod := everyMesh(), injectedBy(nil)
	if n := testing.AllocsPerRun(100, func() { node.Decide(pod) }); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecideOutside(b *testing.B) {
	for name, meshes := range map[string][]rules.Mesh{"istio": {istios}, "all": everyMesh().Meshes} {
		b.Run(name, func(b *testing.B) {
			node, pod := rules.Node{Meshes: meshes, RuntimeHandlers: []string{""}}, injectedBy(nil)
			b.ReportAllocs()
			for b.Loop() {
				node.Decide(pod)
			}
		})
	}
}
