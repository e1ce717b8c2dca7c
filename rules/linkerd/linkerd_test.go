// SPDX-License-Identifier: Apache-2.0

package linkerd_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/linkerd"
)

var (
	mesh = linkerd.New(linkerd.Standard())
	both = meshtest.Addresses("10.244.1.7", "fd00:10:244::7")
)

// injected is a pod with the injector's label and annotation and others, given in pairs.
func injected(pairs ...string) rules.Pod {
	pod := rules.Pod{Namespace: "shop", Name: "cart", IPs: both[:1], Labels: map[string]string{"linkerd.io/control-plane-ns": "linkerd"},
		Annotations: map[string]string{"linkerd.io/proxy-version": "edge-26.8.3"}}
	for pair := range slices.Chunk(pairs, 2) {
		pod.Annotations["config.linkerd.io/"+pair[0]] = pair[1]
	}
	return pod
}

// What linkerd-cni wrote with its chart's defaults, read back with iptables-save.
const recorded = `*nat
-A PREROUTING -m comment --comment "proxy-init/install-proxy-init-prerouting" -j PROXY_INIT_REDIRECT
-A OUTPUT -m comment --comment "proxy-init/install-proxy-init-output" -j PROXY_INIT_OUTPUT
-A PROXY_INIT_OUTPUT -m owner --uid-owner 2102 -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN
-A PROXY_INIT_OUTPUT -o lo -m comment --comment "proxy-init/ignore-loopback" -j RETURN
-A PROXY_INIT_OUTPUT -p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 4140
-A PROXY_INIT_REDIRECT -p tcp -m multiport --dports 4191,4190 -m comment --comment "proxy-init/ignore-port-4191,4190" -j RETURN
-A PROXY_INIT_REDIRECT -p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143
`

func TestRecorded(t *testing.T) {
	defaults := linkerd.Standard()
	defaults.ProxyIPv6 = true
	pod := injected()
	pod.IPs = both
	plan := meshtest.Plan(t, linkerd.New(defaults), pod)
	for _, rs := range plan.Rulesets() { // IPv6 has the same lines
		if diff := cmp.Diff(recorded, meshtest.Lines(rs)); diff != "" {
			t.Errorf("%s (-recorded +ours):\n%s", rs.Family, diff)
		}
	}
	if len(plan.Notes) > 0 {
		t.Errorf("notes: %q", plan.Notes)
	}
}

