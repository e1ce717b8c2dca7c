// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
)

// The annotations that shape the redirection, with the value of an absent one as Istio's CNI plugin has it.
const (
	keyMode                = "sidecar.istio.io/interceptionMode"                // REDIRECT
	keyIncludeOutboundIPs  = "traffic.sidecar.istio.io/includeOutboundIPRanges" // *
	keyExcludeOutboundIPs  = "traffic.sidecar.istio.io/excludeOutboundIPRanges" // none
	keyIncludeInbound      = "traffic.sidecar.istio.io/includeInboundPorts"     // *
	keyExcludeInbound      = "traffic.sidecar.istio.io/excludeInboundPorts"     // 15020
	keyIncludeOutbound     = "traffic.sidecar.istio.io/includeOutboundPorts"    // none
	keyExcludeOutbound     = "traffic.sidecar.istio.io/excludeOutboundPorts"    // 15020
	keyExcludeInterfaces   = "traffic.sidecar.istio.io/excludeInterfaces"       // none
	keyRerouteInterfaces   = "istio.io/reroute-virtual-interfaces"              // none
	keyKubevirtInterfaces  = "traffic.sidecar.istio.io/kubevirtInterfaces"      // none; only without the one above
	modeRedirect           = "REDIRECT"
	modeTProxy             = "TPROXY"
	modeNone               = "NONE"
	defaultExcludedPort    = 15020
	maxOwnerGroups         = 64 // all of them stand in one rule
	maxInterfaceNameLength = 15
	podInterface           = "eth0" // as runtimes name the one by which others reach a pod
)

// The agent's own ports: merged metrics, readiness, Envoy's metrics. Never captured inbound.
var agentPorts = []uint16{15020, 15021, 15090}

// Intent is what the mesh wants for one pod, every default filled in.
type Intent struct {
	TProxy       bool   `json:"tproxy"`
	OutboundPort uint16 `json:"outboundPort" key:"istio.outbound_port"`
	InboundPort  uint16 `json:"inboundPort" key:"istio.inbound_port"`
	TunnelPort   uint16 `json:"tunnelPort" key:"istio.tunnel_port"`
	DNSPort      uint16 `json:"dnsPort" key:"istio.dns_port"`
	UID          uint32 `json:"proxyUID" key:"istio.proxy_uid"`
	GID          uint32 `json:"proxyGID" key:"istio.proxy_gid"`

	InboundAll     bool     `json:"inboundAll"`
	Inbound        []uint16 `json:"inboundPorts"`
	InboundExclude []uint16 `json:"inboundPortsExcluded"` // looked at only with InboundAll

	OutboundAll          bool           `json:"outboundAll"`
	Outbound             []netip.Prefix `json:"outboundRanges"`
	OutboundExclude      []netip.Prefix `json:"outboundRangesExcluded"`
	OutboundPorts        []uint16       `json:"outboundPorts"`
	OutboundPortsExclude []uint16       `json:"outboundPortsExcluded"`

	ExcludeInterfaces []string `json:"excludedInterfaces"`
	RerouteInterfaces []string `json:"reroutedInterfaces"`

	OwnerGroups        []uint32 `json:"ownerGroups" key:"istio.owner_groups" none:"all"` // nil: all
	OwnerGroupsExclude []uint32 `json:"ownerGroupsExcluded" key:"istio.owner_groups_exclude"`

	DNSCapture  bool              `json:"dnsCapture" key:"istio.dns_capture"`
	DualStack   bool              `json:"dualStack" key:"istio.dual_stack"`
	InvalidDrop bool              `json:"invalidDrop" key:"istio.invalid_drop"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6" key:"ipv6"`
	Loopback    netip.Prefix      `json:"loopback" key:"istio.loopback_cidr"`

	notes    []string
	injected []string // the containers that the injector added
}

