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
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Mesh decides about pods of a Consul mesh. Its Defaults come from the node's configuration.
type Mesh struct{ Defaults Defaults }

// Defaults are what the pod's annotations do not say.
type Defaults struct {
	ExcludeNamespaces []string
	Budget            rules.Budget
	WithoutIPv6       rules.WithoutIPv6 // of a pod that is not dual-stack
}

// Standard returns the defaults of an unconfigured Consul.
func Standard() Defaults { return Defaults{WithoutIPv6: rules.IPv6Mesh} }

// Name returns "consul".
func (Mesh) Name() string { return "consul" }

// Keys returns what Decide looks at, labels and annotations alike.
func (Mesh) Keys() []string { return keys }

// Reads is true for what Decide looks at.
func (Mesh) Reads(key string) bool { return slices.Contains(keys, key) }

// Refines is false for every container: the annotations say everything.
func (Mesh) Refines(string) bool { return false }

// The chains are Consul's.
const (
	chainInbound    = "CONSUL_PROXY_INBOUND"
	chainInRedirect = "CONSUL_PROXY_IN_REDIRECT"
	chainOutput     = "CONSUL_PROXY_OUTPUT"
	chainRedirect   = "CONSUL_PROXY_REDIRECT"
	chainDNS        = "CONSUL_DNS_REDIRECT"
)

// Footprint returns the names of every plan this package can make.
func (Mesh) Footprint() rules.Footprint {
	return rules.Footprint{Chains: []string{chainInbound, chainInRedirect, chainOutput, chainRedirect, chainDNS,
		rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS}}
}

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

var keys = []string{keyConnect, keyMesh, keyTransparent, KeyConfig, keyVersion, keyDualStack}

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

// Decide follows Consul's CNI plugin.
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
	asks := inputs(pod)
	if problem := m.Defaults.Budget.Exceeded(asks[:]...); problem != "" {
		return decide(rules.Reject, rules.ReasonOverBudget, problem)
	}
	intent, err := m.intent(pod)
	if err != nil {
		return decide(rules.Reject, rules.ReasonBadInput, err.Error())
	}
	s.Add("annotation ", KeyConfig, " says what is to be redirected, and contradicts nothing")
	d := decide(rules.Enrol, rules.ReasonInjected, "annotation "+keyTransparent+" is present")
	d.Intent = intent
	d.Proxy = rules.Proxy{UID: intent.UID, GID: rules.NoID, Containers: sidecars(pod)}
	d.Planner = func(network rules.Network) (rules.Plan, error) { return intent.plan(network, Mesh{}.Footprint()) }
	return d
}

// Marked reports whether the injector marked a pod.
func (Mesh) Marked(pod rules.Pod) bool {
	return pod.Annotations[keyConnect] != "" || pod.Annotations[keyMesh] != ""
}

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
	switch {
	case pod.Annotations[keyConnect] != "":
		s.Add("annotation ", keyConnect, " is present: the injector has been here")
	case pod.Annotations[keyMesh] != "":
		s.Add("annotation ", keyMesh, " is present: the injector has been here")
	default:
		return rules.ReasonNotInjected, "neither annotation " + keyConnect + " nor " + keyMesh
	}
	if pod.Annotations[keyTransparent] == "" {
		return rules.ReasonInterceptionNone, "no annotation " + keyTransparent + ": the pod asks for no redirection"
	}
	s.Add("annotation ", keyTransparent, " is present: the pod asks for redirection")
	if _, said := pod.Annotations[KeyConfig]; !said {
		return rules.ReasonInitContainer, "no annotation " + KeyConfig + ": the injector is not in CNI mode, and an init container sets the pod up"
	}
	return "", ""
}
