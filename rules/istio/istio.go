// SPDX-License-Identifier: Apache-2.0

// Package istio knows what Istio's labels, annotations and sidecar arguments mean, and which rules follow
// from them: those that Istio's own istio-iptables writes, in the same order.
package istio

import (
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// Mesh decides about pods of an Istio mesh in sidecar mode. Its Defaults come from the node's
// configuration.
type Mesh struct{ Defaults Defaults }

// Defaults are the values of a pod that says nothing else.
type Defaults struct {
	ExcludeNamespaces []string
	Budget            rules.Budget

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
	IPv6        IPv6

	// OwnerGroups are the group ids whose traffic is captured; nil is everybody's.
	// OwnerGroupsExclude is looked at only then.
	OwnerGroups        []uint32
	OwnerGroupsExclude []uint32
	Loopback           netip.Prefix // left alone by outbound capture
}

// IPv6 says what happens to IPv6 in a pod whose proxy speaks only IPv4.
type IPv6 = rules.WithoutIPv6

// The three ways to treat it.
const (
	IPv6Mesh    = rules.IPv6Mesh
	IPv6Capture = rules.IPv6Capture
	IPv6Block   = rules.IPv6Block
)

// Standard returns the defaults of an unconfigured Istio.
func Standard() Defaults {
	return Defaults{
		ExcludeNamespaces: []string{"kube-system"},
		OutboundPort:      15001,
		InboundPort:       15006,
		TunnelPort:        15008,
		DNSPort:           15053,
		UID:               1337,
		GID:               1337,
		IPv6:              IPv6Mesh,
		Loopback:          netip.MustParsePrefix("127.0.0.1/32"),
	}
}

// Name returns "istio".
func (Mesh) Name() string { return "istio" }

// Keys returns what Decide looks at, labels and annotations alike.
func (Mesh) Keys() []string { return keys }

// Reads is true for what Decide looks at.
func (Mesh) Reads(key string) bool { return slices.Contains(keys, key) }

// Refines is true for the containers whose arguments, environment and user the injector filled in.
func (Mesh) Refines(container string) bool {
	return container == containerValidation || container == containerProxy
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

// Footprint returns the names, marks, routes and addresses of every plan this package can make.
func (Mesh) Footprint() rules.Footprint {
	return rules.Footprint{
		Chains: []string{chainInbound, chainInRedirect, chainOutput, chainOutputDNS, chainRedirect,
			chainDivert, chainTProxy, chainDrop, rules.ChainBlockIn, rules.ChainBlockOut, rules.ChainBlockDNS},
		Marks:    []uint32{inboundMark, outboundMark},
		Reroute:  chainRedirect,
		Routes:   []rules.PolicyRoute{route(rules.IPv4), route(rules.IPv6)},
		Loopback: []netip.Prefix{passthrough6},
	}
}

func route(family rules.Family) rules.PolicyRoute {
	return rules.PolicyRoute{Family: family, Mark: inboundMark, Table: routeTable}
}
