// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packets

import (
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/integration/labtest"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/internal/sample"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// meshPod is a pod of a mesh other than Istio.
type meshPod struct {
	name string
	mesh rules.Mesh
	pod  rules.Pod
}

func meshPods() []meshPod {
	var pods []meshPod
	add := func(name string, mesh rules.Mesh, labels, annotations map[string]string) {
		pods = append(pods, meshPod{name, mesh, rules.Pod{Namespace: "shop", Name: "cart", Labels: labels, Annotations: annotations,
			IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}}})
	}
	for _, without := range []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block} {
		defaults := linkerd.Standard()
		defaults.WithoutIPv6 = without
		labels := map[string]string{"linkerd.io/control-plane-ns": "linkerd"}
		add("linkerd, nothing said, "+string(without), linkerd.New(defaults), labels, map[string]string{"linkerd.io/proxy-version": "x"})
		add("linkerd, everything, "+string(without), linkerd.New(defaults), labels, map[string]string{"linkerd.io/proxy-version": "x",
			"config.linkerd.io/skip-outbound-ports": "3306,8000-8010,1-2", "config.linkerd.io/skip-inbound-ports": "22,65000-65535",
			"config.linkerd.io/skip-subnets": "172.17.0.0/16,10.1.2.3/9,fd17::/16", "config.linkerd.io/proxy-gid": "2102"})
	}
	for _, without := range []rules.WithoutIPv6{rules.IPv6Capture, rules.IPv6Block} {
		for _, dualStack := range []string{"false", "true"} {
			address, other := "127.0.0.1", "10.0.0.10"
			if dualStack == "true" {
				address, other = "::1", "fd00::10"
			}
			configs := map[string]string{
				"nothing said": `{"ProxyUserID":"5995","ProxyInboundPort":20000}`,
				"lookups":      `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ConsulDNSIP":"` + other + `"}`,
				"everything": `{"ProxyUserID":"5995","ProxyInboundPort":20000,"ConsulDNSIP":"` + address + `","ConsulDNSPort":8600,"ExcludeUIDs":["5996","0"],
					"ExcludeInboundPorts":["20200","7000:7010"],"ExcludeOutboundPorts":["80","1:2"],"ExcludeOutboundCIDRs":["10.0.0.0/9","192.0.2.1","fd00::/7"]}`,
			}
			for _, name := range slices.Sorted(maps.Keys(configs)) {
				add("consul, "+name+", dual-stack "+dualStack+", "+string(without), consul.New(consul.Defaults{Common: mesh.Common{WithoutIPv6: without}}), nil,
					map[string]string{"consul.hashicorp.com/connect-inject-status": "injected", "consul.hashicorp.com/transparent-proxy-status": "enabled",
						"consul.hashicorp.com/dual-stack": dualStack, "consul.hashicorp.com/redirect-traffic-config": configs[name]})
			}
		}
	}
	kumas := map[string]string{
		"nothing said": "cniMode: true",
		"usual":        "cniMode: true\nredirect: {dns: {enabled: true, captureAll: true}, inbound: {excludePorts: [9001]}}",
		"gateway":      "cniMode: true\nredirect: {inbound: {enabled: false}, dns: {enabled: true, captureAll: true, skipConntrackZoneSplit: true}}",
		"included":     "cniMode: true\nredirect: {inbound: {includePorts: [80]}, outbound: {includePorts: [443, 80]}}\ndropInvalidPackets: true",
		"everything": `cniMode: true
dropInvalidPackets: true
redirect:
  dns: {enabled: true, captureAll: true, port: 15153}
  inbound: {excludePorts: [9001, 22], excludePortsForIPs: ['10.1.2.3/9,fd00::/7', 192.0.2.1]}
  outbound: {excludePorts: [25], excludePortsForIPs: ['10.0.0.1', '::5'], excludePortsForUIDs: ['tcp:22,80-90:1001-1005', '1003', '53:0']}
  vnet: {networks: ['docker0:172.17.0.0/16', 'br+:fd00::/8', 'br+:172.18.0.0/16']}`,
	}
	for _, without := range []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block} {
		for _, name := range slices.Sorted(maps.Keys(kumas)) {
			add("kuma, "+name+", "+string(without), kuma.New(kuma.Defaults{Common: mesh.Common{WithoutIPv6: without}}), nil, map[string]string{
				"kuma.io/sidecar-injected": "true", "traffic.kuma.io/transparent-proxy-config": kumas[name] + "\nipFamilyMode: ipv4\n"})
		}
	}
	return pods
}

