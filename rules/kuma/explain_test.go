// SPDX-License-Identifier: Apache-2.0

package kuma_test

import (
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/kuma"
	declared "github.com/meshnetd/meshnetd/rules/mesh"
)

const key = "traffic.kuma.io/transparent-proxy-config"

// drawNetworks is draw with networks behind the pod.
func drawNetworks(random *rand.Rand) (rules.Mesh, rules.Pod) {
	m, pod := draw(random)
	if random.IntN(2) == 0 {
		pod.Annotations[key] += "  vnet:\n    networks: " + pick(random, "['docker0:172.17.0.0/16']", "['docker+:172.17.0.0/16', 'docker+:fd17::/16']", "['docker0:10.244.0.0/16']") + "\n"
	}
	return m, pod
}

func TestExplain(t *testing.T) {
	asked := map[string]int{}
	for seed := range uint64(80) {
		m, pod := drawNetworks(rand.New(rand.NewPCG(seed, 1)))
		for source, n := range meshtest.Sources(t, m, pod, alone) {
			asked[source] += n
		}
	}
	if len(asked) != 17+1 { // keys that are drawn, and none
		t.Errorf("%d sources: %v", len(asked), slices.Sorted(maps.Keys(asked)))
	}
}

// alone is the pod with the key that a source names, and otherwise only what it must have.
func alone(pod rules.Pod, source string) rules.Pod {
	var all map[string]any
	if err := yaml.Unmarshal([]byte(pod.Annotations[key]), &all); err != nil {
		panic(err)
	}
	rest := map[string]any{"cniMode": true}
	if path, in, _ := strings.Cut(source, " in annotation "); in != "" {
		from, to := all, rest
		names := strings.Split(path, ".")
		for _, name := range names[:len(names)-1] {
			from = from[name].(map[string]any)
			within := map[string]any{}
			to[name], to = within, within
		}
		last := names[len(names)-1]
		to[last] = from[last]
		if path == "redirect.dns.enabled" {
			to["captureAll"] = true // without which it is refused
		}
	}
	text, err := yaml.Marshal(rest)
	if err != nil {
		panic(err)
	}
	return injected(string(text))
}

