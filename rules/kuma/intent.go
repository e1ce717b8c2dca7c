// SPDX-License-Identifier: Apache-2.0

package kuma

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode/utf8"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/mesh"
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
	WithoutIPv6 rules.WithoutIPv6 `json:"ipv6" key:"kuma.ipv6"`

	notes []string
}

// Direction is what is captured of inbound or outbound traffic.
type Direction struct {
	Enabled      bool           `json:"enabled"`
	Port         uint16         `json:"port"`
	Include      []uint16       `json:"ports" none:"all"`
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

// String returns a user as an explanation prints it.
func (u User) String() string {
	who := fmt.Sprintf("user %d", u.First)
	if u.First != u.Last {
		who = fmt.Sprintf("users %d-%d", u.First, u.Last)
	}
	return fmt.Sprintf("%s by %s to %s", who, u.Protocol, mesh.List(u.Ports))
}

// Network is an interface of the pod behind which there are others, such as containers in it: what they send beyond
// Prefix is outbound traffic.
type Network struct {
	Interface string       `json:"interface"`
	Prefix    netip.Prefix `json:"prefix"`
}

// String returns a network as Kuma writes it.
func (n Network) String() string { return n.Interface + ":" + n.Prefix.String() }

// measure counts what read reads. An item of a list has a comma before the next, or a dash before itself, with a blank or
// a line break behind it, of which YAML has some beyond ASCII; a backslash may be a comma in quotes. What stands in quotes
// may count as more.
func measure(kind, key, config string) rules.Input {
	w := rules.ListInput(kind, key, config)
	w.Items += strings.Count(config, `\`)
	for i := 1; i < len(config); i++ {
		if config[i-1] == '-' && (config[i] <= ' ' || config[i] >= utf8.RuneSelf) {
			w.Items++
		}
	}
	return w
}

func (in *Intent) read(r *mesh.Reader, d Defaults) error {
	*in = Intent{
		UID:         5678,
		Inbound:     Direction{Enabled: true, Port: 15006},
		Outbound:    Direction{Enabled: true, Port: 15001},
		DNSPort:     15053,
		WithoutIPv6: d.WithoutIPv6,
	}
	const absent = "is missing or empty: the control plane writes it from version 3 on, and before that where transparentProxy.configMap.enabled is set"
	if err := r.Configured(KeyConfig, absent, in.configured); err != nil {
		return err
	}
	if in.DNSCapture && !in.DNSOneZone {
		r.Add(mesh.LookupsBehind)
	}
	if !in.CNIMode {
		return mesh.Outside(rules.ReasonInitContainer, "annotation "+KeyConfig+" has no cniMode: true, so that init container "+
			containerInit+" sets the pod up")
	}
	r.Add("it says cniMode: true, so that the control plane counts on somebody on the node")
	return nil
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
