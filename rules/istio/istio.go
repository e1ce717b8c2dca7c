// SPDX-License-Identifier: Apache-2.0

// Package istio knows what Istio's labels, annotations and sidecar arguments mean, and which rules follow
// from them: those that Istio's own istio-iptables writes, in the same order.
package istio

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// Defaults are the values of a pod that says nothing else.
type Defaults struct {
	mesh.Common

	OutboundPort uint16 // MeshConfig.proxyListenPort
	InboundPort  uint16 // MeshConfig.proxyInboundListenPort
	TunnelPort   uint16 // HBONE
	DNSPort      uint16 // the agent's DNS listener
	UID          uint32
	GID          uint32

	OpenShift bool // deployer and build pods of OpenShift's own are left alone

	DNSCapture  bool
	DualStack   bool
	InvalidDrop bool

	// OwnerGroups are the group ids whose traffic is captured; nil is everybody's.
	// OwnerGroupsExclude is looked at only then.
	OwnerGroups        []uint32
	OwnerGroupsExclude []uint32
	Loopback           netip.Prefix // left alone by outbound capture
}

// Standard returns the defaults of an unconfigured Istio.
func Standard() Defaults {
	return Defaults{
		Common:       mesh.Common{ExcludeNamespaces: []string{"kube-system"}, WithoutIPv6: rules.IPv6Mesh},
		OutboundPort: 15001,
		InboundPort:  15006,
		TunnelPort:   15008,
		DNSPort:      15053,
		UID:          1337,
		GID:          1337,
		Loopback:     netip.MustParsePrefix("127.0.0.1/32"),
	}
}

// New returns an Istio mesh in sidecar mode with the defaults of the node's configuration.
func New(d Defaults) rules.Mesh {
	return mesh.Declare(mesh.Declaration[Intent]{
		Name: "istio", Common: d.Common,
		Footprint: rules.Footprint{
			Chains: []string{chainInbound, chainInRedirect, chainOutput, chainOutputDNS, chainRedirect,
				chainDivert, chainTProxy, chainDrop, rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
			Marks:    []uint32{inboundMark, outboundMark},
			Reroute:  chainRedirect,
			Routes:   []rules.PolicyRoute{route(rules.IPv4), route(rules.IPv6)},
			Loopback: []netip.Prefix{passthrough6},
		},
		Keys:        keys,
		Containers:  []string{containerValidation, containerProxy},
		Environment: slices.Concat(listNames, textNames),
		Marked:      injected,
		Belongs:     d.belongs,
		Inputs:      mesh.Texts(keyStatus, keyTemplates),
		Read:        func(r *mesh.Reader, in *Intent) error { return reading{r, in}.whole(d) },
		Alone: func(r *mesh.Reader, whole, alone *Intent) error {
			err := reading{r, alone}.intent(d, whole.injected)
			alone.with(whole)
			return err
		},
		Proxy: func(_ rules.Pod, in *Intent) rules.Proxy {
			return rules.Proxy{UID: in.UID, GID: in.GID, Containers: sidecars(in.injected)}
		},
		Rules:  (*Intent).families,
		Widest: widest,
	})
}

// The marks and the route table of TPROXY mode, and the address that a proxy binds to when it passes an
// inbound connection on to the app.
const (
	inboundMark  = 1337
	outboundMark = 1338
	routeTable   = 133
)

var (
	passthrough4 = netip.MustParsePrefix("127.0.0.6/32")
	passthrough6 = netip.MustParsePrefix("::6/128")
	loopback6    = netip.MustParsePrefix("::1/128")
)

// The chains are Istio's; the two for IPv6 that is refused are ours.
const (
	chainInbound    = "ISTIO_INBOUND"
	chainInRedirect = "ISTIO_IN_REDIRECT"
	chainOutput     = "ISTIO_OUTPUT"
	chainOutputDNS  = "ISTIO_OUTPUT_DNS"
	chainRedirect   = "ISTIO_REDIRECT"
	chainDivert     = "ISTIO_DIVERT"
	chainTProxy     = "ISTIO_TPROXY"
	chainDrop       = "ISTIO_DROP"
)

func route(family rules.Family) rules.PolicyRoute {
	return rules.PolicyRoute{Family: family, Mark: inboundMark, Table: routeTable}
}