func TestExplainSettings(t *testing.T) {
	given := func(path string) string { return path + " in annotation " + key }
	got := meshtest.Explained(t, mesh, injected(busy)).Account.Settings
	want := []rules.Setting{
		{Name: "cniMode", Value: "true", Source: given("cniMode")},
		{Name: "proxyUID", Value: "5678", Source: given("kumaDPUser")},
		{Name: "inbound.enabled", Value: "true", Source: given("redirect.inbound.enabled")},
		{Name: "inbound.port", Value: "15006", Source: given("redirect.inbound.port")},
		{Name: "inbound.ports", Value: "all", Source: given("redirect.inbound.includePorts")},
		{Name: "inbound.portsExcluded", Value: "9001", Source: given("redirect.inbound.excludePorts")},
		{Name: "inbound.rangesExcluded", Value: "192.0.2.1/32, 2001:db8:1::1/128", Source: given("redirect.inbound.excludePortsForIPs")},
		{Name: "outbound.enabled", Value: "true", Source: given("redirect.outbound.enabled")},
		{Name: "outbound.port", Value: "15001", Source: given("redirect.outbound.port")},
		{Name: "outbound.ports", Value: "all"},
		{Name: "outbound.portsExcluded", Value: "3306", Source: given("redirect.outbound.excludePorts")},
		{Name: "outbound.rangesExcluded", Value: "192.0.2.0/24, 2001:db8:1::/48", Source: given("redirect.outbound.excludePortsForIPs")},
		{Name: "usersExcluded", Value: "users 1001-1005 by tcp to 22, user 1001 by udp to 53, 81", Source: given("redirect.outbound.excludePortsForUIDs")},
		{Name: "dnsCapture", Value: "true", Source: given("redirect.dns.enabled")},
		{Name: "dnsPort", Value: "15053", Source: given("redirect.dns.port")},
		{Name: "dnsOneZone", Value: "false", Source: given("redirect.dns.skipConntrackZoneSplit")},
		{Name: "virtualNetworks", Value: "docker0:172.17.0.0/16, docker0:fd17::/16", Source: given("redirect.vnet.networks")},
		{Name: "invalidDrop", Value: "true", Source: given("dropInvalidPackets")},
		{Name: "ipv4Only", Value: "false", Source: given("ipFamilyMode")},
		{Name: "ipv6", Value: "mesh", Key: "kuma.ipv6"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, s := range meshtest.Explained(t, mesh, injected("cniMode: true\nkumaDPUser: \"\"\nredirect: {dns: {port: null}}")).Account.Settings {
		if s.Source != "" && s.Name != "cniMode" {
			t.Errorf("nothing says so, but %+v", s)
		}
	}
}

func TestExplainSteps(t *testing.T) {
	first := []string{"the pod is not known to share the node's network namespace", "namespace shop is not one of exclude_namespaces or kuma.exclude_namespaces"}
	here := append(slices.Clone(first), `annotation kuma.io/sidecar-injected is "true": the injector has been here`)
	says := "annotation " + key + " says what is to be redirected, and contradicts nothing"
	last := []string{says, declared.LookupsBehind, "it says cniMode: true, so that the control plane counts on somebody on the node", `redirect (injected): annotation kuma.io/sidecar-injected is "true"`}
	shown := injected(usual)
	shown.Containers, shown.Complete = []rules.Container{{Name: "kuma-sidecar"}}, true
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want []string
	}{
		"a sandbox": {injected(usual), slices.Concat(here, []string{"no init container kuma-init that would set the pod up",
			"the pod's containers are not all known: it is taken for one with a proxy, as the annotation says"}, last)},
		"a manifest": {shown, slices.Concat(here, []string{"no init container kuma-init that would set the pod up", "container kuma-sidecar is there"}, last)},
		"with an init container": {injected("cniMode: false"), append(slices.Clone(here), "no init container kuma-init that would set the pod up",
			"the pod's containers are not all known: it is taken for one with a proxy, as the annotation says", says,
			"skip (init-container): annotation "+key+" has no cniMode: true, so that init container kuma-init sets the pod up")},
		"outside":            {rules.Pod{Namespace: "shop"}, append(slices.Clone(first), `skip (not-injected): annotation kuma.io/sidecar-injected is not "true"`)},
		"the node's network": {rules.Pod{HostNetwork: true}, []string{"skip (host-network): the pod shares the node's network namespace"}},
	} {
		if diff := cmp.Diff(tt.want, meshtest.Explained(t, mesh, tt.pod).Account.Steps); diff != "" {
			t.Errorf("%s (-want +got):\n%s", name, diff)
		}
	}
	meshtest.Explained(t, mesh, injected("cniMode: perhaps"))
}

// What is said to go around the proxy does, what is captured is not said to, and all that goes around is said.
func TestGaps(t *testing.T) {
	meshtest.DrawnGaps(t, func(random *rand.Rand) (rules.Mesh, rules.Pod) { return drawNetworks(random) },
		func(random *rand.Rand, s scene, d rules.Decision) packet {
			p := drawPacket(random, s, d.Intent.(kuma.Intent))
			if p.Direction == rules.Inbound && random.IntN(3) == 0 {
				p = behind(p)
			}
			return p
		})
}

// Nobody pays for an explanation that nobody asked for.
func TestDecideAllocatesNothingForExplanations(t *testing.T) {
	for name, tt := range map[string]struct {
		pod  rules.Pod
		most float64
	}{"outside": {rules.Pod{Namespace: "shop", Name: "plain"}, 0}, "injected": {injected("cniMode: true"), 100}} {
		if n := meshtest.Allocations(mesh, tt.pod); n > tt.most {
			t.Errorf("%s: %v allocations, at most %v", name, n, tt.most)
		}
	}
}
