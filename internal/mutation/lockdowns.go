// SPDX-License-Identifier: Apache-2.0

package main

import (
	"net/netip"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// lockedPods are pods in namespaces with a lockdown of everything, that counts or is enforced, and that leaves the proxy alone
// or says where it may send to.
func lockedPods() (all []subjectPod) {
	nodes := []netip.Addr{netip.MustParseAddr("192.0.2.9"), netip.MustParseAddr("2001:db8::9")}
	add := func(name string, mesh rules.Mesh, annotations map[string]string, lockdowns ...rules.Lockdown) {
		node := rules.Node{RuntimeHandlers: []string{""}, Meshes: []rules.Mesh{mesh}, Addresses: nodes, Lockdowns: lockdowns}
		all = append(all, subjectPod{name, node, rules.Pod{Namespace: "shop", Name: "cart", IPs: both, Annotations: annotations}})
	}
	bound := whole()
	bound.ProxyEgress, bound.UDP, bound.LocalRoot, bound.Inbound = peers("198.51.100.0/24", "2001:db8:5::/48", 15012, rules.TCP), rules.UDPNone, true, false
	quic := rules.Lockdown{UDP: rules.UDPNoQUIC, Inbound: true, Drop: true}
	defaults := istio.Standard()
	defaults.DNSCapture, defaults.DualStack = true, true
	for _, mode := range []string{"REDIRECT", "TPROXY"} {
		annotations := map[string]string{"sidecar.istio.io/status": "{}", "sidecar.istio.io/interceptionMode": mode,
			"traffic.sidecar.istio.io/excludeOutboundPorts": "5432", "istio.io/reroute-virtual-interfaces": "net1",
			"traffic.sidecar.istio.io/excludeInboundPorts": "22,53,9090,15009,15019,15022,15091"} // and the ports beside those of the agent
		for _, of := range []struct {
			name string
			rules.Lockdown
		}{{"lockdown", whole()}, {"lockdown of the proxy", bound}, {"lockdown of QUIC", quic}} {
			if mode == "TPROXY" && !of.Egress {
				continue
			}
			add("istio "+mode+", "+of.name+" counts", istio.New(defaults), annotations, of.Lockdown)
			of.Enforce = true
			add("istio "+mode+", "+of.name, istio.New(defaults), annotations, of.Lockdown)
		}
	}
	locked := whole()
	locked.Enforce = true
	add("consul, lockdown", consul.New(consul.Standard()), map[string]string{"consul.hashicorp.com/connect-inject-status": "injected",
		"consul.hashicorp.com/transparent-proxy-status": "enabled", "consul.hashicorp.com/dual-stack": "true",
		"consul.hashicorp.com/redirect-traffic-config": `{"ConsulDNSIP":"fd01::10","ProxyUserID":"5995","ProxyInboundPort":20000,"ProxyOutboundPort":15001}`}, locked)
	return all
}

// whole is a lockdown of everything but what the proxy sends.
func whole() rules.Lockdown {
	return rules.Lockdown{UDP: rules.UDPLookups, DNSServers: []netip.Addr{netip.MustParseAddr("10.96.0.10"), netip.MustParseAddr("fd00::a")},
		ICMP: true, Others: true, Egress: true, Inbound: true, LocalPorts: []rules.PortRange{{First: 15000, Last: 15000}, {First: 15004, Last: 15004}},
		Allow: peers("10.1.0.5/32", "fd00:1::5/128", 8125, rules.UDP), Admit: peers("10.0.0.0/8", "fd00::/8", 9090, rules.TCP)}
}

// peers are a port of a range of each family.
func peers(v4, v6 string, port uint16, protocol string) (all []rules.Peer) {
	for _, prefix := range []string{v4, v6} {
		all = append(all, rules.Peer{Prefix: netip.MustParsePrefix(prefix), Ports: rules.PortRange{First: port, Last: port}, Protocol: protocol})
	}
	return all
}
