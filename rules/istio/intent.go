// SPDX-License-Identifier: Apache-2.0

package istio

import (
	"fmt"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
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
	defaultExcludedPort    = "15020"
	maxOwnerGroups         = 64 // all of them stand in one rule
	maxInterfaceNameLength = 15
	podInterface           = "eth0" // as runtimes name the one by which others reach a pod
)

// The agent's own ports: merged metrics, readiness, Envoy's metrics. Never captured inbound.
var agentPorts = []uint16{15020, 15021, 15090}

// Intent is what the mesh wants for one pod, every default filled in.
type Intent struct {
	TProxy       bool   `json:"tproxy"`
	OutboundPort uint16 `json:"outboundPort"`
	InboundPort  uint16 `json:"inboundPort"`
	TunnelPort   uint16 `json:"tunnelPort"`
	DNSPort      uint16 `json:"dnsPort"`
	UID          uint32 `json:"proxyUID"`
	GID          uint32 `json:"proxyGID"`

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

	OwnerGroups        []uint32 `json:"ownerGroups"` // nil: all
	OwnerGroupsExclude []uint32 `json:"ownerGroupsExcluded"`

	DNSCapture  bool         `json:"dnsCapture"`
	DualStack   bool         `json:"dualStack"`
	InvalidDrop bool         `json:"invalidDrop"`
	IPv6        IPv6         `json:"ipv6"`
	Loopback    netip.Prefix `json:"loopback"`

	notes []string
	from  sources // while the values are read, where somebody asks for their sources
}

// intent reads annotations, and then what the pod's containers say, which takes precedence. injected are the containers that
// the injector added.
func (m Mesh) intent(pod rules.Pod, injected []string, from sources) (Intent, error) {
	d := m.Defaults
	in := Intent{
		OutboundPort: d.OutboundPort, InboundPort: d.InboundPort, TunnelPort: d.TunnelPort, DNSPort: d.DNSPort,
		UID: d.UID, GID: d.GID,
		OwnerGroups: d.OwnerGroups, OwnerGroupsExclude: d.OwnerGroupsExclude,
		DNSCapture: d.DNSCapture, DualStack: d.DualStack, InvalidDrop: d.InvalidDrop,
		IPv6: d.IPv6, Loopback: d.Loopback, from: from,
	}
	a := annotations{values: pod.Annotations, from: from}
	a.gives(keyMode, "tproxy")
	switch mode := a.get(keyMode, modeRedirect); mode {
	case modeRedirect:
	case modeTProxy:
		in.TProxy = true
	default:
		a.fail(keyMode, mode, "want "+modeRedirect+", "+modeTProxy+" or "+modeNone)
	}
	in.InboundAll, in.Inbound = a.portsOrAll(keyIncludeInbound, "*")
	a.gives(keyIncludeInbound, "inboundAll", "inboundPorts")
	in.InboundExclude = a.ports(keyExcludeInbound, defaultExcludedPort,
		`"*" would exclude every port: set `+keyIncludeInbound+` to "" to capture nothing inbound`)
	if own := func(port uint16) bool { return slices.Contains(agentPorts, port) }; len(in.Inbound) > 0 &&
		len(slices.DeleteFunc(slices.Clone(in.InboundExclude), own)) > 0 {
		in.notes = append(in.notes, "annotation "+keyExcludeInbound+" has no effect beside "+keyIncludeInbound+": every port that this lists is captured")
	}
	in.InboundExclude = rules.Unique(append(in.InboundExclude, agentPorts...))
	a.gives(keyExcludeInbound, "inboundPortsExcluded")
	in.OutboundAll, in.Outbound = a.prefixesOrAll(keyIncludeOutboundIPs, "*")
	a.gives(keyIncludeOutboundIPs, "outboundAll", "outboundRanges")
	in.OutboundExclude = a.prefixes(keyExcludeOutboundIPs,
		`"*" would exclude every address: set `+keyIncludeOutboundIPs+` to "" to capture nothing outbound`)
	a.gives(keyExcludeOutboundIPs, "outboundRangesExcluded")
	in.OutboundPorts = a.ports(keyIncludeOutbound, "",
		`"*" is no list: set `+keyIncludeOutboundIPs+` to "*" to capture every port`)
	a.gives(keyIncludeOutbound, "outboundPorts")
	in.OutboundPortsExclude = a.ports(keyExcludeOutbound, defaultExcludedPort,
		`"*" would exclude every port: set `+keyIncludeOutboundIPs+` to "" to capture nothing outbound`)
	a.gives(keyExcludeOutbound, "outboundPortsExcluded")
	in.ExcludeInterfaces = a.interfaces(keyExcludeInterfaces)
	a.gives(keyExcludeInterfaces, "excludedInterfaces")
	in.RerouteInterfaces = a.interfaces(keyRerouteInterfaces)
	a.gives(keyRerouteInterfaces, "reroutedInterfaces")
	if _, ok := pod.Annotations[keyRerouteInterfaces]; !ok {
		in.RerouteInterfaces = a.interfaces(keyKubevirtInterfaces)
		a.gives(keyKubevirtInterfaces, "reroutedInterfaces")
	}
	if slices.Contains(in.RerouteInterfaces, podInterface) {
		a.fail(keyRerouteInterfaces, podInterface, "that is the pod's own interface: what arrives by it would be taken for the pod's own "+
			"outbound traffic, and the proxy would not check who sends it. Name interfaces inside of the pod, such as docker0 or k6t-eth0")
	}
	if pod.Annotations[keyOptIn] == "true" {
		a.number(keyOptInPort, 16, "outboundPort", func(n uint32) { in.OutboundPort = uint16(n) })
		a.number(keyOptInUserID, 32, "proxyUID", func(n uint32) { in.UID = n })
		a.number(keyOptInGroupID, 32, "proxyGID", func(n uint32) { in.GID = n })
	}
	if a.err != nil {
		return Intent{}, a.err
	}
	err := in.refine(pod, injected)
	in.from = nil
	return in, err
}

