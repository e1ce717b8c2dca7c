// SPDX-License-Identifier: Apache-2.0

package linkerd_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

func TestExplain(t *testing.T) {
	asked := map[string]int{}
	for seed := range uint64(60) {
		random := rand.New(rand.NewPCG(seed, 1))
		m, pod := draw(random)
		for key, value := range map[string]string{"proxy-control-port": "14190", "proxy-admin-port": "14191"} {
			if random.IntN(2) == 0 {
				pod.Annotations["config.linkerd.io/"+key] = value
			}
		}
		for source, n := range meshtest.Sources(t, m, pod, alone) {
			asked[source] += n
		}
	}
	if len(asked) != 9+1+1+1 { // annotations, one of them added to a list, what the pod lacks, and none
		t.Errorf("%d sources: %v", len(asked), slices.Sorted(maps.Keys(asked)))
	}
}

// alone is the pod with what a source names and nothing else.
func alone(pod rules.Pod, source string) rules.Pod {
	rest := injected()
	rest.IPs, rest.Labels, rest.Namespace = pod.IPs, pod.Labels, pod.Namespace
	key, _, _ := strings.Cut(strings.TrimPrefix(source, "annotation "), ",")
	switch {
	case strings.HasPrefix(source, "annotation "):
		rest.Annotations[key] = pod.Annotations[key]
	case strings.HasPrefix(source, "no label "):
		rest.Labels = maps.Clone(rest.Labels)
		delete(rest.Labels, strings.TrimPrefix(source, "no label "))
	}
	return rest
}

func TestExplainSettings(t *testing.T) {
	defaults := linkerd.Standard()
	defaults.SkipInbound = ports("4567,4568")
	pod := component(injected("skip-inbound-ports", "22,7000-7010", "proxy-gid", "-1", "skip-outbound-ports", "3306", "skip-subnets", "172.17.0.0/16,fd17::/16"))
	got := meshtest.Explained(t, linkerd.New(defaults), pod).Account.Settings
	want := []rules.Setting{
		{Name: "inboundPort", Value: "4143", Key: "linkerd.inbound_port"},
		{Name: "outboundPort", Value: "4140", Key: "linkerd.outbound_port"},
		{Name: "controlPort", Value: "4190", Key: "linkerd.control_port"},
		{Name: "adminPort", Value: "4191", Key: "linkerd.admin_port"},
		{Name: "proxyUID", Value: "2102", Key: "linkerd.proxy_uid"},
		{Name: "proxyGID", Value: "none", Source: "annotation config.linkerd.io/proxy-gid", Key: "linkerd.proxy_gid"},
		{Name: "inboundPortsSkipped", Value: "4567, 4568, 22, 7000-7010", Source: "annotation config.linkerd.io/skip-inbound-ports, added to linkerd.skip_inbound",
			Key: "linkerd.skip_inbound"},
		{Name: "outboundPortsSkipped", Value: "3306", Source: "annotation config.linkerd.io/skip-outbound-ports", Key: "linkerd.skip_outbound"},
		{Name: "apiServerPorts", Value: "443, 6443", Key: "linkerd.api_server"},
		{Name: "inboundSourcesSkipped", Value: "172.17.0.0/16, fd17::/16", Source: "annotation config.linkerd.io/skip-subnets"},
		{Name: "inboundPorts", Value: "all", Key: "linkerd.redirect_ports"},
		{Name: "proxyIPv6", Value: "false", Key: "linkerd.proxy_ipv6"},
		{Name: "ipv6", Value: "mesh", Key: "linkerd.ipv6"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExplainSteps(t *testing.T) {
	first := []string{"the pod is not known to share the node's network namespace", "namespace shop is not one of exclude_namespaces or linkerd.exclude_namespaces"}
	labelled := "label linkerd.io/control-plane-ns is present: the injector has been here, or the pod is the control plane's"
	versioned := "annotation linkerd.io/proxy-version is present: the pod has a proxy"
	shown := injected()
	shown.Containers, shown.Complete = []rules.Container{{Name: "linkerd-proxy"}}, true
	own := injected()
	delete(own.Annotations, "linkerd.io/proxy-version")
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want []string
	}{
		"a sandbox": {injected(), append(slices.Clone(first), labelled, versioned, "no init container linkerd-init that would set the pod up",
			"the pod's containers are not all known: it is taken for one with a proxy, as the annotation says",
			"the annotations say what is to be redirected, and contradict nothing",
			"redirect (injected): label linkerd.io/control-plane-ns and annotation linkerd.io/proxy-version are present")},
		"a manifest": {shown, append(slices.Clone(first), labelled, versioned, "no init container linkerd-init that would set the pod up", "container linkerd-proxy is there",
			"the annotations say what is to be redirected, and contradict nothing",
			"redirect (injected): label linkerd.io/control-plane-ns and annotation linkerd.io/proxy-version are present")},
		"outside": {rules.Pod{Namespace: "shop"}, append(slices.Clone(first), "skip (not-injected): no label linkerd.io/control-plane-ns")},
		"without a proxy": {own, append(slices.Clone(first), labelled,
			"skip (not-injected): label linkerd.io/control-plane-ns is there, but no annotation linkerd.io/proxy-version: the pod has no proxy")},
		"the node's network": {rules.Pod{HostNetwork: true}, []string{"skip (host-network): the pod shares the node's network namespace"}},
	} {
		if diff := cmp.Diff(tt.want, meshtest.Explained(t, mesh, tt.pod).Account.Steps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	meshtest.Explained(t, mesh, injected("proxy-uid", "root"))
}

// What is said to go around the proxy does, what is captured is not said to, and all that goes around is said.
func TestGaps(t *testing.T) {
	meshtest.DrawnGaps(t, func(random *rand.Rand) (rules.Mesh, rules.Pod) { return draw(random) },
		func(random *rand.Rand, s scene, d rules.Decision) packet {
			return drawPacket(random, s, d.Intent.(linkerd.Intent))
		})
}

// Nobody pays for an explanation that nobody asked for.
func TestDecideAllocatesNothingForExplanations(t *testing.T) {
	for name, tt := range map[string]struct {
		pod  rules.Pod
		most float64
	}{"outside": {rules.Pod{Namespace: "shop", Name: "plain"}, 1}, "injected": {injected(), 5}} {
		if n := meshtest.Allocations(mesh, tt.pod); n > tt.most {
			t.Errorf("%s: %v allocations, at most %v", name, n, tt.most)
		}
	}
}
