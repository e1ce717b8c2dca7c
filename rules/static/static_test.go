// SPDX-License-Identifier: Apache-2.0

package static_test

import (
	"net/netip"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/static"
)

var both = meshtest.Addresses("10.244.1.7", "fd00:10:244::7")

func port(p uint16) rules.PortRange { return rules.PortRange{First: p, Last: p} }

// house is a profile that says nothing that it need not.
func house() static.Profile {
	return static.Profile{Name: "house", Labels: []static.Term{{Key: "proxy", Value: "on"}}, UID: 4000, Proxies: []string{"house-proxy"},
		InboundPort: 16006, OutboundPort: 16001, WithoutIPv6: rules.IPv6Mesh}
}

// busy is one with something in every list.
func busy() static.Profile {
	p := house()
	p.GID = 4001
	p.InboundExclude = []rules.PortRange{port(22), {First: 7000, Last: 7010}}
	p.OutboundPortsExclude = []rules.PortRange{port(3306)}
	p.OutboundExclude = []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12"), netip.MustParsePrefix("fd00:10:96::/48")}
	p.ExcludeInterfaces = []string{"docker0"}
	p.ExemptUIDs = []uint32{5000}
	p.DNSPort = 16053
	p.ProxyIPv6 = true
	return p
}

// picky is one that includes what it wants.
func picky() static.Profile {
	p := house()
	p.Inbound = []rules.PortRange{port(8080), port(22)}
	p.InboundExclude = []rules.PortRange{port(22)}
	p.OutboundPorts = []rules.PortRange{port(443)}
	p.Outbound = []netip.Prefix{netip.MustParsePrefix("198.51.100.0/24"), netip.MustParsePrefix("2001:db8::/32")}
	p.OutboundPortsExclude = []rules.PortRange{port(81)}
	p.ProxyIPv6 = true
	return p
}

func selected() rules.Pod {
	return rules.Pod{Namespace: "shop", Name: "cart", Labels: map[string]string{"proxy": "on", "app": "cart"}, IPs: both}
}

func TestSelector(t *testing.T) {
	for name, tt := range map[string]struct {
		change func(*static.Profile, *rules.Pod)
		reason rules.Reason
	}{
		"selected":          {func(*static.Profile, *rules.Pod) {}, rules.ReasonSelected},
		"another value":     {func(_ *static.Profile, pod *rules.Pod) { pod.Labels["proxy"] = "off" }, rules.ReasonNotInjected},
		"no label":          {func(_ *static.Profile, pod *rules.Pod) { pod.Labels = nil }, rules.ReasonNotInjected},
		"any value":         {func(p *static.Profile, _ *rules.Pod) { p.Labels = []static.Term{{Key: "app", Any: true}} }, rules.ReasonSelected},
		"an empty value":    {func(p *static.Profile, _ *rules.Pod) { p.Labels = []static.Term{{Key: "absent"}} }, rules.ReasonNotInjected},
		"all of the labels": {func(p *static.Profile, _ *rules.Pod) { p.Labels = append(p.Labels, static.Term{Key: "x", Any: true}) }, rules.ReasonNotInjected},
		"no annotation":     {func(p *static.Profile, _ *rules.Pod) { p.Annotations = []static.Term{{Key: "app", Any: true}} }, rules.ReasonNotInjected},
		"an annotation": {func(p *static.Profile, pod *rules.Pod) {
			p.Annotations, pod.Annotations = []static.Term{{Key: "a", Value: "b"}}, map[string]string{"a": "b"}
		}, rules.ReasonSelected},
		"its namespace":     {func(p *static.Profile, _ *rules.Pod) { p.Namespaces = []string{"team-*", "sh?p"} }, rules.ReasonSelected},
		"another namespace": {func(p *static.Profile, _ *rules.Pod) { p.Namespaces = []string{"team-*"} }, rules.ReasonNotInjected},
		"excluded":          {func(p *static.Profile, _ *rules.Pod) { p.ExcludeNamespaces = []string{"shop"} }, rules.ReasonNamespaceExcluded},
		"host network":      {func(_ *static.Profile, pod *rules.Pod) { pod.HostNetwork = true }, rules.ReasonHostNetwork},
		"nobody's":          {func(p *static.Profile, _ *rules.Pod) { *p = static.None }, rules.ReasonNotInjected},
	} {
		p, pod := house(), selected()
		tt.change(&p, &pod)
		d := static.New(p).Decide(pod)
		if d.Reason != tt.reason || d.Mesh != p.Name || (d.Action == rules.Enrol) != (tt.reason == rules.ReasonSelected) || d.Action == rules.Reject {
			t.Errorf("%s: %s by %s (%s: %s)", name, d.Action, d.Mesh, d.Reason, d.Detail)
		}
	}
}

