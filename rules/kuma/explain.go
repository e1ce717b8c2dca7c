// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"

	"go.yaml.in/yaml/v3"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

const (
	configured  = "kuma." // what the keys of the node's configuration begin with
	becauseIPv6 = "ipFamilyMode in annotation " + KeyConfig + " is ipv4"
)

// settings are what the keys of the configuration set.
var settings = map[string]string{
	"cniMode": "cniMode", "kumaDPUser": "proxyUID", "ipFamilyMode": "ipv4Only", "dropInvalidPackets": "invalidDrop",
	"redirect.inbound.enabled": "inbound.enabled", "redirect.inbound.port": "inbound.port", "redirect.inbound.includePorts": "inbound.ports",
	"redirect.inbound.excludePorts": "inbound.portsExcluded", "redirect.inbound.excludePortsForIPs": "inbound.rangesExcluded",
	"redirect.outbound.enabled": "outbound.enabled", "redirect.outbound.port": "outbound.port", "redirect.outbound.includePorts": "outbound.ports",
	"redirect.outbound.excludePorts": "outbound.portsExcluded", "redirect.outbound.excludePortsForIPs": "outbound.rangesExcluded",
	"redirect.outbound.excludePortsForUIDs": "usersExcluded", "redirect.dns.enabled": "dnsCapture", "redirect.dns.port": "dnsPort",
	"redirect.dns.skipConntrackZoneSplit": "dnsOneZone", "redirect.vnet.networks": "virtualNetworks",
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
	s := account.Sources{Given: map[string]string{}, Keys: map[string]string{"ipv6": configured + "ipv6"},
		Empty: map[string]string{"inbound.ports": "all", "outbound.ports": "all"}}
	var root yaml.Node
	if yaml.Unmarshal([]byte(pod.Annotations[KeyConfig]), &root) == nil { // it was read before
		given(s.Given, "", root.Content[0])
	}
	return s
}

// given collects the keys of an object that set something, and those of the objects in it.
func given(sources map[string]string, within string, n *yaml.Node) {
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := within+n.Content[i].Value, n.Content[i+1]
		switch {
		case value.Kind == yaml.MappingNode:
			given(sources, key+".", value)
		case settings[key] != "" && value.Tag != "!!null" && (value.Kind != yaml.ScalarNode || value.Value != ""):
			sources[settings[key]] = key + " in annotation " + KeyConfig
		}
	}
}

// String returns a user as an explanation prints it.
func (u User) String() string {
	who := fmt.Sprintf("user %d", u.First)
	if u.First != u.Last {
		who = fmt.Sprintf("users %d-%d", u.First, u.Last)
	}
	return fmt.Sprintf("%s by %s to %s", who, u.Protocol, account.List(u.Ports))
}

// String returns a network as Kuma writes it.
func (n Network) String() string { return n.Interface + ":" + n.Prefix.String() }
