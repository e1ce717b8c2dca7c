// SPDX-License-Identifier: Apache-2.0

// Package linkerd knows what Linkerd's labels and annotations mean, and which rules follow from them: those that
// Linkerd's own CNI plugin writes, in the same order and with the same comments. Where the plugin goes on without
// a value that it cannot read, the pod is refused here.
package linkerd

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Mesh decides about pods of a Linkerd mesh. Its Defaults come from the node's configuration, as those of
// linkerd-cni come from its chart.
type Mesh struct{ Defaults Defaults }

// Defaults are the values of a pod that says nothing else.
type Defaults struct {
	ExcludeNamespaces      []string
	ControlPlaneNamespaces []string // where pods may be the control plane's own
	Budget                 rules.Budget

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

	ProxyIPv6   bool              // the proxy speaks IPv6: disableIPv6 is false in Linkerd's chart
	WithoutIPv6 rules.WithoutIPv6 // looked at without ProxyIPv6
}

// Standard returns the defaults of an unconfigured Linkerd.
func Standard() Defaults {
	return Defaults{
		ControlPlaneNamespaces: []string{"linkerd"},

		InboundPort:  4143,
		OutboundPort: 4140,
		ControlPort:  4190,
		AdminPort:    4191,
		UID:          2102,
		APIServer:    []rules.PortRange{{First: 443, Last: 443}, {First: 6443, Last: 6443}},
		WithoutIPv6:  rules.IPv6Mesh,
	}
}

// Name returns "linkerd".
func (Mesh) Name() string { return "linkerd" }

// Keys returns what Decide looks at, labels and annotations alike.
func (Mesh) Keys() []string { return keys }

// Reads is true for what Decide looks at.
func (Mesh) Reads(key string) bool { return slices.Contains(keys, key) }

// Refines is false for every container: the annotations say everything.
func (Mesh) Refines(string) bool { return false }

// The chains are Linkerd's.
const (
	chainOutput   = "PROXY_INIT_OUTPUT"
	chainRedirect = "PROXY_INIT_REDIRECT"
)

// Footprint returns the names of every plan this package can make.
func (Mesh) Footprint() rules.Footprint {
	return rules.Footprint{Chains: []string{chainOutput, chainRedirect, rules.ChainBlockIn, rules.ChainBlockOut}}
}

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

// Decide follows Linkerd's CNI plugin, with what the pod itself says in place of its containers.
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
	s.Add("the annotations say what is to be redirected, and contradict nothing")
	d := decide(rules.Enrol, rules.ReasonInjected, "label "+labelControlPlane+" and annotation "+keyVersion+" are present")
	d.Intent = intent
	d.Proxy = rules.Proxy{UID: intent.UID, GID: rules.NoID, Containers: sidecars}
	if intent.GID != 0 {
		d.Proxy.GID = intent.GID
	}
	d.Planner = func(network rules.Network) (rules.Plan, error) { return intent.plan(network, Mesh{}.Footprint()) }
	return d
}

// Marked reports whether the injector marked a pod, or the pod is the control plane's own.
func (Mesh) Marked(pod rules.Pod) bool {
	_, labelled := pod.Labels[labelControlPlane]
	_, injected := pod.Annotations[keyVersion]
	return labelled && injected
}

// outside returns why a pod does not belong to the mesh, or "". Only its containers show that linkerd-init sets
// a pod up: until they are known, the pod is treated as one in CNI mode, whose rules are the same.
func (m Mesh) outside(pod rules.Pod, s *account.Steps) (rules.Reason, string) {
	if pod.HostNetwork {
		return rules.ReasonHostNetwork, "the pod shares the node's network namespace"
	}
	s.Add("the pod is not known to share the node's network namespace")
	if slices.Contains(m.Defaults.ExcludeNamespaces, pod.Namespace) {
		return rules.ReasonNamespaceExcluded, "namespace " + pod.Namespace + " is excluded by the node's configuration"
	}
	s.Add("namespace ", pod.Namespace, " is not one of exclude_namespaces or ", configured, "exclude_namespaces")
	if _, labelled := pod.Labels[labelControlPlane]; !labelled {
		return rules.ReasonNotInjected, "no label " + labelControlPlane
	}
	s.Add("label ", labelControlPlane, " is present: the injector has been here, or the pod is the control plane's")
	if _, injected := pod.Annotations[keyVersion]; !injected {
		return rules.ReasonNotInjected, "label " + labelControlPlane + " is there, but no annotation " + keyVersion + ": the pod has no proxy"
	}
	s.Add("annotation ", keyVersion, " is present: the pod has a proxy")
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
