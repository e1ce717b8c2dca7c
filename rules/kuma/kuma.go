// SPDX-License-Identifier: Apache-2.0

// Package kuma knows what the annotations of Kuma's injector mean, and which rules follow from them: those that
// Kuma's own CNI plugin writes (version 3, and 2.9 to 2.14 with the configuration as a ConfigMap), in the same order.
package kuma

import (
	"net/netip"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Defaults are what the pod's annotations do not say. WithoutIPv6 is of a pod whose ipFamilyMode is ipv4.
type Defaults struct{ mesh.Common }

// Standard returns the defaults of an unconfigured Kuma.
func Standard() Defaults {
	return Defaults{mesh.Common{ExcludeNamespaces: []string{"kuma-system"}, WithoutIPv6: rules.IPv6Mesh}}
}

// New returns a Kuma mesh with the defaults of the node's configuration.
func New(d Defaults) rules.Mesh {
	return mesh.Declare(mesh.Declaration[Intent]{
		Name: "kuma", Table: "kuma", Common: d.Common,
		Footprint: rules.Footprint{
			Chains:   []string{chainInbound, chainInRedirect, chainOutbound, chainOutRedirect, rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
			Comments: []string{commentPrefix},
			Loopback: []netip.Prefix{passthrough6},
		},
		Keys:    []string{keyInjected, KeyConfig, keyNetworks},
		Marked:  func(pod rules.Pod) bool { return pod.Annotations[keyInjected] == "true" },
		Belongs: belongs,
		Inputs:  []mesh.Input{{Key: KeyConfig, Measure: measure}},
		Read:    func(r *mesh.Reader, in *Intent) error { return in.read(r, d) },
		Proxy: func(_ rules.Pod, in *Intent) rules.Proxy {
			return rules.Proxy{UID: in.UID, GID: rules.NoID, Containers: in.sidecars()}
		},
		Rules:  (*Intent).families,
		Widest: widest,
	})
}

// The chains are Kuma's, and so is what its comments begin with, by which it finds its rules in the built-in chains.
const (
	chainInbound     = "KUMA_MESH_INBOUND"
	chainInRedirect  = "KUMA_MESH_INBOUND_REDIRECT"
	chainOutbound    = "KUMA_MESH_OUTBOUND"
	chainOutRedirect = "KUMA_MESH_OUTBOUND_REDIRECT"
	commentPrefix    = "kuma/mesh/transparent/proxy/"
)

var (
	passthrough4 = netip.MustParsePrefix("127.0.0.6/32")
	passthrough6 = netip.MustParsePrefix("::6/128")
)

// KeyConfig is the annotation that says what a pod of Kuma's redirects, in YAML.
const KeyConfig = "traffic.kuma.io/transparent-proxy-config"

// What else the injector writes on a pod.
const (
	keyInjected = "kuma.io/sidecar-injected"
	keyNetworks = "k8s.v1.cni.cncf.io/networks" // has networkCNI wherever the control plane is in CNI mode
	networkCNI  = "kuma-cni"

	containerProxy      = "kuma-sidecar"
	containerInit       = "kuma-init"
	containerValidation = "kuma-validation"
)

// belongs follows Kuma's CNI plugin.
func belongs(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	if pod.Annotations[keyInjected] != "true" {
		return mesh.Outside(rules.ReasonNotInjected, "annotation "+keyInjected+` is not "true"`)
	}
	s.Add("annotation ", keyInjected, ` is "true": the injector has been here`)
	if v := mesh.Sidecar(pod, s, containerProxy, containerInit); v.Action != rules.Enrol {
		return v
	}
	if _, said := pod.Annotations[KeyConfig]; !said && !strings.Contains(pod.Annotations[keyNetworks], networkCNI) {
		return mesh.Outside(rules.ReasonInitContainer, "neither annotation "+KeyConfig+" nor "+keyNetworks+": "+networkCNI+
			", so that init container "+containerInit+" sets the pod up")
	}
	return mesh.Injected("annotation " + keyInjected + ` is "true"`)
}
