// SPDX-License-Identifier: Apache-2.0

// Package static is a mesh that the node's configuration describes: which pods are its own, and what of their traffic
// is redirected to which ports. It is for sidecars that no mesh injects.
package static

import (
	"net/netip"
	"path"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/account"
)

// Mesh decides about pods by one profile.
type Mesh struct{ Profile Profile }

// Profile is which pods are meant, and what they all get. Pods can say nothing else.
type Profile struct {
	Name              string   `json:"-"`
	Namespaces        []string `json:"-"` // patterns of path.Match; none is every namespace
	Labels            []Term   `json:"-"` // of which a pod has all
	Annotations       []Term   `json:"-"` // of which a pod has all
	ExcludeNamespaces []string `json:"-"`

	TProxy  bool     `json:"tproxy"` // inbound traffic keeps its addresses
	UID     uint32   `json:"proxyUID"`
	GID     uint32   `json:"proxyGID"` // 0: the proxy is told by its user only
	Proxies []string `json:"proxyContainers"`

	InboundPort    uint16            `json:"inboundPort"`          // 0: nothing inbound is redirected
	Inbound        []rules.PortRange `json:"inboundPorts"`         // none: all
	InboundExclude []rules.PortRange `json:"inboundPortsExcluded"` // even where they are in Inbound

	OutboundPort         uint16            `json:"outboundPort"`           // 0: nothing outbound is redirected
	Outbound             []netip.Prefix    `json:"outboundRanges"`         // none, and no OutboundPorts: all
	OutboundPorts        []rules.PortRange `json:"outboundPorts"`          // besides Outbound
	OutboundExclude      []netip.Prefix    `json:"outboundRangesExcluded"` // even where they are in Outbound
	OutboundPortsExclude []rules.PortRange `json:"outboundPortsExcluded"`
	ExcludeInterfaces    []string          `json:"excludedInterfaces"`
	ExemptUIDs           []uint32          `json:"exemptUIDs"` // besides the proxy's
	DNSPort              uint16            `json:"dnsPort"`    // 0: name lookups are not redirected
	ProxyIPv6            bool              `json:"proxyIPv6"`
	WithoutIPv6          rules.WithoutIPv6 `json:"ipv6"` // looked at without ProxyIPv6
}

// None is a profile that selects no pod, since no namespace is called "/". It stands for profiles that were removed from the
// configuration, whose rules may still be there.
var None = Profile{Name: "static", Namespaces: []string{"/"}}

// Term is a label or annotation that a pod has to have.
type Term struct {
	Key   string
	Value string
	Any   bool // whatever its value
}

// String returns the term as the configuration has it.
func (t Term) String() string {
	if t.Any {
		return t.Key
	}
	return t.Key + "=" + t.Value
}

func (t Term) holds(values map[string]string) bool {
	value, there := values[t.Key]
	return there && (t.Any || value == t.Value)
}

// Name returns the profile's name.
func (m Mesh) Name() string { return m.Profile.Name }

// Reads is true for what Decide looks at.
func (m Mesh) Reads(key string) bool {
	is := func(t Term) bool { return t.Key == key }
	return slices.ContainsFunc(m.Profile.Labels, is) || slices.ContainsFunc(m.Profile.Annotations, is)
}

// Refines is false for every container: the configuration says everything.
func (Mesh) Refines(string) bool { return false }

// All profiles share these chains, so that the rules of one that was removed from the configuration are recognised.
const (
	chainInbound    = "MESHNETD_STATIC_IN"
	chainInRedirect = "MESHNETD_STATIC_IN_REDIRECT"
	chainOutbound   = "MESHNETD_STATIC_OUT"
	chainRedirect   = "MESHNETD_STATIC_REDIRECT"
	chainDNS        = "MESHNETD_STATIC_DNS"
	chainDivert     = "MESHNETD_STATIC_DIVERT"
	chainTProxy     = "MESHNETD_STATIC_TPROXY"
)

// Mark is the mark of packets that TPROXY keeps in the pod. A proxy that connects to the app from the client's address
// sets it on its sockets.
const Mark = 1347

const routeTable = 134

// Footprint returns the names and routes of every plan this package can make. It has no marks: they stand in our
// chains only.
func (Mesh) Footprint() rules.Footprint {
	return rules.Footprint{
		Chains: []string{chainInbound, chainInRedirect, chainOutbound, chainRedirect, chainDNS, chainDivert, chainTProxy,
			rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
		Routes: []rules.PolicyRoute{route(rules.IPv4), route(rules.IPv6)},
	}
}

func route(family rules.Family) rules.PolicyRoute {
	return rules.PolicyRoute{Family: family, Mark: Mark, Table: routeTable}
}

// Decide looks whether the profile selects the pod.
func (m Mesh) Decide(pod rules.Pod) rules.Decision { return m.decide(pod, nil) }

func (m Mesh) decide(pod rules.Pod, s *account.Steps) rules.Decision {
	decide := func(action rules.Action, reason rules.Reason, detail string) rules.Decision {
		d := rules.Decision{Mesh: m.Profile.Name, Action: action, Reason: reason, Detail: detail}
		s.Decided(d)
		return d
	}
	if reason, detail := m.outside(pod, s); reason != "" {
		return decide(rules.Skip, reason, detail)
	}
	p := m.Profile
	d := decide(rules.Enrol, rules.ReasonSelected, "static profile "+p.Name+" of the node's configuration selects the pod")
	d.Intent = p
	d.Proxy = rules.Proxy{UID: p.UID, GID: rules.NoID}
	if p.GID != 0 {
		d.Proxy.GID = p.GID
	}
	for _, name := range p.Proxies {
		d.Proxy.Containers = append(d.Proxy.Containers, rules.Sidecar{Name: name})
	}
	d.Planner = func(network rules.Network) (rules.Plan, error) { return p.plan(network, Mesh{}.Footprint()) }
	return d
}

// outside returns why the profile does not select a pod, or "".
func (m Mesh) outside(pod rules.Pod, s *account.Steps) (rules.Reason, string) {
	if pod.HostNetwork {
		return rules.ReasonHostNetwork, "the pod shares the node's network namespace"
	}
	if slices.Contains(m.Profile.ExcludeNamespaces, pod.Namespace) {
		return rules.ReasonNamespaceExcluded, "namespace " + pod.Namespace + " is excluded by the node's configuration"
	}
	if !m.selectsNamespace(pod.Namespace) {
		return rules.ReasonNotInjected, "the profile selects other namespaces"
	}
	s.Add("namespace ", pod.Namespace, " is one that the profile selects")
	for _, of := range []struct {
		what   string
		terms  []Term
		values map[string]string
	}{{"label ", m.Profile.Labels, pod.Labels}, {"annotation ", m.Profile.Annotations, pod.Annotations}} {
		for _, term := range of.terms {
			if !term.holds(of.values) {
				return rules.ReasonNotInjected, "the profile selects pods with other labels or annotations"
			}
			s.Add(of.what, term.Key, " is as the profile selects")
		}
	}
	return "", ""
}

func (m Mesh) selectsNamespace(name string) bool {
	return len(m.Profile.Namespaces) == 0 || slices.ContainsFunc(m.Profile.Namespaces, func(pattern string) bool {
		ok, err := path.Match(pattern, name)
		return ok && err == nil
	})
}
