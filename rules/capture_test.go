// SPDX-License-Identifier: Apache-2.0

package rules_test

import (
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

func governed(policies ...rules.CapturePolicy) rules.Node {
	return rules.Node{RuntimeHandlers: []string{""}, Loosening: effect.NewLoosening(), Policies: policies, Meshes: []rules.Mesh{
		istio.New(istio.Standard()), consul.New(consul.Standard()), kuma.New(kuma.Standard()),
		linkerd.New(linkerd.Standard())}}
}

func annotated(pairs ...string) rules.Pod {
	pod := injectedBy([]string{"istio"})
	for i := 0; i < len(pairs); i += 2 {
		pod.Annotations[pairs[i]] = pairs[i+1]
	}
	return pod
}

func running(pod rules.Pod, containers ...rules.Container) rules.Pod {
	pod.Containers = containers
	return pod
}

func theProxy(pairs ...string) rules.Container {
	c := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "sidecar"}, Env: map[string]string{}}
	for i := 0; i < len(pairs); i += 2 {
		c.Env[pairs[i]] = pairs[i+1]
	}
	return c
}

// What a container's arguments and environment would take away from the rules that its sandbox has, by any variable or
// word, is refused, unless the namespace is named; what they add, and who the proxy is, is heard.
func TestContainersTakeNothingAway(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	captures := istio.Standard()
	captures.DNSCapture, captures.DualStack, captures.OwnerGroups = true, true, []uint32{7, 8}
	elsewhere := istio.Standard()
	elsewhere.OutboundPort, elsewhere.InboundPort = 15101, 15106
	for name, tt := range map[string]struct {
		defaults istio.Defaults
		pod      rules.Pod
		refused  bool
	}{
		"DISABLE_ENVOY":      {istio.Standard(), running(annotated(), theProxy("DISABLE_ENVOY", "true")), true},
		"router":             {istio.Standard(), running(annotated(), rules.Container{Name: "istio-proxy", Args: []string{"/usr/local/bin/pilot-agent", "proxy", "router"}}), true},
		"istio-init":         {istio.Standard(), running(annotated(), rules.Container{Name: "istio-init"}), true},
		"kuma-init":          {istio.Standard(), running(injectedBy([]string{"kuma"}), rules.Container{Name: "kuma-init"}), true},
		"linkerd-init":       {istio.Standard(), running(injectedBy([]string{"linkerd"}), rules.Container{Name: "linkerd-init"}), true},
		"groups":             {istio.Standard(), running(annotated(), theProxy("ISTIO_OUTBOUND_OWNER_GROUPS", "4000")), true},
		"no group":           {istio.Standard(), running(annotated(), theProxy("ISTIO_OUTBOUND_OWNER_GROUPS", "")), true},
		"groups excluded":    {istio.Standard(), running(annotated(), theProxy("ISTIO_OUTBOUND_OWNER_GROUPS_EXCLUDE", "1000")), true},
		"fewer groups":       {captures, running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true", "ISTIO_DUAL_STACK", "true", "ISTIO_OUTBOUND_OWNER_GROUPS", "7")), true},
		"DNS capture off":    {captures, running(annotated(), theProxy("ISTIO_DUAL_STACK", "true")), true},
		"dual stack off":     {captures, running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true", "ISTIO_DUAL_STACK", "false")), true},
		"the tunnel's port":  {istio.Standard(), running(annotated(), rules.Container{Name: "istio-validation", Args: []string{"-e", "8080"}}), true},
		"template gateway":   {istio.Standard(), running(annotated("inject.istio.io/templates", "gateway"), rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}}), false},
		"a sidecar":          {istio.Standard(), running(annotated(), theProxy()), false},
		"DNS capture added":  {istio.Standard(), running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true")), false},
		"everything added":   {istio.Standard(), running(annotated("sidecar.istio.io/interceptionMode", "TPROXY"), theProxy("ISTIO_META_DNS_CAPTURE", "1", "ISTIO_DUAL_STACK", "1", "INVALID_DROP", "1")), false},
		"more groups":        {captures, running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true", "ISTIO_DUAL_STACK", "true", "ISTIO_OUTBOUND_OWNER_GROUPS", "7,8,9")), false},
		"every group":        {captures, running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true", "ISTIO_DUAL_STACK", "true", "ISTIO_OUTBOUND_OWNER_GROUPS", "*")), false},
		"another proxy user": {istio.Standard(), running(annotated(), rules.Container{Name: "istio-proxy", UID: id(2102), GID: id(3102)}), false},
		"the app's port":     {istio.Standard(), running(annotated(), rules.Container{Name: "istio-validation", Args: []string{"-z", "8080"}}), true},
		"another listener":   {istio.Standard(), running(annotated(), rules.Container{Name: "istio-validation", Args: []string{"-p", "15101"}}), true},
		"the mesh's ports":   {elsewhere, running(annotated(), rules.Container{Name: "istio-validation", Args: []string{"-p", "15101", "-z", "15106"}}), false},
		"another part of lo": {istio.Standard(), running(annotated(), theProxy("ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR", "127.0.0.0/8")), false},
	} {
		t.Run(name, func(t *testing.T) {
			node := governed()
			node.Meshes[0] = istio.New(tt.defaults)
			d := node.Decide(tt.pod)
			if refused := d.Action == rules.Reject; refused != tt.refused || refused && d.Reason != rules.ReasonLoosened {
				t.Errorf("%s (%s): %s", d.Action, d.Reason, d.Detail)
			}
			if d.Mesh == "" {
				t.Error("no mesh")
			}
			node.Policies = []rules.CapturePolicy{{Namespaces: []string{"other"}}, {Namespaces: []string{"sh*"}, MayLoosen: true}}
			allowed := node.Decide(tt.pod)
			if allowed.Action == rules.Reject {
				t.Errorf("where it is allowed: %s: %s", allowed.Reason, allowed.Detail)
			}
			network, plan := rules.Network{Addresses: []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}}, rules.Plan{}
			if allowed.Action == rules.Enrol {
				plan, _ = allowed.Planner(network)
			}
			if what := node.Loosened(tt.pod, allowed, network, plan); (what != "") != tt.refused {
				t.Errorf("where it is allowed it is loosened by %q", what)
			}
			if e := node.Explain(tt.pod); e.Action != node.Decide(tt.pod).Action {
				t.Errorf("explained as %s", e.Action)
			}
		})
	}
}

// A policy accepts tables of others in its namespaces: the plan says so, and is no other one for it.
func TestAcceptedTables(t *testing.T) {
	accepted := []string{"inet telepresence"}
	plan := func(policies ...rules.CapturePolicy) rules.Plan {
		p, err := governed(policies...).Decide(annotated()).Planner(rules.Network{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	elsewhere, here := plan(rules.CapturePolicy{Namespaces: []string{"other"}, Accepted: accepted}), plan(rules.CapturePolicy{Accepted: accepted})
	if elsewhere.Accepted != nil || !slices.Equal(here.Accepted, accepted) || here.Key() != elsewhere.Key() {
		t.Errorf("accepted %v elsewhere, %v here", elsewhere.Accepted, here.Accepted)
	}
}

// A policy judges what comes of annotations, whoever wrote them, by each mesh's own words.
func TestPolicyOverThePlan(t *testing.T) {
	ports := func(pairs ...uint16) (all []rules.PortRange) {
		for i := 0; i < len(pairs); i += 2 {
			all = append(all, rules.PortRange{First: pairs[i], Last: pairs[i+1]})
		}
		return all
	}
	strict := rules.CapturePolicy{Place: "meshnetd.toml:7", AllOutbound: true, AllInbound: true, OutboundPorts: ports(15020, 15020, 9000, 9010),
		InboundPorts: ports(4190, 4191, 15000, 15100), Ranges: []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("fd00::/8")},
		Interfaces: []string{"net1"}, Users: []uint32{4000}, Groups: []uint32{}}
	consuls := func(config string) rules.Pod {
		return injectedBy([]string{"consul"}, "consul.hashicorp.com/redirect-traffic-config", `{"ProxyUserID":"5995","ProxyInboundPort":20000,`+config+`}`)
	}
	kumas := func(config string) rules.Pod {
		return injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config", "cniMode: true\nredirect:\n"+config)
	}
	const traffic = "traffic.sidecar.istio.io/"
	for name, tt := range map[string]struct {
		pod  rules.Pod
		want string // within the reason; "" is allowed
	}{
		"istio":                {annotated(), ""},
		"istio, TPROXY":        {annotated("sidecar.istio.io/interceptionMode", "TPROXY"), ""},
		"istio, DNS":           {running(annotated(), theProxy("ISTIO_META_DNS_CAPTURE", "true", "ISTIO_DUAL_STACK", "true")), ""},
		"port within":          {annotated(traffic+"excludeOutboundPorts", "9005"), ""},
		"port":                 {annotated(traffic+"excludeOutboundPorts", "9005,443"), "outbound port 443"},
		"inbound port":         {annotated(traffic+"excludeInboundPorts", "8080"), "inbound port 8080"},
		"inbound port, TPROXY": {annotated(traffic+"excludeInboundPorts", "8080", "sidecar.istio.io/interceptionMode", "TPROXY"), "inbound port 8080"},
		"range within":         {annotated(traffic+"excludeOutboundIPRanges", "10.1.0.0/16"), ""},
		"range":                {annotated(traffic+"excludeOutboundIPRanges", "10.0.0.0/7"), "range 10.0.0.0/7"},
		"interface within":     {annotated(traffic+"excludeInterfaces", "net1"), ""},
		"interface":            {annotated(traffic+"excludeInterfaces", "eth0"), "interface eth0"},
		"rerouted":             {annotated("istio.io/reroute-virtual-interfaces", "tap0"), "tap0"},
		"nothing outbound":     {annotated(traffic+"includeOutboundIPRanges", ""), "not all outbound"},
		"some outbound":        {annotated(traffic+"includeOutboundIPRanges", "10.0.0.0/8", traffic+"includeOutboundPorts", "443"), "not all outbound"},
		"nothing inbound":      {annotated(traffic+"includeInboundPorts", ""), "not all inbound"},
		"some inbound":         {annotated(traffic+"includeInboundPorts", "8080"), "not all inbound"},
		"some inbound, TPROXY": {annotated(traffic+"includeInboundPorts", "8080", "sidecar.istio.io/interceptionMode", "TPROXY"), "not all inbound"},
		"consul":               {consuls(`"ExcludeUIDs":["4000"],"ExcludeOutboundCIDRs":["10.2.0.0/16"]`), ""},
		"consul, user":         {consuls(`"ExcludeUIDs":["1000"]`), "user 1000"},
		"consul, port":         {consuls(`"ExcludeOutboundPorts":["9000:9011"]`), "outbound port 9000-9011"},
		"consul, inbound port": {consuls(`"ExcludeInboundPorts":["80"]`), "inbound port 80"},
		"kuma":                 {kumas("  outbound: {excludePorts: [9000]}"), ""},
		"kuma, port":           {kumas("  outbound: {excludePorts: [443]}"), "443"},
		"kuma, off":            {kumas("  outbound: {enabled: false}"), "not all outbound"},
		"kuma, only":           {kumas("  inbound: {includePorts: [80]}"), "not all inbound"},
		"linkerd":              {injectedBy([]string{"linkerd"}, "config.linkerd.io/skip-outbound-ports", "9000-9001"), ""},
		"linkerd, port":        {injectedBy([]string{"linkerd"}, "config.linkerd.io/skip-outbound-ports", "9001,22"), "22"},
		"linkerd, sources":     {injectedBy([]string{"linkerd"}, "config.linkerd.io/skip-subnets", "192.0.2.0/24"), "192.0.2.0/24"},
	} {
		t.Run(name, func(t *testing.T) {
			d := governed(strict).Decide(tt.pod)
			switch {
			case tt.want == "" && d.Action != rules.Enrol:
				t.Errorf("%s (%s): %s", d.Action, d.Reason, d.Detail)
			case tt.want != "" && (d.Reason != rules.ReasonForbidden || !strings.Contains(d.Detail, tt.want) || !strings.Contains(d.Detail, strict.Place)):
				t.Errorf("%s (%s): %s", d.Action, d.Reason, d.Detail)
			}
			if d := governed(rules.CapturePolicy{}).Decide(tt.pod); d.Action != rules.Enrol {
				t.Errorf("by a policy that says nothing: %s (%s): %s", d.Action, d.Reason, d.Detail)
			}
			steps := strings.Join(governed(strict).Explain(tt.pod).Account.Steps, "\n")
			if !strings.Contains(steps, strict.Place) {
				t.Errorf("no explanation names the policy:\n%s", steps)
			}
		})
	}
	if d := governed(rules.CapturePolicy{IPv6: true}).Decide(annotated()); d.Reason != rules.ReasonForbidden {
		t.Errorf("IPv6 around: %s", d.Reason)
	}
	for _, without := range []rules.WithoutIPv6{rules.IPv6Block, rules.IPv6Capture} {
		node, defaults := governed(rules.CapturePolicy{IPv6: true}), istio.Standard()
		defaults.WithoutIPv6 = without
		node.Meshes[0] = istio.New(defaults)
		if d := node.Decide(annotated()); d.Action != rules.Enrol {
			t.Errorf("%s: %s", without, d.Detail)
		}
	}
}

// A pod that bears an injector's mark and is left alone is marked, and a policy can forbid it; one without the mark is
// nobody's business.
func TestPolicyOnSkips(t *testing.T) {
	const status = "sidecar.istio.io/status"
	for name, tt := range map[string]struct {
		pod    rules.Pod
		reason rules.Reason
	}{
		"status names istio-init": {annotated(status, `{"initContainers":["istio-init"],"containers":["istio-proxy"]}`), rules.ReasonInitContainer},
		"inject is false":         {annotated("sidecar.istio.io/inject", "false"), rules.ReasonInjectDisabled},
		"template":                {annotated("inject.istio.io/templates", "gateway"), rules.ReasonNotSidecar},
		"NONE":                    {annotated("sidecar.istio.io/interceptionMode", "NONE"), rules.ReasonInterceptionNone},
		"kuma without cniMode":    {injectedBy([]string{"kuma"}, "traffic.kuma.io/transparent-proxy-config", "cniMode: false"), rules.ReasonInitContainer},
	} {
		t.Run(name, func(t *testing.T) {
			if d := governed().Decide(tt.pod); d.Action != rules.Skip || d.Reason != tt.reason || !d.Marked {
				t.Errorf("%s (%s), marked %t", d.Action, d.Reason, d.Marked)
			}
			if d := governed(rules.CapturePolicy{Skips: []rules.Reason{tt.reason}}).Decide(tt.pod); d.Action != rules.Skip {
				t.Errorf("where it is allowed: %s: %s", d.Action, d.Detail)
			}
			if d := governed(rules.CapturePolicy{Place: "f:3", Skips: []rules.Reason{}}).Decide(tt.pod); d.Reason != rules.ReasonForbidden || !strings.Contains(d.Detail, "f:3") {
				t.Errorf("where it is not: %s (%s): %s", d.Action, d.Reason, d.Detail)
			}
		})
	}
	if d := governed(rules.CapturePolicy{Skips: []rules.Reason{}}).Decide(rules.Pod{Namespace: "shop"}); d.Action != rules.Skip || d.Marked {
		t.Errorf("a pod without a mark: %s, marked %t", d.Action, d.Marked)
	}
}

// What weakens in silence, and no mesh means.
func TestInputsThatWeaken(t *testing.T) {
	own := injectedBy([]string{"linkerd"})
	own.Labels["linkerd.io/control-plane-component"] = "destination"
	if d := governed().Decide(own); d.Reason != rules.ReasonBadInput || !strings.Contains(d.Detail, "control_plane_namespaces") {
		t.Errorf("Linkerd's own label elsewhere: %s (%s): %s", d.Action, d.Reason, d.Detail)
	}
	own.Namespace = "linkerd"
	if d := governed().Decide(own); d.Action != rules.Enrol {
		t.Errorf("in Linkerd's namespace: %s: %s", d.Reason, d.Detail)
	}
	if d := governed().Decide(annotated("istio.io/reroute-virtual-interfaces", "docker0,eth0")); d.Reason != rules.ReasonBadInput {
		t.Errorf("the pod's own interface rerouted: %s (%s)", d.Action, d.Reason)
	}
}
