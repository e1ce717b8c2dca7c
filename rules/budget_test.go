// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"fmt"
	"sort"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

// within returns a node that allows no more than that.
func within(b rules.Budget) rules.Node {
	i, c, k, l := istio.Standard(), consul.Standard(), kuma.Standard(), linkerd.Standard()
	i.Budget, c.Budget, k.Budget, l.Budget = b, b, b, b
	return rules.Node{RuntimeHandlers: []string{""}, Budget: b, Policies: []rules.CapturePolicy{{MayLoosen: true}}, Meshes: []rules.Mesh{istio.New(i), consul.New(c),
		kuma.New(k), linkerd.New(l)}}
}

// list returns so many ports that no range has two of, with commas between them.
func list(n int, quote string) string {
	ports := make([]string, n)
	for i := range ports {
		ports[i] = fmt.Sprintf("%s%d%s", quote, 10000+2*i%50000, quote)
	}
	return strings.Join(ports, ",")
}

// Each way in which a pod asks for a list, with the items that the pod has besides.
var longLists = map[string]struct {
	pod    func(items string) rules.Pod
	quote  string
	others int
}{
	"istio, inbound": {pod: func(items string) rules.Pod {
		return injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/includeInboundPorts", items)
	}},
	"istio, outbound": {pod: func(items string) rules.Pod {
		return injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/excludeOutboundPorts", items)
	}},
	"istio, groups": {pod: func(items string) rules.Pod {
		pod := injectedBy([]string{"istio"})
		pod.Containers = []rules.Container{{Name: "istio-proxy", Env: map[string]string{"ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE": items}}}
		return pod
	}},
	"consul": {quote: `"`, others: 3, pod: func(items string) rules.Pod {
		return injectedBy([]string{"consul"}, "consul.hashicorp.com/redirect-traffic-config",
			`{"ProxyUserID":"5995","ProxyInboundPort":20000,"ExcludeUIDs":[`+items+`],"ExcludeInboundPorts":null}`)
	}},
	"kuma": {pod: func(items string) rules.Pod {
		return injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config", "redirect: {inbound: {excludePorts: ["+items+"]}}\ncniMode: true")
	}},
	"kuma, lines": {others: 1, pod: func(items string) rules.Pod {
		return injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config",
			"cniMode: true\nredirect:\n  inbound:\n    excludePorts:\n    - "+strings.ReplaceAll(items, ",", "\n    - "))
	}},
	"linkerd, inbound": {pod: func(items string) rules.Pod {
		return injectedBy([]string{"linkerd"}, "config.linkerd.io/skip-inbound-ports", items)
	}},
}

// A pod may ask for what the budget has, and not for one item, byte or rule more; it is told both numbers.
func TestBudgetsEdge(t *testing.T) {
	const most = 100
	for name, tt := range longLists {
		t.Run(name, func(t *testing.T) {
			edge, above := tt.pod(list(most-tt.others, tt.quote)), tt.pod(list(most-tt.others+1, tt.quote))
			d := within(rules.Budget{Items: most, Rules: 1000}).Decide(edge)
			if d.Action != rules.Enrol {
				t.Fatalf("%s: %s", d.Reason, d.Detail)
			}
			refused(t, within(rules.Budget{Items: most}).Decide(above), "101 items", "more than the 100 ", "budget.items")

			bytes := sort.Search(1<<20, func(n int) bool {
				return within(rules.Budget{Bytes: n + 1, Rules: 1000}).Decide(edge).Action == rules.Enrol
			})
			refused(t, within(rules.Budget{Bytes: bytes}).Decide(edge), fmt.Sprint(bytes+1), fmt.Sprintf("more than the %d ", bytes), "budget.bytes")

			plan, err := d.Planner(rules.Network{Addresses: meshtest.Addresses("10.244.1.7", "fd00::7")})
			if err != nil {
				t.Fatal(err)
			}
			n := sort.Search(1<<20, func(n int) bool { return within(rules.Budget{Rules: n + 1}).Decide(edge).Action == rules.Enrol })
			refused(t, within(rules.Budget{Rules: n}).Decide(edge), fmt.Sprintf("takes %d rules", n+1), fmt.Sprintf("more than the %d ", n), "budget.rules")
			if plan.Rules() > n+1 {
				t.Errorf("has %d rules", plan.Rules())
			}
		})
	}
}

func refused(t *testing.T, d rules.Decision, parts ...string) {
	t.Helper()
	if d.Action != rules.Reject || d.Reason != rules.ReasonOverBudget || d.Planner != nil {
		t.Errorf("%s (%s): %.200s", d.Action, d.Reason, d.Detail)
	}
	for _, part := range parts {
		if !strings.Contains(d.Detail, part) {
			t.Errorf("%.300q has no %q", d.Detail, part)
		}
	}
}

