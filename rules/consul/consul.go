// SPDX-License-Identifier: Apache-2.0

// Package consul knows what the annotations of Consul's injector mean, and which rules follow from them: those that
// Consul's own CNI plugin writes, in the same order. Where the plugin hands text to a tool as it is, it is read
// here, and the pod is refused where it means nothing.
//
// The plugin has written rules in two ways. Up to version 0.18 of its library it runs iptables, with the chains that
// are here. From 0.19 on it writes a table of nf_tables, inet consul_tproxy, with chains of the same names and the
// same rules in the same order, so that one plan says both: rules of 0.18, written by iptables or its netlink
// dialect, have 0.18's names and places; written natively, they stand in a table of nf_tables, as 0.19's do, which is
// ours by name as every mesh's is, has a chain for each family where 0.19 has one for both, and is asked one step
// before 0.19's. 0.19's two differ from 0.18's in these points, which mean nothing here:
//   - IPv6 returns first where the pod is not dual-stack: such a plan has no IPv6 rules.
//   - Without an address of Consul's DNS, but with a port, dual-stack redirects lookups of 127.0.0.1 too, and not of
//     ::1 only. Consul's injector never leaves out the address.
//   - With an address of Consul's DNS, but without a port, lookups by IPv4 of a dual-stack pod meet the target too.
//     It is an IPv6 address, and the kernel passes over it.
//   - Excluded ranges of the family that the rules are not for are no failure. Here they are left out, too.
//   - Ports may also be ranges with a dash. They are refused here; so are those with an open end and names of services,
//     which both take.
package consul

import (
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Defaults are what the pod's annotations do not say. WithoutIPv6 is of a pod that is not dual-stack.
type Defaults struct{ mesh.Common }

// Standard returns the defaults of an unconfigured Consul.
func Standard() Defaults { return Defaults{mesh.Common{WithoutIPv6: rules.IPv6Mesh}} }

// New returns a Consul mesh with the defaults of the node's configuration.
func New(d Defaults) rules.Mesh {
	return mesh.Declare(mesh.Declaration[Intent]{
		Name: "consul", Table: "consul", Common: d.Common,
		Footprint: rules.Footprint{Chains: []string{chainInbound, chainInRedirect, chainOutput, chainRedirect, chainDNS,
			rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS}},
		Keys:    []string{keyConnect, keyMesh, keyTransparent, KeyConfig, keyVersion, keyDualStack},
		Marked:  func(pod rules.Pod) bool { return pod.Annotations[keyConnect] != "" || pod.Annotations[keyMesh] != "" },
		Belongs: belongs,
		Inputs:  append(mesh.Lists(KeyConfig), mesh.Texts(keyDualStack)...), // each key of the configuration counts as an item
		Read:    func(r *mesh.Reader, in *Intent) error { return in.read(r, d) },
		Proxy: func(pod rules.Pod, in *Intent) rules.Proxy {
			return rules.Proxy{UID: in.UID, GID: rules.NoID, Containers: sidecars(pod)}
		},
		Rules:  (*Intent).families,
		Widest: widest,
	})
}

// The chains are Consul's.
const (
	chainInbound    = "CONSUL_PROXY_INBOUND"
	chainInRedirect = "CONSUL_PROXY_IN_REDIRECT"
	chainOutput     = "CONSUL_PROXY_OUTPUT"
	chainRedirect   = "CONSUL_PROXY_REDIRECT"
	chainDNS        = "CONSUL_DNS_REDIRECT"
)

// KeyConfig is the annotation that says what a pod of Consul's redirects, in JSON.
const KeyConfig = prefix + "redirect-traffic-config"

// What else the injector writes on a pod.
const (
	prefix         = "consul.hashicorp.com/"
	keyConnect     = prefix + "connect-inject-status" // either of the two on every pod that was injected
	keyMesh        = prefix + "mesh-inject-status"
	keyTransparent = prefix + "transparent-proxy-status"
	keyVersion     = prefix + "connect-k8s-version" // the injector's; very old ones do not write it
	keyDualStack   = prefix + "dual-stack"          // injectors that do not know of it leave it out, which is "false"
)

// The containers that run as the proxy: injectors before 1.0 have Envoy itself in it.
var (
	dataplane = []rules.Sidecar{{Name: "consul-dataplane", Command: []string{"dumb-init", "consul-dataplane"}}}
	envoy     = []rules.Sidecar{{Name: "envoy-sidecar", Command: []string{"envoy"}}}
)

func sidecars(pod rules.Pod) []rules.Sidecar {
	if strings.HasPrefix(strings.TrimPrefix(pod.Annotations[keyVersion], "v"), "0.") {
		return envoy
	}
	return dataplane
}

// belongs follows Consul's CNI plugin.
func belongs(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	switch {
	case pod.Annotations[keyConnect] != "":
		s.Add("annotation ", keyConnect, " is present: the injector has been here")
	case pod.Annotations[keyMesh] != "":
		s.Add("annotation ", keyMesh, " is present: the injector has been here")
	default:
		return mesh.Outside(rules.ReasonNotInjected, "neither annotation "+keyConnect+" nor "+keyMesh)
	}
	if pod.Annotations[keyTransparent] == "" {
		return mesh.Outside(rules.ReasonInterceptionNone, "no annotation "+keyTransparent+": the pod asks for no redirection")
	}
	s.Add("annotation ", keyTransparent, " is present: the pod asks for redirection")
	if _, said := pod.Annotations[KeyConfig]; !said {
		return mesh.Outside(rules.ReasonInitContainer, "no annotation "+KeyConfig+": the injector is not in CNI mode, and an init container sets the pod up")
	}
	return mesh.Injected("annotation " + keyTransparent + " is present")
}
