// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/consul"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/kuma"
	"github.com/meshnetd/meshnetd/rules/linkerd"
	"github.com/meshnetd/meshnetd/rules/mesh"
	"github.com/meshnetd/meshnetd/rules/static"
)

// known is a mesh that meshnetd knows.
type known struct {
	mesh   rules.Mesh
	common *mesh.Common
}

// meshes are those that meshnetd knows, in the order in which they are asked: a mesh is its package, its settings and a line here.
func (c *Config) meshes() []known {
	return []known{
		{istio.New(c.Istio), &c.Istio.Common},
		{consul.New(c.Consul), &c.Consul.Common},
		{kuma.New(c.Kuma), &c.Kuma.Common},
		{linkerd.New(c.Linkerd), &c.Linkerd.Common},
	}
}

// Meshes are the names of those that meshnetd knows.
var Meshes = func() (names []string) {
	for _, m := range new(Config).meshes() {
		names = append(names, m.mesh.Name())
	}
	return names
}()

// Pods returns the meshes that pods can belong to, and those that are switched off.
func (c Config) Pods() (enabled, disabled []rules.Mesh) {
	for _, m := range c.meshes() {
		if slices.Contains(c.Mesh.Enabled, m.mesh.Name()) {
			enabled = append(enabled, m.mesh)
		} else {
			disabled = append(disabled, m.mesh)
		}
	}
	for _, profile := range c.Static {
		enabled = append(enabled, static.New(profile))
	}
	if len(c.Static) == 0 { // the rules of those that were there before are known by their chains
		disabled = append(disabled, static.New(static.None))
	}
	return enabled, disabled
}

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
	for _, m := range c.meshes() {
		of := m.common
		if of.Budget = c.Budget; of == &c.Istio.Common { // whose table has neither key
			continue
		}
		of.ExcludeNamespaces = slices.Concat(c.Istio.ExcludeNamespaces, of.ExcludeNamespaces)
		if of.WithoutIPv6 == "" {
			of.WithoutIPv6 = c.Istio.WithoutIPv6
			keys = append(keys, m.mesh.Name()+".ipv6")
		}
	}
	for i := range c.Static {
		p := &c.Static[i]
		if p.ExcludeNamespaces = c.Istio.ExcludeNamespaces; p.WithoutIPv6 == "" {
			p.WithoutIPv6 = c.Istio.WithoutIPv6
		}
	}
	return keys
}

var ipv6Words = []rules.WithoutIPv6{rules.IPv6Mesh, rules.IPv6Capture, rules.IPv6Block}

func enabled(target *[]string) setter {
	seen := map[string]bool{}
	return texts(target, func(name string) error {
		if seen[name] {
			return fmt.Errorf("%q is there twice", name)
		}
		seen[name] = true
		return oneOf(Meshes)(name)
	})
}

// portRanges reads a list of ports, as numbers or texts, and of ranges such as "8000-8010".
func portRanges(target *[]rules.PortRange) setter { return each(target, portRange) }

func portRange(item any) (rules.PortRange, error) {
	r, ok := rules.ParsePortRange(fmt.Sprint(item))
	if !ok {
		return r, fmt.Errorf(`%q is no port and no range of ports such as "8000-8010"`, fmt.Sprint(item))
	}
	return r, nil
}

// ports reads a list of ports.
func ports(target *[]uint16) setter {
	return each(target, func(item any) (uint16, error) {
		r, err := portRange(item)
		if err == nil && (r.First != r.Last || r.First == 0) {
			err = fmt.Errorf("%s is not a port from 1 to 65535", strings.Replace(r.String(), "-", " to ", 1))
		}
		return r.First, err
	})
}
