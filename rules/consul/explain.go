// SPDX-License-Identifier: Apache-2.0

package consul

import (
	"encoding/json"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

const (
	configured  = "consul." // what the keys of the node's configuration begin with
	becauseIPv6 = "annotation " + keyDualStack + ` is not "true"`
)

// settings are what the keys of the configuration set.
var settings = map[string]string{
	"ConsulDNSIP": "dnsAddress", "ConsulDNSPort": "dnsPort", "ProxyUserID": "proxyUID", "ProxyInboundPort": "inboundPort",
	"ProxyOutboundPort": "outboundPort", "ExcludeInboundPorts": "inboundPortsExcluded", "ExcludeOutboundPorts": "outboundPortsExcluded",
	"ExcludeOutboundCIDRs": "outboundRangesExcluded", "ExcludeUIDs": "usersExcluded",
}

// Explain implements rules.Explainer.
func (m Mesh) Explain(pod rules.Pod) rules.Decision {
	var steps account.Steps
	d := m.decide(pod, &steps)
	d.Account = &rules.Account{Steps: steps.All()}
	if intent, ok := d.Intent.(Intent); ok {
		d.Account.Settings = account.Settings(intent, sources(pod))
	}
	return d
}

// sources says where each setting of a pod that is enrolled is from.
func sources(pod rules.Pod) account.Sources {
	s := account.Sources{Given: map[string]string{}, Keys: map[string]string{"ipv6": configured + "ipv6"}, Empty: map[string]string{"dnsPort": "none"}}
	if pod.Annotations[keyDualStack] != "" {
		s.Given["dualStack"] = "annotation " + keyDualStack
	}
	_ = eachKey(pod.Annotations[KeyConfig], func(key string, value json.RawMessage) error { // it was read before
		if text := string(value); settings[key] != "" && text != "null" && text != "0" && text != `""` { // which give nothing
			s.Given[settings[key]] = key + " in annotation " + KeyConfig
		}
		return nil
	})
	return s
}