// annotations reads values and keeps the first problem.
type annotations struct {
	values map[string]string
	err    error
	from   sources
}

// gives notes that an annotation, if present, gave these fields their values.
func (a *annotations) gives(key string, fields ...string) {
	if _, ok := a.values[key]; !ok {
		return
	}
	for _, field := range fields {
		a.from.gave(field, "annotation ", key)
	}
}

func (a *annotations) get(key, absent string) string {
	if value, ok := a.values[key]; ok {
		return value
	}
	return absent
}

func (a *annotations) fail(key, value, problem string) {
	if a.err == nil {
		a.err = &rules.InputError{Place: "annotation " + key, Value: value, Problem: problem}
	}
}

func (a *annotations) portsOrAll(key, absent string) (bool, []uint16) {
	if a.get(key, absent) == "*" {
		return true, nil
	}
	return false, a.ports(key, absent, `write "*" without blanks`)
}

// ports reads a list of ports; refusal says why "*" cannot work for this key.
func (a *annotations) ports(key, absent, refusal string) []uint16 {
	value := a.get(key, absent)
	if strings.TrimSpace(value) == "*" {
		a.fail(key, value, refusal)
		return nil
	}
	ports, problem := parsePorts(value)
	if problem != "" {
		a.fail(key, value, problem)
	}
	return ports
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

func (a *annotations) prefixesOrAll(key, absent string) (bool, []netip.Prefix) {
	if a.get(key, absent) == "*" {
		return true, nil
	}
	return false, a.prefixes(key, "")
}

// prefixes reads a list of CIDRs, exactly as Istio's injector and CNI plugin do: no blanks, mask needed.
func (a *annotations) prefixes(key, refusal string) []netip.Prefix {
	value := a.values[key]
	if value == "" {
		return nil
	}
	if value == "*" {
		a.fail(key, value, refusal)
		return nil
	}
	var prefixes []netip.Prefix
	for i, item := range strings.Split(value, ",") {
		prefix, err := netip.ParsePrefix(item)
		if err != nil {
			a.fail(key, value, fmt.Sprintf("item %d, %q, is not a CIDR such as 10.0.0.0/8 (no blanks around it)", i+1, item))
			return nil
		}
		prefixes = append(prefixes, prefix.Masked())
	}
	return prefixes
}

func (a *annotations) interfaces(key string) []string {
	value := a.values[key]
	if value == "" {
		return nil
	}
	var names []string
	for i, item := range strings.Split(value, ",") {
		name := strings.TrimSpace(item)
		if !validInterface(name) {
			a.fail(key, value, fmt.Sprintf("item %d, %q, is not an interface name (a letter, then letters, digits, "+
				"_ . or -; %d characters at most)", i+1, item, maxInterfaceNameLength))
			return nil
		}
		names = append(names, name)
	}
	return names
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

// number calls set with the value of an annotation that is there, for a field.
func (a *annotations) number(key string, bits int, field string, set func(uint32)) {
	value, ok := a.values[key]
	if !ok {
		return
	}
	n, err := strconv.ParseUint(value, 10, bits)
	if err != nil || n == 0 || n > largest(bits) {
		a.fail(key, value, fmt.Sprintf("not a number from 1 to %d", largest(bits)))
		return
	}
	set(uint32(n))
	a.gives(key, field)
}

// largest is the largest port or id of so many bits; the last id of 32 bits stands for none.
func largest(bits int) uint64 {
	if bits == 32 {
		return 1<<32 - 2
	}
	return 1<<bits - 1
}