// One line of a chain in the place of others, for every annotation.
func TestAnnotations(t *testing.T) {
	const (
		out = "PROXY_INIT_OUTPUT"
		in  = "PROXY_INIT_REDIRECT"
	)
	skip := func(list string) string {
		return `-p tcp -m multiport --dports ` + list + ` -m comment --comment "proxy-init/ignore-port-` + list + `" -j RETURN`
	}
	for _, tt := range []struct {
		name  string
		pod   rules.Pod
		node  func(*linkerd.Defaults)
		chain string
		want  []string // besides what is recorded, in its place; "-" before one that is gone
	}{
		{"skip outbound", injected("skip-outbound-ports", "443,8000-8010,25"), nil, out, []string{skip("443,8000:8010,25")}},
		{"skip outbound replaces the node's", injected("skip-outbound-ports", "443"), func(d *linkerd.Defaults) { d.SkipOutbound = ports("4567") }, out, []string{skip("443")}},
		{"skip outbound of the node", injected(), func(d *linkerd.Defaults) { d.SkipOutbound = ports("4567,4568") }, out, []string{skip("4567,4568")}},
		{"empty is none", injected("skip-outbound-ports", ""), func(d *linkerd.Defaults) { d.SkipOutbound = ports("4567") }, out, []string{skip("4567")}},
		{"skip inbound is added", injected("skip-inbound-ports", "22,100-101"), nil, in, []string{"-" + skip("4191,4190"), skip("4191,4190,22,100:101")}},
		{"skip inbound is added to the node's", injected("skip-inbound-ports", "22"), func(d *linkerd.Defaults) { d.SkipInbound = ports("4567") }, in,
			[]string{"-" + skip("4191,4190"), skip("4191,4190,4567,22")}},
		{"a range of one port", injected("skip-outbound-ports", "80-80"), nil, out, []string{skip("80")}},
		{"fifteen numbers", injected("skip-outbound-ports", "1-2,3-4,5-6,7-8,9-10,11-12,13-14,15"), nil, out, []string{skip("1:2,3:4,5:6,7:8,9:10,11:12,13:14,15")}},
		{"sixteen numbers", injected("skip-outbound-ports", "1-2,3-4,5-6,7-8,9-10,11-12,13-14,15-16,17"), nil, out,
			[]string{skip("1:2,3:4,5:6,7:8,9:10,11:12,13:14"), skip("15:16,17")}},
		{"uid", injected("proxy-uid", "2103"), nil, out, []string{
			`-m owner --uid-owner 2103 -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN`,
			`--m owner --uid-owner 2102 -m comment --comment "proxy-init/ignore-proxy-user-id" -j RETURN`}},
		{"gid", injected("proxy-gid", "2104"), nil, out, []string{`-m owner --gid-owner 2104 -m comment --comment "proxy-init/ignore-proxy-group-id" -j RETURN`}},
		{"no gid", injected("proxy-gid", "-1"), func(d *linkerd.Defaults) { d.GID = 2104 }, out, nil},
		{"gid 0", injected("proxy-gid", "0"), func(d *linkerd.Defaults) { d.GID = 2104 }, out, nil},
		{"subnets of the family", injected("skip-subnets", "10.1.2.3/8,fd00::/8,192.0.2.0/24"), nil, in, []string{
			`-s 10.0.0.0/8 -m comment --comment "proxy-init/ignore-subnet-10.1.2.3/8" -j RETURN`,
			`-s 192.0.2.0/24 -m comment --comment "proxy-init/ignore-subnet-192.0.2.0/24" -j RETURN`}},
		{"opaque ports are no skips", injected("opaque-ports", "25,3306"), nil, out, nil},
		{"opaque ports are no skips inbound", injected("opaque-ports", "25,3306"), nil, in, nil},
		{"listener ports", injected("proxy-inbound-port", "14143", "proxy-admin-port", "14191", "proxy-control-port", "14190"), nil, in, []string{
			"-" + skip("4191,4190"), skip("14191,14190"),
			`--p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143`,
			`-p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 14143`}},
		{"outbound listener", injected("proxy-outbound-port", "14140"), nil, out, []string{
			`--p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 4140`,
			`-p tcp -m comment --comment "proxy-init/redirect-all-outgoing-to-proxy-port" -j REDIRECT --to-ports 14140`}},
		{"listed ports only", injected(), func(d *linkerd.Defaults) { d.RedirectPorts = []uint16{80, 443} }, in, []string{
			`--p tcp -m comment --comment "proxy-init/redirect-all-incoming-to-proxy-port" -j REDIRECT --to-ports 4143`,
			`-p tcp -m tcp --dport 80 -m comment --comment "proxy-init/redirect-port-80-to-proxy-port" -j REDIRECT --to-ports 4143`,
			`-p tcp -m tcp --dport 443 -m comment --comment "proxy-init/redirect-port-443-to-proxy-port" -j REDIRECT --to-ports 4143`}},
		{"control plane", component(injected("skip-outbound-ports", "25")), nil, out, []string{skip("25,443,6443")}},
		{"control plane inbound", component(injected()), nil, in, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defaults := linkerd.Standard()
			if tt.node != nil {
				tt.node(&defaults)
			}
			got := ofChain(meshtest.Lines(meshtest.Plan(t, linkerd.New(defaults), tt.pod).V4), tt.chain)
			var added []string
			for _, line := range got {
				if !slices.Contains(ofChain(recorded, tt.chain), line) {
					added = append(added, line)
				}
			}
			for _, line := range ofChain(recorded, tt.chain) {
				if !slices.Contains(got, line) {
					added = append(added, "-"+line)
				}
			}
			slices.Sort(added)
			slices.Sort(tt.want)
			if diff := cmp.Diff(tt.want, added); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
			if last := got[len(got)-1]; !strings.Contains(last, "REDIRECT") {
				t.Errorf("%s comes behind the redirection", last)
			}
		})
	}
}

func ports(list string) []rules.PortRange {
	ports, problem := rules.ParsePorts(list)
	if problem != "" {
		panic(problem)
	}
	return ports
}