// intent reads annotations, and then what the pod's containers say, which takes precedence. injected are the containers that
// the injector added.
func (in reading) intent(d Defaults, injected []string) error {
	*in.Intent = Intent{
		OutboundPort: d.OutboundPort, InboundPort: d.InboundPort, TunnelPort: d.TunnelPort, DNSPort: d.DNSPort,
		UID: d.UID, GID: d.GID,
		InboundAll: true, InboundExclude: []uint16{defaultExcludedPort}, OutboundAll: true, OutboundPortsExclude: []uint16{defaultExcludedPort},
		OwnerGroups: d.OwnerGroups, OwnerGroupsExclude: d.OwnerGroupsExclude,
		DNSCapture: d.DNSCapture, DualStack: d.DualStack, InvalidDrop: d.InvalidDrop,
		WithoutIPv6: d.WithoutIPv6, Loopback: d.Loopback, injected: injected,
	}
	mesh.Read(in.Reader, keyMode, &in.TProxy, parseMode)
	orAll(in.Reader, keyIncludeInbound, &in.InboundAll, &in.Inbound, notAll(parsePorts, `write "*" without blanks`))
	mesh.Read(in.Reader, keyExcludeInbound, &in.InboundExclude, notAll(parsePorts,
		`"*" would exclude every port: set `+keyIncludeInbound+` to "" to capture nothing inbound`))
	if own := func(port uint16) bool { return slices.Contains(agentPorts, port) }; len(in.Inbound) > 0 &&
		len(slices.DeleteFunc(slices.Clone(in.InboundExclude), own)) > 0 {
		in.notes = append(in.notes, "annotation "+keyExcludeInbound+" has no effect beside "+keyIncludeInbound+": every port that this lists is captured")
	}
	in.InboundExclude = rules.Unique(append(in.InboundExclude, agentPorts...))
	orAll(in.Reader, keyIncludeOutboundIPs, &in.OutboundAll, &in.Outbound, parsePrefixes)
	mesh.Read(in.Reader, keyExcludeOutboundIPs, &in.OutboundExclude, notAll(parsePrefixes,
		`"*" would exclude every address: set `+keyIncludeOutboundIPs+` to "" to capture nothing outbound`))
	mesh.Read(in.Reader, keyIncludeOutbound, &in.OutboundPorts, notAll(parsePorts,
		`"*" is no list: set `+keyIncludeOutboundIPs+` to "*" to capture every port`))
	mesh.Read(in.Reader, keyExcludeOutbound, &in.OutboundPortsExclude, notAll(parsePorts,
		`"*" would exclude every port: set `+keyIncludeOutboundIPs+` to "" to capture nothing outbound`))
	mesh.Read(in.Reader, keyExcludeInterfaces, &in.ExcludeInterfaces, parseInterfaces)
	rerouted := keyRerouteInterfaces
	if _, there := in.Pod.Annotations[rerouted]; !there {
		rerouted = keyKubevirtInterfaces
	}
	mesh.Read(in.Reader, rerouted, &in.RerouteInterfaces, parseInterfaces)
	if slices.Contains(in.RerouteInterfaces, podInterface) {
		in.Fail(keyRerouteInterfaces, podInterface, "that is the pod's own interface: what arrives by it would be taken for the pod's own "+
			"outbound traffic, and the proxy would not check who sends it. Name interfaces inside of the pod, such as docker0 or k6t-eth0")
	}
	if in.Pod.Annotations[keyOptIn] == "true" {
		mesh.Read(in.Reader, keyOptInPort, &in.OutboundPort, rules.ParsePort)
		mesh.Read(in.Reader, keyOptInUserID, &in.UID, rules.ParseID)
		mesh.Read(in.Reader, keyOptInGroupID, &in.GID, rules.ParseID)
	}
	if err := in.Err(); err != nil {
		return err
	}
	return in.refine(injected)
}

func parseMode(mode string) (tproxy bool, problem string) {
	if mode != modeRedirect && mode != modeTProxy {
		problem = "want " + modeRedirect + ", " + modeTProxy + " or " + modeNone
	}
	return mode == modeTProxy, problem
}

// orAll reads a list, or "*".
func orAll[T any](r *mesh.Reader, key string, all *bool, list *[]T, parse func(string) ([]T, string)) {
	text, there := r.Pod.Annotations[key]
	if !there {
		return
	}
	if *all = text == "*"; !*all {
		mesh.Read(r, key, list, parse)
	}
	r.Gives(key, all, list)
}

// notAll refuses "*" and says why it cannot work.
func notAll[T any](parse func(string) ([]T, string), refusal string) func(string) ([]T, string) {
	return func(text string) ([]T, string) {
		if strings.TrimSpace(text) == "*" {
			return nil, refusal
		}
		return parse(text)
	}
}

func parsePorts(value string) (ports []uint16, problem string) {
	value = strings.TrimSpace(value)
	if value == "" {
		return nil, ""
	}
	for i, item := range strings.Split(value, ",") {
		port, err := strconv.ParseUint(strings.TrimSpace(item), 10, 16)
		if err != nil {
			return nil, fmt.Sprintf("item %d, %q, is not a port (0 to 65535; no ranges, no names)", i+1, item)
		}
		ports = append(ports, uint16(port))
	}
	return ports, ""
}

// parsePrefixes reads a list of CIDRs, exactly as Istio's injector and CNI plugin do: no blanks, mask needed.
func parsePrefixes(list string) ([]netip.Prefix, string) {
	prefixes, problem := rules.ParsePrefixes(list)
	for i, prefix := range prefixes {
		prefixes[i] = prefix.Masked()
	}
	return prefixes, problem
}

func parseInterfaces(list string) (names []string, problem string) {
	if list == "" {
		return nil, ""
	}
	for i, item := range strings.Split(list, ",") {
		name := strings.TrimSpace(item)
		if !validInterface(name) {
			return nil, fmt.Sprintf("item %d, %q, is not an interface name (a letter, then letters, digits, "+
				"_ . or -; %d characters at most)", i+1, item, maxInterfaceNameLength)
		}
		names = append(names, name)
	}
	return names, ""
}

// validInterface follows Istio, which is stricter than the kernel: the name becomes part of rules, so it must not be able
// to mean anything else.
func validInterface(name string) bool {
	letter := func(c byte) bool { return c >= 'a' && c <= 'z' || c >= 'A' && c <= 'Z' }
	if name == "" || len(name) > maxInterfaceNameLength || !letter(name[0]) {
		return false
	}
	for _, c := range []byte(name) {
		if digit := c >= '0' && c <= '9'; !letter(c) && !digit && c != '_' && c != '.' && c != '-' {
			return false
		}
	}
	return true
}

// largest is the largest port or id of so many bits; the last id of 32 bits stands for none.
func largest(bits int) uint64 {
	if bits == 32 {
		return 1<<32 - 2
	}
	return 1<<bits - 1
}
