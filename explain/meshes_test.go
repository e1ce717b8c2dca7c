// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// The commands that are said to show what another mesh than Istio does not capture do show it.
func TestGapsOfOtherMeshesAreShownByTheirCommands(t *testing.T) {
	pod := func(labels, annotations map[string]string) rules.Pod {
		return rules.Pod{Namespace: "shop", Name: "cart", Labels: labels, Annotations: annotations,
			IPs: []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}}
	}
	shown := 0
	for _, without := range []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block} {
		linkerds := linkerd.Standard()
		linkerds.WithoutIPv6, linkerds.RedirectPorts = without, []uint16{8080, 8081}
		for _, tt := range []struct {
			mesh rules.Mesh
			pod  rules.Pod
		}{
			{linkerd.New(linkerds), controlPlanes(pod(map[string]string{"linkerd.io/control-plane-ns": "linkerd", "linkerd.io/control-plane-component": "destination"},
				map[string]string{"linkerd.io/proxy-version": "x", "config.linkerd.io/skip-outbound-ports": "3306,8000-8010", "config.linkerd.io/skip-inbound-ports": "22",
					"config.linkerd.io/skip-subnets": "172.17.0.0/16,fd17::/16", "config.linkerd.io/proxy-gid": "1000"}))},
			{consul.New(consul.Defaults{Common: mesh.Common{WithoutIPv6: without}}), pod(nil, map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
				"consul.hashicorp.com/transparent-proxy-status": "enabled", "consul.hashicorp.com/redirect-traffic-config": `{"ProxyUserID":"5995","ProxyInboundPort":20000,
				"ConsulDNSIP":"10.0.0.10","ConsulDNSPort":8600,"ExcludeUIDs":["1000","0"],"ExcludeInboundPorts":["20200","7000:7010"],"ExcludeOutboundPorts":["80"],
				"ExcludeOutboundCIDRs":["192.0.2.0/24","fd00::/8"]}`})},
			{kuma.New(kuma.Defaults{Common: mesh.Common{WithoutIPv6: without}}), pod(nil, map[string]string{"kuma.io/sidecar-injected": "true",
				"traffic.kuma.io/transparent-proxy-config": `{cniMode: true, ipFamilyMode: ipv4, redirect: {dns: {enabled: true, captureAll: true},
				inbound: {excludePorts: [9001], excludePortsForIPs: ['192.0.2.0/24,fd00::/8']},
				outbound: {excludePorts: [25], excludePortsForIPs: ['10.0.0.1'], excludePortsForUIDs: ['tcp:22:1001-1005', '53:0']}}}`})},
		} {
			v := View{Pod: tt.pod, Decision: rules.Node{Meshes: []rules.Mesh{tt.mesh}, RuntimeHandlers: []string{""}}.Explain(tt.pod)}.Planned(rules.Network{Addresses: tt.pod.IPs})
			shown += shownByCommands(t, tt.mesh.Name()+" "+string(without), v, Assumed(tt.pod.IPs))
		}
	}
	if shown < 80 {
		t.Errorf("only %d gaps", shown)
	}
}

// controlPlanes puts a pod where Linkerd's own are.
func controlPlanes(pod rules.Pod) rules.Pod {
	pod.Namespace = "linkerd"
	return pod
}