func component(pod rules.Pod) rules.Pod {
	pod.Namespace, pod.Labels["linkerd.io/control-plane-component"] = "linkerd", "identity"
	return pod
}

func ofChain(lines, chain string) (rest []string) {
	for line := range strings.Lines(lines) {
		if text, ok := strings.CutPrefix(line, "-A "+chain+" "); ok {
			rest = append(rest, strings.TrimSuffix(text, "\n"))
		}
	}
	return rest
}

// What Linkerd's plugin goes on without, or half applies, is refused, with the place and the value.
func TestInputs(t *testing.T) {
	meshtest.Inputs(t, mesh, func(key, value string) rules.Pod {
		return injected(key, value)
	})
}

func TestRefused(t *testing.T) {
	for _, tt := range []struct{ key, value, problem string }{
		{"skip-outbound-ports", ",", `item 1, "", is not a port`},
		{"skip-outbound-ports", " ", `item 1, " ", is not a port`},
		{"skip-outbound-ports", "http", "not a port"},
		{"skip-outbound-ports", "65536", "not a port"},
		{"skip-outbound-ports", "90-80", "not a port"},
		{"skip-outbound-ports", "80:90", "not a port"},
		{"skip-outbound-ports", "80-90-100", "not a port"},
		{"skip-outbound-ports", "-80", "not a port"},
		{"skip-outbound-ports", "80\n-A OUTPUT -j ACCEPT", "not a port"},
		{"skip-inbound-ports", "22;23", "not a port"},
		{"skip-subnets", "10.0.0.0", "not a CIDR"},
		{"skip-subnets", "10.0.0.0/33", "not a CIDR"},
		{"proxy-uid", "0", "not a number from 1 to 4294967294"},
		{"proxy-uid", "4294967295", "not a number"},
		{"proxy-uid", "linkerd", "not a number"},
		{"proxy-uid", "-1", "not a number"},
		{"proxy-gid", "-2", "not a number"},
		{"proxy-gid", "4294967295", "not a number"},
		{"proxy-inbound-port", "0", "not a port from 1"},
		{"proxy-outbound-port", "x", "not a port"},
		{"proxy-control-port", "65536", "not a port"},
		{"proxy-admin-port", "-1", "not a port"},
	} {
		t.Run(tt.key+" "+tt.value, func(t *testing.T) {
			d := mesh.Decide(injected(tt.key, tt.value))
			if d.Action != rules.Reject || d.Reason != rules.ReasonBadInput || d.Planner != nil {
				t.Fatalf("%s (%s): %s", d.Action, d.Reason, d.Detail)
			}
			for _, part := range []string{"annotation config.linkerd.io/" + tt.key, tt.problem} {
				if !strings.Contains(d.Detail, part) {
					t.Errorf("%q does not say %q", d.Detail, part)
				}
			}
		})
	}
	if d := mesh.Decide(injected("proxy-inbound-port", "4140")); d.Action != rules.Reject || !strings.Contains(d.Detail, "cannot share a port") {
		t.Errorf("one port for two listeners: %s", d.Detail)
	}
}