// Each plan, over each other of its mesh, is what the kernel then holds, whoever writes it, and nothing of it is
// left when it is taken out. A short run has some of the plans.
func TestMeshPlansInTheKernel(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		firewall := labtest.Firewall(t, variant)
		same := map[string]*nstest.Namespace{} // in which all pods of a mesh follow each other
		before := map[string]string{}          // the key of the rules there
		for _, p := range sample.Of(t, 6, meshPods()) {
			if same[p.mesh.Name()] == nil {
				same[p.mesh.Name()] = nstest.New(t)
			}
			t.Run(p.name, func(t *testing.T) {
				plan := meshtest.Plan(t, p.mesh, p.pod)
				if before[p.mesh.Name()] != plan.Key() { // of some pods the rules are the same
					hold(t, firewall, variant, same[p.mesh.Name()], plan)
				}
				before[p.mesh.Name()] = plan.Key()
				fresh := nstest.New(t)
				hold(t, firewall, variant, fresh, plan)
				if _, err := firewall.Apply(t.Context(), opened(t, fresh), rules.Plan{Footprint: p.mesh.Footprint()}); err != nil {
					t.Fatal(err)
				}
				if left := labtest.Shown(t, fresh.Path, tools(variant)); len(left) > 0 {
					t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
				}
			})
		}
	})
}

func opened(t *testing.T, ns *nstest.Namespace) *netns.Namespace {
	t.Helper()
	n, err := netns.Open(ns.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	return n
}

// hold writes a plan and reads it back in every way.
func hold(t *testing.T, firewall *backend.Backend, variant string, ns *nstest.Namespace, plan rules.Plan) {
	t.Helper()
	n := opened(t, ns)
	for i := range 2 {
		changed, err := firewall.Apply(t.Context(), n, plan)
		if err != nil {
			t.Fatal(err)
		}
		if changed != (i == 0) {
			t.Errorf("time %d: changed is %t", i+1, changed)
		}
	}
	if diffs, err := firewall.Verify(t.Context(), n, plan); err != nil || len(diffs) > 0 {
		t.Errorf("differences: %v, %v", diffs, err)
	}
	v4, v6, err := firewall.Own(t.Context(), n, plan.Footprint)
	if err != nil {
		t.Fatal(err)
	}
	own := rules.Plan{V4: v4, V6: v6, Routes: plan.Routes, Loopback: plan.Loopback}
	if own.Key() != plan.Key() {
		t.Errorf("its own rules are not known as such:\n%s\n%s", v4, v6)
	}
	if variant == backend.NFTables {
		return
	}
	if diff := cmp.Diff(labtest.Planned(plan), labtest.Shown(t, ns.Path, tools(variant))); diff != "" {
		t.Errorf("(-plan +kernel):\n%s", diff)
	}
}

// The kernel does with packets what the plan says, for everybody and everything that it names.
func TestMeshPlansByPackets(t *testing.T) {
	onBackends(t, func(t *testing.T, variant string) {
		firewall := labtest.Firewall(t, variant)
		for _, p := range meshPods() {
			if !strings.Contains(p.name, "everything") {
				continue
			}
			t.Run(p.name, func(t *testing.T) {
				pod := nstest.New(t)
				pod.Peer(t, "10.9.0.0/24", "fd09::/64")
				p.pod.IPs = []netip.Addr{netip.MustParseAddr("10.9.0.1"), netip.MustParseAddr("fd09::1")}
				plan := meshtest.Plan(t, p.mesh, p.pod)
				for _, prefix := range plan.Loopback {
					pod.Run(t, "ip", "addr", "add", prefix.String(), "dev", "lo", "nodad")
				}
				n := opened(t, pod)
				if _, err := firewall.Apply(t.Context(), n, plan); err != nil {
					t.Fatal(err)
				}
				settled(t, n)
				checks, err := traffic.Run(t.Context(), n, plan)
				if err != nil {
					t.Fatal(err)
				}
				if counts := traffic.Counts(checks); counts[traffic.Right] < 20 {
					t.Errorf("too little was proved: %s", traffic.Summary(checks))
				}
				t.Log(traffic.Summary(checks))
				for _, c := range checks {
					if c.Verdict == traffic.Wrong {
						t.Error(c)
					}
				}
			})
		}
	})
}
