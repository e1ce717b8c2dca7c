// SPDX-License-Identifier: Apache-2.0

package consul_test

import (
	"encoding/json"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

func TestExplain(t *testing.T) {
	asked := map[string]int{}
	for seed := range uint64(100) {
		m, pod := draw(rand.New(rand.NewPCG(seed, 1)))
		for source, n := range meshtest.Sources(t, m, pod, alone) {
			asked[source] += n
		}
	}
	if len(asked) != 9+1+1 { // keys, the other annotation, and none
		t.Errorf("%d sources: %v", len(asked), slices.Sorted(maps.Keys(asked)))
	}
}

// alone is the pod with what a source names, and otherwise only what it must have.
func alone(pod rules.Pod, source string) rules.Pod {
	var all, rest map[string]json.RawMessage
	if err := json.Unmarshal([]byte(pod.Annotations[prefix+"redirect-traffic-config"]), &all); err != nil {
		panic(err)
	}
	if err := json.Unmarshal([]byte(minimal("")), &rest); err != nil {
		panic(err)
	}
	dualStack := ""
	switch key, in, _ := strings.Cut(source, " in annotation "); {
	case in != "":
		rest[key] = all[key]
		if key == "ConsulDNSIP" {
			dualStack = pod.Annotations[prefix+"dual-stack"] // which must fit it
		}
	case source != "":
		dualStack = pod.Annotations[strings.TrimPrefix(source, "annotation ")]
	}
	text, err := json.Marshal(rest)
	if err != nil {
		panic(err)
	}
	return injected(string(text), "dual-stack", dualStack)
}

func TestExplainSettings(t *testing.T) {
	given := func(key string) string { return key + " in annotation " + prefix + "redirect-traffic-config" }
	pod := injected(minimal(`,"ProxyOutboundPort":0,"ConsulDNSIP":"","ConsulDNSPort":null,"ExcludeOutboundPorts":["80","8000:8010"],"ExcludeInboundPorts":[]`))
	got := meshtest.Explained(t, mesh, pod).Account.Settings
	want := []rules.Setting{
		{Name: "proxyUID", Value: "5995", Source: given("ProxyUserID")},
		{Name: "inboundPort", Value: "20000", Source: given("ProxyInboundPort")},
		{Name: "outboundPort", Value: "15001"},
		{Name: "inboundPortsExcluded", Value: "none", Source: given("ExcludeInboundPorts")},
		{Name: "outboundPortsExcluded", Value: "80, 8000-8010", Source: given("ExcludeOutboundPorts")},
		{Name: "outboundRangesExcluded", Value: "none"},
		{Name: "usersExcluded", Value: "none"},
		{Name: "dnsAddress", Value: "none"},
		{Name: "dnsPort", Value: "none"},
		{Name: "dualStack", Value: "false", Source: "annotation " + prefix + "dual-stack"},
		{Name: "ipv6", Value: "mesh", Key: "consul.ipv6"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestExplainSteps(t *testing.T) {
	first := []string{"the pod is not known to share the node's network namespace", "namespace shop is not one of exclude_namespaces or consul.exclude_namespaces"}
	asks := "annotation " + prefix + "transparent-proxy-status is present: the pod asks for redirection"
	by := func(key string) string {
		return "annotation " + prefix + key + " is present: the injector has been here"
	}
	newer, without := injected(minimal("")), injected(minimal(""))
	delete(newer.Annotations, prefix+"connect-inject-status")
	newer.Annotations[prefix+"mesh-inject-status"] = "injected"
	delete(without.Annotations, prefix+"transparent-proxy-status")
	last := []string{"annotation " + prefix + "redirect-traffic-config says what is to be redirected, and contradicts nothing",
		"redirect (injected): annotation " + prefix + "transparent-proxy-status is present"}
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want []string
	}{
		"injected":           {injected(minimal("")), slices.Concat(first, []string{by("connect-inject-status"), asks}, last)},
		"by another name":    {newer, slices.Concat(first, []string{by("mesh-inject-status"), asks}, last)},
		"asks for nothing":   {without, append(slices.Clone(first), by("connect-inject-status"), "skip (interception-none): no annotation "+prefix+"transparent-proxy-status: the pod asks for no redirection")},
		"outside":            {rules.Pod{Namespace: "shop"}, append(slices.Clone(first), "skip (not-injected): neither annotation "+prefix+"connect-inject-status nor "+prefix+"mesh-inject-status")},
		"the node's network": {rules.Pod{HostNetwork: true}, []string{"skip (host-network): the pod shares the node's network namespace"}},
	} {
		if diff := cmp.Diff(tt.want, meshtest.Explained(t, mesh, tt.pod).Account.Steps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	meshtest.Explained(t, mesh, injected("{"))
}

// What is said to go around the proxy does, what is captured is not said to, and all that goes around is said.
func TestGaps(t *testing.T) {
	meshtest.DrawnGaps(t, func(random *rand.Rand) (rules.Mesh, rules.Pod) { return draw(random) },
		func(random *rand.Rand, s scene, d rules.Decision) packet {
			return drawPacket(random, s, d.Intent.(consul.Intent))
		})
}

// Lookups at a port of an address that is not the pod's leave it, and that is said; those at its own do not.
func TestLookupsThatLeaveAreSaid(t *testing.T) {
	for config, said := range map[string]bool{
		`,"ConsulDNSIP":"10.0.0.10"`: true, `,"ConsulDNSIP":"10.0.0.10","ConsulDNSPort":8600`: true,
		`,"ConsulDNSIP":"127.0.0.1","ConsulDNSPort":8600`: false, `,"ConsulDNSIP":"10.244.1.7","ConsulDNSPort":8600`: false, `,"ConsulDNSPort":8600`: false,
	} {
		pod := injected(minimal(config))
		plan, d := meshtest.Plan(t, mesh, pod), mesh.Decide(pod)
		s := meshtest.Scenes[0]
		meshtest.Gaps(t, d, plan, []packet{s.Sent(app, "udp", s.DNSAddr, 53), s.Sent(app, "tcp", s.Loopback, 53), s.Sent(app, "udp", s.Own, 53)})
		found := gaps.Of(plan, meshtest.Interfaces(), d.Proxy)
		if got := slices.ContainsFunc(found, func(g rules.Gap) bool { return strings.Contains(g.What, ", at ") }); got != said {
			t.Errorf("%s: said: %v, want %v", config, got, said)
		}
	}
}

// Nobody pays for an explanation that nobody asked for.
func TestDecideAllocatesNothingForExplanations(t *testing.T) {
	for name, tt := range map[string]struct {
		pod  rules.Pod
		most float64
	}{"outside": {rules.Pod{Namespace: "shop", Name: "plain"}, 0}, "injected": {injected(minimal("")), 43}} {
		if n := meshtest.Allocations(mesh, tt.pod); n > tt.most {
			t.Errorf("%s: %v allocations, at most %v", name, n, tt.most)
		}
	}
}