func TestDecide(t *testing.T) {
	containers := func(pod rules.Pod, names ...string) rules.Pod {
		pod.Complete = true
		for _, name := range names {
			pod.Containers = append(pod.Containers, rules.Container{Name: name})
		}
		return pod
	}
	without := func(change func(*rules.Pod)) rules.Pod {
		pod := injected()
		change(&pod)
		return pod
	}
	for _, tt := range []struct {
		name   string
		pod    rules.Pod
		action rules.Action
		reason rules.Reason
	}{
		{"injected", injected(), rules.Enrol, rules.ReasonInjected},
		{"with its containers", containers(injected(), "app", "linkerd-proxy"), rules.Enrol, rules.ReasonInjected},
		{"nothing", rules.Pod{}, rules.Skip, rules.ReasonNotInjected},
		{"no label", without(func(p *rules.Pod) { p.Labels = nil }), rules.Skip, rules.ReasonNotInjected},
		{"no proxy", without(func(p *rules.Pod) { p.Annotations = nil }), rules.Skip, rules.ReasonNotInjected},
		{"host network", without(func(p *rules.Pod) { p.HostNetwork = true }), rules.Skip, rules.ReasonHostNetwork},
		{"namespace", without(func(p *rules.Pod) { p.Namespace = "kube-system" }), rules.Skip, rules.ReasonNamespaceExcluded},
		{"init container", containers(injected(), "linkerd-init", "linkerd-proxy"), rules.Skip, rules.ReasonInitContainer},
		{"no proxy container", containers(injected(), "app"), rules.Skip, rules.ReasonNoProxy},
		{"another init container", containers(injected(), "linkerd-network-validator", "linkerd-proxy"), rules.Enrol, rules.ReasonInjected},
		{"some containers", without(func(p *rules.Pod) { p.Containers = []rules.Container{{Name: "app"}} }), rules.Enrol, rules.ReasonInjected},
	} {
		t.Run(tt.name, func(t *testing.T) {
			defaults := linkerd.Standard()
			defaults.ExcludeNamespaces = []string{"kube-system"}
			m := linkerd.New(defaults)
			d := m.Decide(tt.pod)
			if d.Action != tt.action || d.Reason != tt.reason || d.Mesh != "linkerd" || d.Detail == "" {
				t.Errorf("%s %s (%s): %s", d.Mesh, d.Action, d.Reason, d.Detail)
			}
			meshtest.Check(t, m, tt.pod)
		})
	}
}

// Nobody else may run as the proxy, and without a group of its own the proxy is nobody's group.
func TestProxy(t *testing.T) {
	id := func(n int64) *int64 { return &n }
	for _, tt := range []struct {
		name      string
		pod       rules.Pod
		container rules.Container
		impostor  bool
	}{
		{"app", injected(), rules.Container{Name: "app", UID: id(1000), GID: id(0)}, false},
		{"the proxy's user", injected(), rules.Container{Name: "app", UID: id(2102)}, true},
		{"the proxy", injected(), rules.Container{Name: "linkerd-proxy", UID: id(2102)}, false},
		{"the proxy's program", injected(), rules.Container{Name: "linkerd-proxy", Args: []string{"/usr/lib/linkerd/linkerd2-proxy-identity"}, UID: id(2102)}, false},
		{"another program", injected(), rules.Container{Name: "linkerd-proxy", Args: []string{"/bin/sh", "linkerd2-proxy-identity"}, UID: id(2102)}, true},
		{"the validator, which asks as an app", injected(), rules.Container{Name: "linkerd-network-validator", UID: id(2102)}, true},
		{"the proxy's group", injected("proxy-gid", "2104"), rules.Container{Name: "app", GID: id(2104)}, true},
		{"no group", injected("proxy-gid", "0"), rules.Container{Name: "app", GID: id(0)}, false},
	} {
		if got := mesh.Decide(tt.pod).Impostor(tt.container); (got != "") != tt.impostor {
			t.Errorf("%s: %q", tt.name, got)
		}
	}
	plan := meshtest.Plan(t, mesh, injected("proxy-uid", "2103"))
	if p := mesh.Decide(injected("proxy-uid", "2103")).Proxy; p.IdentifiedBy(plan).UID != 2103 || p.UID != 2103 || p.IdentifiedBy(plan).GID != rules.NoID {
		t.Errorf("got %+v", p)
	}
}

func TestAddresses(t *testing.T) {
	d := mesh.Decide(injected())
	var input *rules.InputError
	if _, err := d.Planner(rules.Network{Addresses: meshtest.Addresses("fe80::1", "127.0.0.1")}); !errors.As(err, &input) || input.Place != "pod addresses" {
		t.Errorf("without an address: %v", err)
	}
	if plan, err := d.Planner(rules.Network{}); err != nil || plan.V4.Empty() || !plan.V6.Empty() || len(plan.Notes) != 1 {
		t.Errorf("unknown addresses: %v, %q", err, plan.Notes)
	}
}

func TestCloseWaitIsSaid(t *testing.T) {
	notes := meshtest.Plan(t, mesh, injected("close-wait-timeout", "3600s")).Notes
	if len(notes) != 1 || !strings.Contains(notes[0], "close-wait-timeout is not followed") {
		t.Errorf("notes: %q", notes)
	}
}
