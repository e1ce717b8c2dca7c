// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/static"
)

// subjectPod is a pod, and who decides about it.
type subjectPod struct {
	name string
	by   decider
	pod  rules.Pod
}

// pods are such of the meshes other than Istio that set all that they can, each with its IPv6 captured and refused.
func pods() (all []subjectPod) {
	add := func(name string, mesh rules.Mesh, labels, annotations map[string]string) {
		all = append(all, subjectPod{name, mesh, rules.Pod{Namespace: "shop", Name: "cart", IPs: both, Labels: labels, Annotations: annotations}})
	}
	linkerds, speaking := linkerd.Standard(), linkerd.Standard()
	linkerds.WithoutIPv6, speaking.ProxyIPv6 = rules.IPv6Block, true
	some := speaking
	some.RedirectPorts = []uint16{80, 443}
	for name, d := range map[string]linkerd.Defaults{"linkerd, IPv6 refused": linkerds, "linkerd": speaking, "linkerd, some ports": some} {
		add(name, linkerd.New(d), map[string]string{"linkerd.io/control-plane-ns": "linkerd"}, map[string]string{
			"linkerd.io/proxy-version": "edge-26.8.3", "config.linkerd.io/skip-outbound-ports": "3306", "config.linkerd.io/skip-inbound-ports": "22,7000-7010",
			"config.linkerd.io/skip-subnets": "172.17.0.0/16,fd17::/16", "config.linkerd.io/proxy-gid": "2103"})
	}
	kumas := kuma.Standard()
	kumas.WithoutIPv6 = rules.IPv6Block
	for name, config := range map[string]string{
		"kuma":               "dropInvalidPackets: true\nredirect: {vnet: {networks: ['docker0:172.17.0.0/16']}, ",
		"kuma, IPv6 refused": "ipFamilyMode: ipv4\nredirect: {",
	} {
		add(name, kuma.New(kumas), nil, map[string]string{"kuma.io/sidecar-injected": "true",
			"traffic.kuma.io/transparent-proxy-config": "cniMode: true\n" + config + "dns: {enabled: true, captureAll: true, port: 15053}, inbound: {enabled: true, port: 15006}, " +
				"outbound: {enabled: true, port: 15001, excludePortsForUIDs: ['tcp:22:1001-1005', 'udp:53,81:1001', 1003], excludePortsForIPs: ['10.0.0.0/8', 'fd01::/16']}}"})
	}
	consuls := consul.Standard()
	consuls.WithoutIPv6 = rules.IPv6Block
	for dual, address := range map[string]string{"false": "10.0.0.10", "true": "fd01::10"} {
		for name, port := range map[string]string{"": "", ", port": `"ConsulDNSPort":8600,`} {
			add("consul, dual-stack "+dual+name, consul.New(consuls), nil, map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
				"consul.hashicorp.com/transparent-proxy-status": "enabled", "consul.hashicorp.com/dual-stack": dual,
				"consul.hashicorp.com/redirect-traffic-config": `{"ConsulDNSIP":"` + address + `",` + port + `"ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001,` +
					`"ExcludeInboundPorts":["20200"],"ExcludeOutboundPorts":["25"],"ExcludeOutboundCIDRs":["172.16.0.0/12","fd02::/16"],"ExcludeUIDs":["5996","1"]}`})
		}
	}
	for _, tproxy := range []bool{false, true} {
		for name, speaks := range map[string]bool{"static": true, "static, IPv6 refused": false} {
			p := static.Profile{Name: "house", UID: 4000, GID: 4001, InboundPort: 16006, OutboundPort: 16001, DNSPort: 16053,
				InboundExclude: []rules.PortRange{{First: 22, Last: 22}, {First: 7000, Last: 7010}}, OutboundExclude: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/12")},
				ExemptUIDs: []uint32{5000}, ExcludeInterfaces: []string{"net1"}, TProxy: tproxy, ProxyIPv6: speaks, WithoutIPv6: rules.IPv6Block}
			if tproxy {
				name += ", TPROXY"
			}
			add(name, static.New(p), nil, nil)
		}
	}
	return all
}
