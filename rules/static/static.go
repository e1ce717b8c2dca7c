// SPDX-License-Identifier: Apache-2.0

// Package static is a mesh that the node's configuration describes: which pods are its own, and what of their traffic
// is redirected to which ports. It is for sidecars that no mesh injects.
package static

import (
	"cmp"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Profile is which pods are meant, and what they all get. Pods can say nothing else.
type Profile struct {
	Name              string   `json:"-"`
	Namespaces        []string `json:"-"` // patterns of path.Match; none is every namespace
	Labels            []Term   `json:"-"` // of which a pod has all
	Annotations       []Term   `json:"-"` // of which a pod has all
	ExcludeNamespaces []string `json:"-"`

	TProxy  bool     `json:"tproxy"` // inbound traffic keeps its addresses
	UID     uint32   `json:"proxyUID"`
	GID     uint32   `json:"proxyGID" none:"none"` // 0: the proxy is told by its user only
	Proxies []string `json:"proxyContainers"`

	InboundPort    uint16            `json:"inboundPort" none:"none"` // 0: nothing inbound is redirected
	Inbound        []rules.PortRange `json:"inboundPorts" none:"all"` // none: all
	InboundExclude []rules.PortRange `json:"inboundPortsExcluded"`    // even where they are in Inbound

	OutboundPort         uint16            `json:"outboundPort" none:"none"` // 0: nothing outbound is redirected
	Outbound             []netip.Prefix    `json:"outboundRanges"`           // none, and no OutboundPorts: all
	OutboundPorts        []rules.PortRange `json:"outboundPorts"`            // besides Outbound
	OutboundExclude      []netip.Prefix    `json:"outboundRangesExcluded"`   // even where they are in Outbound
	OutboundPortsExclude []rules.PortRange `json:"outboundPortsExcluded"`
	ExcludeInterfaces    []string          `json:"excludedInterfaces"`
	ExemptUIDs           []uint32          `json:"exemptUIDs"`          // besides the proxy's
	DNSPort              uint16            `json:"dnsPort" none:"none"` // 0: name lookups are not redirected
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

// New returns the mesh of one profile. Its footprint has no marks: they stand in our chains only.
func New(p Profile) rules.Mesh {
	d := mesh.Declaration[Profile]{
		Name: p.Name, Common: mesh.Common{ExcludeNamespaces: p.ExcludeNamespaces},
		Footprint: rules.Footprint{
			Chains: []string{chainInbound, chainInRedirect, chainOutbound, chainRedirect, chainDNS, chainDivert, chainTProxy,
				rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
			Routes: []rules.PolicyRoute{route(rules.IPv4), route(rules.IPv6)},
		},
		Belongs: p.selects,
		Read: func(_ *mesh.Reader, in *Profile) error {
			*in = p
			return nil
		},
		Proxy:  func(rules.Pod, *Profile) rules.Proxy { return p.proxy() },
		Rules:  (*Profile).families,
		Widest: widest,
		From:   "static profile " + p.Name,
	}
	for _, term := range slices.Concat(p.Labels, p.Annotations) {
		d.Selectors = append(d.Selectors, term.Key)
	}
	return mesh.Declare(d)
}

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

func route(family rules.Family) rules.PolicyRoute {
	return rules.PolicyRoute{Family: family, Mark: Mark, Table: routeTable}
}

func (p Profile) proxy() rules.Proxy {
	proxy := rules.Proxy{UID: p.UID, GID: cmp.Or(p.GID, rules.NoID)}
	for _, name := range p.Proxies {
		proxy.Containers = append(proxy.Containers, rules.Sidecar{Name: name})
	}
	return proxy
}

// selects looks whether the profile selects a pod.
func (p Profile) selects(pod rules.Pod, s *mesh.Steps) mesh.Verdict {
	if !p.selectsNamespace(pod.Namespace) {
		return mesh.Outside(rules.ReasonNotInjected, "the profile selects other namespaces")
	}
	s.Add("namespace ", pod.Namespace, " is one that the profile selects")
	for _, of := range []struct {
		what   string
		terms  []Term
		values map[string]string
	}{{"label ", p.Labels, pod.Labels}, {"annotation ", p.Annotations, pod.Annotations}} {
		for _, term := range of.terms {
			if !term.holds(of.values) {
				return mesh.Outside(rules.ReasonNotInjected, "the profile selects pods with other labels or annotations")
			}
			s.Add(of.what, term.Key, " is as the profile selects")
		}
	}
	return mesh.Verdict{Action: rules.Enrol, Reason: rules.ReasonSelected, Detail: "static profile " + p.Name + " of the node's configuration selects the pod"}
}

func (p Profile) selectsNamespace(name string) bool {
	return len(p.Namespaces) == 0 || rules.MatchesAny(p.Namespaces, name)
}
