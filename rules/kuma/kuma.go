// SPDX-License-Identifier: Apache-2.0

// Package kuma knows what the annotations of Kuma's injector mean, and which rules follow from them: those that
// Kuma's own CNI plugin writes (version 3, and 2.9 to 2.14 with the configuration as a ConfigMap), in the same order.
package kuma

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Mesh decides about pods of a Kuma mesh. Its Defaults come from the node's configuration.
type Mesh struct{ Defaults Defaults }

// Defaults are what the pod's annotations do not say.
type Defaults struct {
	ExcludeNamespaces []string
	Budget            rules.Budget
	WithoutIPv6       rules.WithoutIPv6 // of a pod whose ipFamilyMode is ipv4
}

// Standard returns the defaults of an unconfigured Kuma.
func Standard() Defaults {
	return Defaults{ExcludeNamespaces: []string{"kuma-system"}, WithoutIPv6: rules.IPv6Mesh}
}

// Name returns "kuma".
func (Mesh) Name() string { return "kuma" }

// Keys returns what Decide looks at.
func (Mesh) Keys() []string { return []string{keyInjected, KeyConfig, keyNetworks} }

// Reads is true for what Decide looks at.
func (m Mesh) Reads(key string) bool { return slices.Contains(m.Keys(), key) }

// Refines is false for every container: the annotations say everything.
func (Mesh) Refines(string) bool { return false }

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

// Footprint returns the names, comments and addresses of every plan this package can make.
func (Mesh) Footprint() rules.Footprint {
	return rules.Footprint{
		Chains:   []string{chainInbound, chainInRedirect, chainOutbound, chainOutRedirect, rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
		Comments: []string{commentPrefix},
		Loopback: []netip.Prefix{passthrough6},
	}
}

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

// Decide follows Kuma's CNI plugin.
func (m Mesh) Decide(pod rules.Pod) rules.Decision { return m.decide(pod, nil) }

func (m Mesh) decide(pod rules.Pod, s *account.Steps) rules.Decision {
	decide := func(action rules.Action, reason rules.Reason, detail string) rules.Decision {
		d := rules.Decision{Mesh: m.Name(), Action: action, Reason: reason, Detail: detail}
		s.Decided(d)
		return d
	}
	if reason, detail := m.outside(pod, s); reason != "" {
		return decide(rules.Skip, reason, detail)
	}
	if _, said := pod.Annotations[KeyConfig]; !said && !strings.Contains(pod.Annotations[keyNetworks], networkCNI) {
		return decide(rules.Skip, rules.ReasonInitContainer, "neither annotation "+KeyConfig+" nor "+keyNetworks+": "+networkCNI+
			", so that init container "+containerInit+" sets the pod up")
	}
	if problem := m.Defaults.Budget.Exceeded(input(pod.Annotations[KeyConfig])); problem != "" {
		return decide(rules.Reject, rules.ReasonOverBudget, problem)
	}
	intent, err := m.intent(pod)
	if err != nil {
		return decide(rules.Reject, rules.ReasonBadInput, err.Error())
	}
	s.Add("annotation ", KeyConfig, " says what is to be redirected, and contradicts nothing")
	if intent.DNSCapture && !intent.DNSOneZone {
		s.Add(account.LookupsBehind)
	}
	if !intent.CNIMode {
		return decide(rules.Skip, rules.ReasonInitContainer, "annotation "+KeyConfig+" has no cniMode: true, so that init container "+
			containerInit+" sets the pod up")
	}
	s.Add("it says cniMode: true, so that the control plane counts on somebody on the node")
	d := decide(rules.Enrol, rules.ReasonInjected, "annotation "+keyInjected+` is "true"`)
	d.Intent = intent
	d.Proxy = rules.Proxy{UID: intent.UID, GID: rules.NoID, Containers: intent.sidecars()}
	d.Planner = func(network rules.Network) (rules.Plan, error) { return intent.plan(network, Mesh{}.Footprint()) }
	return d
}

// Marked reports whether the injector marked a pod.
func (Mesh) Marked(pod rules.Pod) bool { return pod.Annotations[keyInjected] == "true" }

// outside returns why a pod does not belong to the mesh, or "".
func (m Mesh) outside(pod rules.Pod, s *account.Steps) (rules.Reason, string) {
	if pod.HostNetwork {
		return rules.ReasonHostNetwork, "the pod shares the node's network namespace"
	}
	s.Add("the pod is not known to share the node's network namespace")
	if slices.Contains(m.Defaults.ExcludeNamespaces, pod.Namespace) {
		return rules.ReasonNamespaceExcluded, "namespace " + pod.Namespace + " is excluded by the node's configuration"
	}
	s.Add("namespace ", pod.Namespace, " is not one of exclude_namespaces or ", configured, "exclude_namespaces")
	if pod.Annotations[keyInjected] != "true" {
		return rules.ReasonNotInjected, "annotation " + keyInjected + ` is not "true"`
	}
	s.Add("annotation ", keyInjected, ` is "true": the injector has been here`)
	if pod.Container(containerInit) != nil {
		return rules.ReasonInitContainer, "init container " + containerInit + " sets the pod up"
	}
	s.Add("no init container ", containerInit, " that would set the pod up")
	if pod.Complete && pod.Container(containerProxy) == nil {
		return rules.ReasonNoProxy, "the pod has no container " + containerProxy
	}
	if pod.Complete {
		s.Add("container ", containerProxy, " is there")
	} else {
		s.Add("the pod's containers are not all known: it is taken for one with a proxy, as the annotation says")
	}
	return "", ""
}