// A pod that is refused for its budget costs no more than a few kilobytes, however long its lists are, and neither does one
// outside every mesh that says as much.
func TestOverBudgetCostsNothing(t *testing.T) {
	node := within(rules.Budget{})
	for name, tt := range longLists {
		pod := tt.pod(list(250<<10/6, tt.quote))
		refused(t, node.Decide(pod), "more than the ")
		if bytes, most := allocated(func() { node.Decide(pod) }), uint64(4<<10); bytes > most {
			t.Errorf("%s: %d bytes for a pod with a list of 250 kB, more than %d", name, bytes, most)
		}
		if allocs, most := testing.AllocsPerRun(20, func() { node.Decide(pod) }), 32.0; allocs > most {
			t.Errorf("%s: %v allocations, more than %v", name, allocs, most)
		}
	}
	outside := injectedBy(nil, "traffic.sidecar.istio.io/excludeOutboundPorts", list(250<<10/6, ""))
	if allocs := testing.AllocsPerRun(20, func() { node.Decide(outside) }); allocs > 0 {
		t.Errorf("%v allocations for a pod outside every mesh", allocs)
	}
}

// A pod may write whatever it likes where a policy looks: the refusal names what it can, and how much there is besides.
func TestRefusalByPolicyIsBounded(t *testing.T) {
	node := within(rules.Budget{})
	node.Annotations = []rules.AnnotationPolicy{{Annotation: "example.com/*", Otherwise: rules.Refuse, Allow: rules.Allow("80")}}
	pod := injectedBy([]string{"istio"}, "example.com/a", strings.Repeat("x", 16<<10), "example.com/b", strings.Repeat("80,", 100<<10))
	for i := range 1000 {
		pod.Annotations[fmt.Sprintf("example.com/c%d", i)] = "81"
	}
	d := node.Decide(pod)
	if d.Reason != rules.ReasonForbidden || len(d.Detail) > 1000 {
		t.Errorf("%s, in %d bytes: %s", d.Reason, len(d.Detail), d.Detail)
	}
	for _, part := range []string{"example.com/a: \"xxx", `..." is not allowed in namespace shop by the node's configuration, which allows "80"`, "307200 bytes are more than is read", "and 999 annotations more"} {
		if !strings.Contains(d.Detail, part) {
			t.Errorf("%q is not in %s", part, d.Detail)
		}
	}
	node.Annotations[0].Otherwise = rules.Ignore
	plan, err := node.Decide(pod).Planner(rules.Network{})
	if err != nil || len(plan.Notes) > 8 || len(strings.Join(plan.Notes, "")) > 4000 {
		t.Errorf("%d notes of %d bytes, %v", len(plan.Notes), len(strings.Join(plan.Notes, "")), err)
	}
}

// Rules are counted for whatever addresses the pod comes to have: with IPv6 alone, Istio's proxy speaks it too.
func TestRulesOfAnyAddresses(t *testing.T) {
	pod := injectedBy([]string{"istio"}, "traffic.sidecar.istio.io/excludeOutboundPorts", list(100, ""))
	refused(t, within(rules.Budget{}).Decide(pod), "takes 436 rules", "more than the 400 ")
}

// Each interface whose traffic is rerouted has a rule for each included range: that is what counts.
func TestReroutedCountsForEachRange(t *testing.T) {
	rerouted := func(interfaces, ranges int) rules.Decision {
		var names, prefixes []string
		for i := range interfaces {
			names = append(names, fmt.Sprintf("net%d", i))
		}
		for i := range ranges {
			prefixes = append(prefixes, fmt.Sprintf("10.%d.0.0/16", 2*i))
		}
		return within(rules.Budget{Rules: 8192}).Decide(injectedBy([]string{"istio"}, "istio.io/reroute-virtual-interfaces", strings.Join(names, ","),
			"traffic.sidecar.istio.io/includeOutboundIPRanges", strings.Join(prefixes, ",")))
	}
	if d := rerouted(15, 16); d.Action != rules.Enrol {
		t.Errorf("256 items: %s", d.Detail)
	}
	refused(t, rerouted(15, 17), "255 items, 272 with what else", "budget.items")
}

// What a decision and a plan say of a pod is bounded wherever they quote it.
func TestWordsAreBounded(t *testing.T) {
	long := strings.Repeat("x", 10<<10)
	pod := injectedBy([]string{"istio"})
	pod.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", long}}}
	if d := within(rules.Budget{}).Decide(pod); len(d.Detail) > 1000 {
		t.Errorf("%d bytes: %.200s", len(d.Detail), d.Detail)
	}
	pod.Containers = []rules.Container{{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{"ISTIO_DUAL_STACK": long}}}
	plan, err := within(rules.Budget{}).Decide(pod).Planner(rules.Network{})
	if notes := strings.Join(plan.Notes, "\n"); err != nil || len(notes) > 1000 || !strings.Contains(notes, "is no boolean") {
		t.Errorf("%d bytes, %v: %.200s", len(notes), err, notes)
	}
}

// What injectors write is far within the standard budget: a tenth of its bytes, a sixteenth of its items, a quarter of its rules,
// with those of both families.
func TestStandardBudgetIsFarAbove(t *testing.T) {
	standard := rules.StandardBudget()
	tight := within(rules.Budget{Bytes: standard.Bytes / 10, Items: standard.Items / 16, Rules: standard.Rules / 4})
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		if d := tight.Decide(c.Pod()); d.Action != rules.Enrol {
			t.Errorf("%s: %s", c.Name, d.Detail)
		}
	}
}
