// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"math"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// wishes are all ways in which a pod can say something at length, with the value that it says.
var wishes = []func(value string) rules.Pod{
	injectedWith("istio", "sidecar.istio.io/status"), injectedWith("istio", "inject.istio.io/templates"), injectedWith("istio", "proxy.istio.io/overrides"),
	injectedWith("istio", "sidecar.istio.io/interceptionMode"), injectedWith("istio", "traffic.sidecar.istio.io/includeInboundPorts"),
	injectedWith("istio", "traffic.sidecar.istio.io/excludeInboundPorts"), injectedWith("istio", "traffic.sidecar.istio.io/includeOutboundPorts"),
	injectedWith("istio", "traffic.sidecar.istio.io/excludeOutboundPorts"), injectedWith("istio", "traffic.sidecar.istio.io/includeOutboundIPRanges"),
	injectedWith("istio", "traffic.sidecar.istio.io/excludeOutboundIPRanges"), injectedWith("istio", "traffic.sidecar.istio.io/excludeInterfaces"),
	injectedWith("istio", "istio.io/reroute-virtual-interfaces"), injectedWith("istio", "traffic.sidecar.istio.io/kubevirtInterfaces"),
	func(value string) rules.Pod {
		return injectedBy([]string{"istio"}, "istio.io/reroute-virtual-interfaces", value, "traffic.sidecar.istio.io/includeOutboundIPRanges", strings.Repeat("10.0.0.0/9,", 40)+"10.0.0.0/8")
	},
	proxyWith("ISTIO_OUTBOUND_OWNER_GROUPS"), proxyWith("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE"), proxyWith("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR"),
	proxyWith("ISTIO_META_DNS_CAPTURE"), proxyWith("ISTIO_DUAL_STACK"), proxyWith("INVALID_DROP"), proxyWith("DISABLE_ENVOY"),
	argumentsOf("istio-proxy"), argumentsOf("istio-validation"),
	injectedWith("consul", "consul.hashicorp.com/redirect-traffic-config"), injectedWith("consul", "consul.hashicorp.com/dual-stack"),
	consulList("ExcludeInboundPorts"), consulList("ExcludeOutboundPorts"), consulList("ExcludeOutboundCIDRs"), consulList("ExcludeUIDs"), consulList("Other"),
	injectedWith("kuma", "traffic.kuma.io/transparent-proxy-config"), injectedWith("kuma", "k8s.v1.cni.cncf.io/networks"),
	kumaList("inbound", "excludePorts"), kumaList("outbound", "includePorts"), kumaList("outbound", "excludePortsForIPs"), kumaList("outbound", "excludePortsForUIDs"),
	kumaList("vnet", "networks"),
	injectedWith("linkerd", "config.linkerd.io/skip-inbound-ports"), injectedWith("linkerd", "config.linkerd.io/skip-outbound-ports"),
	injectedWith("linkerd", "config.linkerd.io/skip-subnets"), injectedWith("linkerd", "config.linkerd.io/proxy-uid"),
	injectedWith("linkerd", "config.linkerd.io/proxy-admin-port"),
	func(value string) rules.Pod {
		return injectedBy([]string{"linkerd", "kuma", "consul", "istio"}, value, value)
	},
	func(value string) rules.Pod { return injectedBy(nil, "example.com/notes", value) },
}

func injectedWith(mesh, key string) func(string) rules.Pod {
	return func(value string) rules.Pod { return injectedBy([]string{mesh}, key, value) }
}

func proxyWith(variable string) func(string) rules.Pod {
	return func(value string) rules.Pod {
		pod := injectedBy([]string{"istio"})
		pod.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{variable: value}}}
		return pod
	}
}

// argumentsOf has many arguments, and one that is long.
func argumentsOf(container string) func(string) rules.Pod {
	return func(value string) rules.Pod {
		pod := injectedBy([]string{"istio"})
		pod.Containers = []rules.Container{{Name: container, Args: append([]string{"istio-iptables", "-p", value}, strings.Split(value, ",")...)}}
		return pod
	}
}

func consulList(key string) func(string) rules.Pod {
	return func(value string) rules.Pod {
		return injectedBy([]string{"consul"}, "consul.hashicorp.com/redirect-traffic-config",
			`{"ProxyUserID":"5995","ProxyInboundPort":20000,"`+key+`":["`+strings.ReplaceAll(value, ",", `","`)+`"]}`)
	}
}

func kumaList(direction, key string) func(string) rules.Pod {
	return func(value string) rules.Pod {
		return injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config",
			"cniMode: true\nredirect: {"+direction+": {"+key+": ['"+strings.ReplaceAll(value, ",", "', '")+"']}}")
	}
}