// A pod that two profiles select, or a profile and a mesh, is nobody's until one is left.
func TestTwoProfiles(t *testing.T) {
	other := house()
	other.Name = "other"
	node := rules.Node{Meshes: []rules.Mesh{static.New(house()), static.New(other)}, RuntimeHandlers: []string{""}}
	d := node.Decide(selected())
	if d.Reason != rules.ReasonTwoMeshes || !strings.Contains(d.Detail, "house and other claim the pod") {
		t.Errorf("%s (%s: %s)", d.Action, d.Reason, d.Detail)
	}
	if u := node.Footprint(); len(u.Parts) != 0 || len(u.Routes) != 2 {
		t.Errorf("two profiles have one footprint: %+v", u)
	}
}

func TestProxy(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	d := static.New(busy()).Decide(selected())
	for name, c := range map[string]struct {
		container rules.Container
		impostor  bool
	}{
		"proxy": {rules.Container{Name: "house-proxy", UID: id(4000)}, false},
		"user":  {rules.Container{Name: "app", UID: id(4000)}, true},
		"group": {rules.Container{Name: "app", GID: id(4001)}, true},
		"app":   {rules.Container{Name: "app", UID: id(1000), GID: id(0)}, false},
	} {
		if got := d.Impostor(c.container); (got != "") != c.impostor {
			t.Errorf("%s: %q", name, got)
		}
	}
	if d := (static.New(house())).Decide(selected()); d.Proxy.GID != rules.NoID || d.Impostor(rules.Container{Name: "app", GID: id(0)}) != "" {
		t.Errorf("without a group: %+v", d.Proxy)
	}
	plan := meshtest.Plan(t, static.New(busy()), selected())
	if p := d.Proxy.IdentifiedBy(plan); p.UID != 4000 || p.GID != 4001 {
		t.Errorf("by its rules: %+v", p)
	}
}

func TestPlans(t *testing.T) {
	tproxy := busy()
	tproxy.TProxy = true
	block := busy()
	block.ProxyIPv6, block.WithoutIPv6 = false, rules.IPv6Block
	lookups := house()
	lookups.InboundPort, lookups.OutboundPort, lookups.DNSPort = 0, 0, 16053
	for name, p := range map[string]static.Profile{"house": house(), "busy": busy(), "picky": picky(), "tproxy": tproxy, "block": block, "lookups": lookups} {
		mesh := static.New(p)
		meshtest.Check(t, mesh, selected())
		plan := meshtest.Plan(t, mesh, selected())
		var out strings.Builder
		for _, rs := range plan.Rulesets() {
			out.WriteString("# " + rs.Family.String() + "\n" + meshtest.Lines(rs))
		}
		for _, note := range plan.Notes {
			out.WriteString("# " + note + "\n")
		}
		golden.Check(t, name+".golden", out.String())
		if routed := len(plan.Routes) > 0; routed != p.TProxy {
			t.Errorf("%s: routes %v", name, plan.Routes)
		}
	}
	if n := len(meshtest.Plan(t, static.New(tproxy), selected()).Routes); n != 2 {
		t.Errorf("TPROXY of both families has %d routes", n)
	}
	lookups.WithoutIPv6 = rules.IPv6Block
	if notes := meshtest.Plan(t, static.New(lookups), selected()).Notes; len(notes) != 1 || !strings.Contains(notes[0], "IPv6 is refused") {
		t.Errorf("lookups only: %q", notes)
	}
	tproxy.ProxyIPv6 = false
	if n := len(meshtest.Plan(t, static.New(tproxy), selected()).Routes); n != 1 {
		t.Errorf("TPROXY of IPv4 has %d routes", n)
	}
}

// Every setting has a source, and the settings are those of the intent.
func TestExplain(t *testing.T) {
	d := static.New(busy()).Explain(selected())
	if len(d.Account.Steps) != 5 || len(d.Account.Settings) < 15 {
		t.Errorf("%q, %v", d.Account.Steps, d.Account.Settings)
	}
	for _, s := range d.Account.Settings {
		if s.Name == "" || s.Name == "-" || s.Source != "static profile house" {
			t.Errorf("setting %+v", s)
		}
	}
	if steps := (static.New(house())).Explain(rules.Pod{}).Account.Steps; len(steps) != 4 {
		t.Errorf("outside: %q", steps)
	}
}
