// SPDX-License-Identifier: Apache-2.0

// Package linkerd knows what Linkerd's labels and annotations mean, and which rules follow from them: those that
// Linkerd's own CNI plugin writes, in the same order and with the same comments. Where the plugin goes on without
// a value that it cannot read, the pod is refused here.
package linkerd

import (
	"cmp"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Defaults are the values of a pod that says nothing else, as those of linkerd-cni come from its chart.
type Defaults struct {
	mesh.Common
	ControlPlaneNamespaces []string // where pods may be the control plane's own

	InboundPort  uint16
	OutboundPort uint16
	ControlPort  uint16 // never redirected inbound
	AdminPort    uint16 // never redirected inbound: kubelet's probes come here
	UID          uint32
	GID          uint32 // 0: the proxy is told by its user only

	SkipInbound   []rules.PortRange // besides the admin and the control port; annotations add to it
	SkipOutbound  []rules.PortRange // an annotation replaces it
	RedirectPorts []uint16          // the only ports that are redirected inbound; none is all
	APIServer     []rules.PortRange // Kubernetes' API, which pods of the control plane reach without the proxy

	ProxyIPv6 bool // the proxy speaks IPv6: disableIPv6 is false in Linkerd's chart
}

// Standard returns the defaults of an unconfigured Linkerd.
func Standard() Defaults {
	return Defaults{
		Common:                 mesh.Common{WithoutIPv6: rules.IPv6Mesh},
		ControlPlaneNamespaces: []string{"linkerd"},

		InboundPort:  4143,
		OutboundPort: 4140,
		ControlPort:  4190,
		AdminPort:    4191,
		UID:          2102,
		APIServer:    []rules.PortRange{{First: 443, Last: 443}, {First: 6443, Last: 6443}},
	}
}

// New returns a Linkerd mesh with the defaults of the node's configuration.
func New(d Defaults) rules.Mesh {
	inputs := []string{keySkipOutbound, keySkipInbound, keySkipSubnets, keyUID, keyGID, keyInboundPort, keyOutboundPort, keyControlPort, keyAdminPort}
	return mesh.Declare(mesh.Declaration[Intent]{
		Name: "linkerd", Table: "linkerd", Common: d.Common,
		Footprint: rules.Footprint{Chains: []string{chainOutput, chainRedirect, rules.ChainBlockIn, rules.ChainBlockOut}},
		Keys:      append([]string{labelControlPlane, labelComponent, keyVersion, keyCloseWait}, inputs...),
		Inputs:    mesh.Lists(inputs...),
		Marked:    marked,
		Belongs:   belongs,
		Read:      func(r *mesh.Reader, in *Intent) error { return in.read(r, d) },
		Proxy: func(_ rules.Pod, in *Intent) rules.Proxy {
			return rules.Proxy{UID: in.UID, GID: cmp.Or(in.GID, rules.NoID), Containers: sidecars}
		},
		Rules:  (*Intent).families,
		Widest: widest,
	})
}

// The chains are Linkerd's.
const (
	chainOutput   = "PROXY_INIT_OUTPUT"
	chainRedirect = "PROXY_INIT_REDIRECT"
)

// What the injector and its users write on a pod.
const (
	labelControlPlane = "linkerd.io/control-plane-ns"        // on every pod that was injected, and on the control plane's own
	labelComponent    = "linkerd.io/control-plane-component" // on the control plane's own only
	keyVersion        = "linkerd.io/proxy-version"           // on every pod that has a proxy

	containerProxy = "linkerd-proxy"
	containerInit  = "linkerd-init"
)

// sidecars are the injector's containers that run as the proxy. linkerd-network-validator does not: it tests the rules
// as an app.
var sidecars = []rules.Sidecar{{Name: containerProxy, Command: []string{"linkerd2-proxy-identity"}}}

// marked reports whether the injector marked a pod, or the pod is the control plane's own.
func marked(pod rules.Pod) bool {
	_, labelled := pod.Labels[labelControlPlane]
	_, injected := pod.Annotations[keyVersion]
	return labelled && injected
}

// belongs follows Linkerd's CNI plugin, with what the pod itself says in place of its containers. Only those show that
// linkerd-init sets a pod up: until they are known, the pod is treated as one in CNI mode, whose rules are the same.
func belongs(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	if _, labelled := pod.Labels[labelControlPlane]; !labelled {
		return mesh.Outside(rules.ReasonNotInjected, "no label "+labelControlPlane)
	}
	s.Add("label ", labelControlPlane, " is present: the injector has been here, or the pod is the control plane's")
	if _, injected := pod.Annotations[keyVersion]; !injected {
		return mesh.Outside(rules.ReasonNotInjected, "label "+labelControlPlane+" is there, but no annotation "+keyVersion+": the pod has no proxy")
	}
	s.Add("annotation ", keyVersion, " is present: the pod has a proxy")
	if v := mesh.Sidecar(pod, s, containerProxy, containerInit); v.Action != rules.Enrol {
		return v
	}
	return mesh.Injected("label " + labelControlPlane + " and annotation " + keyVersion + " are present")
}
