// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/meshnetd/meshnetd/rules"
)

// Intent is what the mesh wants for one pod, every default filled in. It is read from one annotation
// alone, in which the control plane already merged its own configuration, the ConfigMap and the pod's other annotations.
type Intent struct {
	CNIMode bool   `json:"cniMode"`
	UID     uint32 `json:"proxyUID"`

	Inbound  Direction `json:"inbound"`
	Outbound Direction `json:"outbound"`
	Users    []User    `json:"usersExcluded"`

	DNSCapture  bool      `json:"dnsCapture"`
	DNSPort     uint16    `json:"dnsPort"`
	DNSOneZone  bool      `json:"dnsOneZone"` // its connections are not kept apart
	Networks    []Network `json:"virtualNetworks"`
	DropInvalid bool      `json:"invalidDrop"`

	IPv4Only    bool              `json:"ipv4Only"`
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6"`

	notes []string
}

// Direction is what is captured of inbound or outbound traffic.
type Direction struct {
	Enabled      bool           `json:"enabled"`
	Port         uint16         `json:"port"`
	Include      []uint16       `json:"ports"`         // none: all
	Exclude      []uint16       `json:"portsExcluded"` // looked at only without Include
	RangeExclude []netip.Prefix `json:"rangesExcluded"`
}

// proxies are the injector's containers that run as the proxy.
var proxies = []rules.Sidecar{
	{Name: containerProxy, Command: []string{"kuma-dp", "run"}},
	{Name: containerValidation, Command: []string{"kumactl", "install", "transparent-proxy-validator"}},
}

// sidecars returns those of the proxies that the pod has: the injector has the rules validated where inbound traffic
// is captured.
func (in Intent) sidecars() []rules.Sidecar {
	if in.Inbound.Enabled {
		return proxies
	}
	return proxies[:1]
}

// User is a user, or several, whose traffic to some ports goes around the proxy.
type User struct {
	Protocol    string            `json:"protocol"`
	Ports       []rules.PortRange `json:"ports"`
	First, Last uint32            // the same where it is one
}

// Network is an interface of the pod behind which there are others, such as containers in it: what they send beyond
// Prefix is outbound traffic.
type Network struct {
	Interface string       `json:"interface"`
	Prefix    netip.Prefix `json:"prefix"`
}

// input counts what intent reads. An item of a list has a comma before the next, or a dash before itself, with a blank or
// a line break behind it, of which YAML has some beyond ASCII; a backslash may be a comma in quotes. What stands in quotes
// may count as more.
func input(config string) rules.Input {
	w := rules.ListInput("annotation", KeyConfig, config)
	w.Items += strings.Count(config, `\`)
	for i := 1; i < len(config); i++ {
		if config[i-1] == '-' && (config[i] <= ' ' || config[i] >= utf8.RuneSelf) {
			w.Items++
		}
	}
	return w
}

func (m Mesh) intent(pod rules.Pod) (Intent, error) {
	in := Intent{
		UID:         5678,
		Inbound:     Direction{Enabled: true, Port: 15006},
		Outbound:    Direction{Enabled: true, Port: 15001},
		DNSPort:     15053,
		WithoutIPv6: m.Defaults.WithoutIPv6,
	}
	text := pod.Annotations[KeyConfig]
	problem := "is missing or empty: the control plane writes it from version 3 on, and before that where transparentProxy.configMap.enabled is set"
	if text != "" {
		problem = in.read(text)
	}
	if problem == "" {
		problem = in.check()
	}
	if problem != "" {
		return Intent{}, &rules.InputError{Place: "annotation " + KeyConfig, Value: text, Problem: problem}
	}
	return in, nil
}

// check refuses settings that are each valid but cannot work together.
func (in Intent) check() (problem string) {
	if in.Inbound.Port == in.Outbound.Port {
		return "redirect.inbound.port and redirect.outbound.port are the same: the listeners cannot share a port"
	}
	type place struct {
		name string
		is4  bool
	}
	seen := map[place]bool{}
	for _, n := range in.Networks {
		at := place{n.Interface, n.Prefix.Addr().Is4()}
		if seen[at] {
			return fmt.Sprintf("redirect.vnet.networks: interface %s is there twice", n.Interface)
		}
		seen[at] = true
	}
	return ""
}
