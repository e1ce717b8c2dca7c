// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Meshes are those that meshnetd knows, in the order in which they are asked.
var Meshes = []string{"istio", "consul", "kuma", "linkerd"}

// Mesh says which meshes pods can belong to.
type Mesh struct {
	Enabled []string // some of Meshes
}

// meshKeys are the keys of the meshes other than Istio.
func meshKeys(c *Config) map[string]setter {
	l := &c.Linkerd
	return map[string]setter{
		"mesh.enabled": enabled(&c.Mesh.Enabled),

		"consul.exclude_namespaces": texts(&c.Consul.ExcludeNamespaces, namespaceName),
		"consul.ipv6":               text(&c.Consul.WithoutIPv6, ipv6OrNone),

		"kuma.exclude_namespaces": texts(&c.Kuma.ExcludeNamespaces, namespaceName),
		"kuma.ipv6":               text(&c.Kuma.WithoutIPv6, ipv6OrNone),

		"linkerd.exclude_namespaces":       texts(&l.ExcludeNamespaces, namespaceName),
		"linkerd.control_plane_namespaces": texts(&l.ControlPlaneNamespaces, namespaceName),

		"linkerd.ipv6":           text(&l.WithoutIPv6, ipv6OrNone),
		"linkerd.inbound_port":   port(&l.InboundPort),
		"linkerd.outbound_port":  port(&l.OutboundPort),
		"linkerd.control_port":   port(&l.ControlPort),
		"linkerd.admin_port":     port(&l.AdminPort),
		"linkerd.proxy_uid":      number(&l.UID, 1, 1<<32-2),
		"linkerd.proxy_gid":      number(&l.GID, 0, 1<<32-2),
		"linkerd.skip_inbound":   portRanges(&l.SkipInbound),
		"linkerd.skip_outbound":  portRanges(&l.SkipOutbound),
		"linkerd.redirect_ports": ports(&l.RedirectPorts),
		"linkerd.api_server":     portRanges(&l.APIServer),
		"linkerd.proxy_ipv6":     boolean(&l.ProxyIPv6),
	}
}

// inherit gives each mesh what is set for all: the budget, excluded namespaces besides its own, and what becomes of IPv6
// where it does not say. It returns the keys that took the value of ipv6.
func (c *Config) inherit() (keys []string) {
	c.Istio.Budget, c.Consul.Budget, c.Kuma.Budget, c.Linkerd.Budget = c.Budget, c.Budget, c.Budget, c.Budget
	for _, mesh := range []struct {
		name     string
		excluded *[]string
		ipv6     *rules.WithoutIPv6
	}{{"consul", &c.Consul.ExcludeNamespaces, &c.Consul.WithoutIPv6}, {"kuma", &c.Kuma.ExcludeNamespaces, &c.Kuma.WithoutIPv6},
		{"linkerd", &c.Linkerd.ExcludeNamespaces, &c.Linkerd.WithoutIPv6}} {
		*mesh.excluded = slices.Concat(c.Istio.ExcludeNamespaces, *mesh.excluded)
		if *mesh.ipv6 == "" {
			*mesh.ipv6 = c.Istio.IPv6
			keys = append(keys, mesh.name+".ipv6")
		}
	}
	for i := range c.Static {
		p := &c.Static[i]
		if p.ExcludeNamespaces = c.Istio.ExcludeNamespaces; p.WithoutIPv6 == "" {
			p.WithoutIPv6 = c.Istio.IPv6
		}
	}
	return keys
}

var ipv6Words = []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block}

func ipv6OrNone(s string) error {
	if s == "" {
		return nil
	}
	return oneOf(ipv6Words)(s)
}

func enabled(target *[]string) setter {
	var raw []string
	return decoded(&raw, func() error {
		*target = raw
		for i, name := range raw {
			if slices.Contains(raw[:i], name) {
				return fmt.Errorf("%q is there twice", name)
			}
			if err := oneOf(Meshes)(name); err != nil {
				return err
			}
		}
		return nil
	})
}

// portRanges reads a list of ports, as numbers or texts, and of ranges such as "8000-8010".
func portRanges(target *[]rules.PortRange) setter {
	var items []any
	return decoded(&items, func() error {
		var all []rules.PortRange
		for _, item := range items {
			r, ok := rules.ParsePortRange(fmt.Sprint(item))
			if !ok {
				return fmt.Errorf(`%q is no port and no range of ports such as "8000-8010"`, fmt.Sprint(item))
			}
			all = append(all, r)
		}
		*target = all
		return nil
	})
}

// ports reads a list of ports.
func ports(target *[]uint16) setter {
	var all []rules.PortRange
	return then(portRanges(&all), func() error {
		*target = nil
		for _, r := range all {
			if r.First != r.Last || r.First == 0 {
				return fmt.Errorf("%s is not a port from 1 to 65535", strings.Replace(r.String(), "-", " to ", 1))
			}
			*target = append(*target, r.First)
		}
		return nil
	})
}