// What a pod may cost that is refused for its budget, and one within it, in bytes that are allocated for it; and how long a
// text about it is.
const (
	mostOfRefused, mostOfDecided, mostOfExplained = 8 << 10, 1 << 20, 4 << 20
	mostText                                      = 1024
)

// policed is a node that has policies to hold against annotations.
func policed() rules.Node {
	node := within(rules.StandardBudget())
	node.Annotations = []rules.AnnotationPolicy{{Annotation: "*/exclude*", Allow: rules.Allow("15020", "1-9", "10.0.0.0/8", "x"), Otherwise: rules.Refuse},
		{Annotation: "*/skip-*", Allow: rules.Allow("1-9"), Otherwise: rules.Ignore}, {Annotation: "example.com/*", Otherwise: rules.Refuse}}
	return node
}

// FuzzPods has whole pods of every mesh that say a text so many times, up to the 256 KiB that Kubernetes allows of
// annotations. Whatever it is, the decision costs little, is said in few words, and the rules that follow are few.
func FuzzPods(f *testing.F) {
	for i := range wishes {
		for _, item := range []string{"10000,", "1-2,", "10.0.0.0/24,", "eth0,", "x", "-\n", "[", "tcp:1,2:3,"} {
			f.Add(uint8(i), item, uint32(1), "80")
			f.Add(uint8(i), item, uint32(40), "81")
			f.Add(uint8(i), item, uint32(250<<10/len(item)), "443")
		}
	}
	f.Fuzz(func(t *testing.T, way uint8, item string, times uint32, last string) {
		const most = 256 << 10
		if len(item) > 4<<10 || len(last) > 4<<10 {
			return
		}
		if len(item) > 0 {
			times = min(times, most/uint32(len(item)))
		}
		pod := wishes[int(way)%len(wishes)](strings.Repeat(item, int(times)%most) + last)
		for _, node := range []rules.Node{within(rules.StandardBudget()), policed()} {
			checkCost(t, node, pod)
		}
	})
}

func checkCost(t *testing.T, node rules.Node, pod rules.Pod) {
	t.Helper()
	var d rules.Decision
	var plan rules.Plan
	cost := allocated(func() {
		if d = node.Decide(pod); d.Action == rules.Enrol {
			plan, _ = d.Planner(on([]string{"10.244.1.7", "fd00:10:244::7"}))
		}
	})
	most := uint64(mostOfDecided)
	asked := strings.Contains(d.Detail, "budget.rules") || strings.Contains(d.Detail, "times budget.bytes") // the meshes, before that
	if d.Reason == rules.ReasonOverBudget && !asked {
		most = mostOfRefused
	}
	if cost > most {
		t.Errorf("%s (%s): %d bytes allocated, more than %d: %s", d.Action, d.Reason, cost, most, d.Detail)
	}
	if len(d.Detail) > mostText {
		t.Errorf("says %d bytes: %s", len(d.Detail), d.Detail)
	}
	for _, addresses := range [][]string{{"10.244.1.7", "fd00:10:244::7"}, {"10.244.1.7"}, {"fd00:10:244::7"}, {"fe80::1", "10.244.1.7"}, nil} {
		if d.Action != rules.Enrol {
			break
		}
		if plan, _ := d.Planner(on(addresses)); plan.Rules() > rules.StandardBudget().Rules {
			t.Errorf("has %d rules on %v", plan.Rules(), addresses)
		}
	}
	checkRemembered(t, node, pod, d)
	checkBounded(t, node, pod, d)
	for _, note := range plan.Notes {
		if len(note) > mostText || len(plan.Notes) > 16 {
			t.Errorf("%d notes, one of %d bytes: %s", len(plan.Notes), len(note), note)
		}
	}
	cost = allocated(func() {
		if explained := node.Explain(pod); d.Action == rules.Enrol {
			gaps.Of(plan, meshtest.Interfaces(), explained.Proxy)
		}
	})
	if cost > mostOfExplained {
		t.Errorf("%s (%s): an explanation allocates %d bytes", d.Action, d.Reason, cost)
	}
}

func on(addresses []string) rules.Network {
	return rules.Network{Addresses: meshtest.Addresses(addresses...)}
}

// allocated returns how many bytes a function allocates at least, of two times: others allocate beside it.
func allocated(do func()) uint64 {
	var least uint64 = math.MaxUint64
	for range 2 {
		least = min(least, heap.Allocated(do))
	}
	return least
}
