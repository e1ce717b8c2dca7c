// SPDX-License-Identifier: Apache-2.0

package linkerd

import (
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

const (
	configured  = "linkerd." // what the keys of the node's configuration begin with
	becauseIPv6 = configured + "proxy_ipv6 is false in the node's configuration, as disableIPv6 is true by Linkerd's default"
)

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if intent, ok := d.Intent.(Intent); ok {
		d.Account.Settings = account.Settings(intent, m.sources(pod))
	}
	return d
}

// sources says where each setting is from.
func (m Mesh) sources(pod rules.Pod) account.Sources {
	s := account.Sources{
		Given: map[string]string{},
		Keys: map[string]string{
			"inboundPort": "inbound_port", "outboundPort": "outbound_port", "controlPort": "control_port", "adminPort": "admin_port",
			"proxyUID": "proxy_uid", "proxyGID": "proxy_gid", "inboundPortsSkipped": "skip_inbound", "outboundPortsSkipped": "skip_outbound",
			"apiServerPorts": "api_server", "inboundPorts": "redirect_ports", "proxyIPv6": "proxy_ipv6", "ipv6": "ipv6",
		},
		Empty: map[string]string{"proxyGID": "none", "inboundPorts": "all"},
	}
	for name, key := range s.Keys {
		s.Keys[name] = configured + key
	}
	for name, key := range map[string]string{"inboundPort": keyInboundPort, "outboundPort": keyOutboundPort, "controlPort": keyControlPort,
		"adminPort": keyAdminPort, "proxyUID": keyUID, "proxyGID": keyGID, "inboundPortsSkipped": keySkipInbound,
		"outboundPortsSkipped": keySkipOutbound, "inboundSourcesSkipped": keySkipSubnets} {
		if pod.Annotations[key] != "" {
			s.Given[name] = "annotation " + key
		}
	}
	if s.Given["inboundPortsSkipped"] != "" && len(m.Defaults.SkipInbound) > 0 {
		s.Given["inboundPortsSkipped"] += ", added to " + s.Keys["inboundPortsSkipped"]
	}
	if _, own := pod.Labels[labelComponent]; !own {
		s.Given["apiServerPorts"] = "no label " + labelComponent
	}
	return s
}
