// SPDX-License-Identifier: Apache-2.0

package config

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/static"
)

const (
	modeRedirect = "REDIRECT"
	modeTProxy   = "TPROXY"
)

// staticProfiles reads the profiles of sidecars that no mesh injects.
func staticProfiles(c *Config) list {
	return list{must: []string{"name", "proxy_uid", "proxy_containers"}, add: func() (map[string]setter, func() map[string]string) {
		c.Static = append(c.Static, static.Profile{})
		i := len(c.Static) - 1
		p := &c.Static[i]
		var mode string
		check := func() map[string]string { return checkStatic(c.Static[:i], *p, c.Budget.Rules) }
		return map[string]setter{
			"name":        text(&p.Name, profileName),
			"namespaces":  texts(&p.Namespaces, pattern),
			"labels":      terms(&p.Labels),
			"annotations": terms(&p.Annotations),

			"mode": then(text(&mode, oneOf([]string{modeRedirect, modeTProxy})), func() error {
				p.TProxy = mode == modeTProxy
				return nil
			}),
			"proxy_uid":        number(&p.UID, 1, 1<<32-2),
			"proxy_gid":        number(&p.GID, 0, 1<<32-2),
			"proxy_containers": texts(&p.Proxies, notEmpty),
			"proxy_ipv6":       boolean(&p.ProxyIPv6),
			"ipv6":             text(&p.WithoutIPv6, ipv6OrNone),
			"dns_port":         number(&p.DNSPort, 0, 65535),

			"inbound_port":          number(&p.InboundPort, 0, 65535),
			"include_inbound_ports": portRanges(&p.Inbound),
			"exclude_inbound_ports": portRanges(&p.InboundExclude),

			"outbound_port":          number(&p.OutboundPort, 0, 65535),
			"include_outbound_ports": portRanges(&p.OutboundPorts),
			"exclude_outbound_ports": portRanges(&p.OutboundPortsExclude),
			"include_outbound_cidrs": prefixes(&p.Outbound),
			"exclude_outbound_cidrs": prefixes(&p.OutboundExclude),

			"exclude_interfaces": texts(&p.ExcludeInterfaces, interfaceName),
			"exempt_uids":        ids(&p.ExemptUIDs),
		}, check
	}}
}

// checkStatic finds what is wrong between the keys of a profile, with those before it, and with the rules that a pod may have.
func checkStatic(before []static.Profile, p static.Profile, mostRules int) map[string]string {
	var whole []string // what is wrong with no key of it
	problems := map[string]string{}
	if slices.Contains(Meshes, p.Name) {
		problems["name"] = fmt.Sprintf("%q is a mesh that meshnetd knows: its table is [%s], and a profile needs a name of its own", p.Name, p.Name)
	}
	if slices.ContainsFunc(before, func(other static.Profile) bool { return other.Name == p.Name }) && p.Name != "" {
		problems["name"] = fmt.Sprintf("%q is another profile's name already", p.Name)
	}
	if len(p.Namespaces)+len(p.Labels)+len(p.Annotations) == 0 {
		whole = append(whole, `selects every pod: name labels, annotations or namespaces, or namespaces = ["*"] if that is meant`)
	}
	if p.InboundPort == 0 && p.OutboundPort == 0 && p.DNSPort == 0 {
		whole = append(whole, "redirects nothing: it has no inbound_port, outbound_port or dns_port")
	}
	listeners := []struct {
		key  string
		port uint16
	}{{"inbound_port", p.InboundPort}, {"outbound_port", p.OutboundPort}, {"dns_port", p.DNSPort}}
	for i, later := range listeners {
		for _, earlier := range listeners[:i] {
			if later.port == earlier.port && later.port != 0 {
				problems[later.key] = fmt.Sprintf("%d is %s already: two listeners cannot share a port", later.port, earlier.key)
			}
		}
	}
	if len(p.Proxies) == 0 {
		problems["proxy_containers"] = "an empty list would refuse the proxy itself, which runs as user proxy_uid"
	}
	if p.TProxy && p.InboundPort == 0 {
		problems["mode"] = modeTProxy + " is for inbound traffic, and there is no inbound_port"
	}
	if n := p.Rules(); n > mostRules {
		whole = append(whole, fmt.Sprintf("gives each of its pods up to %d rules: more than the %d of budget.rules, so that all would be refused", n, mostRules))
	}
	if len(whole) > 0 {
		problems[""] = strings.Join(whole, "; ")
	}
	return problems
}

func notEmpty(s string) error {
	if s == "" {
		return errors.New(`"" is no name`)
	}
	return nil
}

var interfacePattern = regexp.MustCompile(`^[A-Za-z0-9_.:@-]{1,15}$`)

func interfaceName(s string) error {
	if !interfacePattern.MatchString(s) || s == "lo" {
		return fmt.Errorf("%q is no name of an interface besides lo: 15 letters, digits and any of _.:@- at most; there are no patterns here", s)
	}
	return nil
}

// terms reads labels or annotations as KEY, whatever its value, or KEY=VALUE.
func terms(target *[]static.Term) setter {
	return each(target, func(s string) (static.Term, error) {
		key, value, valued := strings.Cut(s, "=")
		if key == "" || strings.ContainsAny(key, " \t*") {
			return static.Term{}, fmt.Errorf(`%q is neither KEY nor KEY=VALUE; there are no patterns here`, s)
		}
		return static.Term{Key: key, Value: value, Any: !valued}, nil
	})
}

func prefixes(target *[]netip.Prefix) setter {
	return each(target, func(s string) (netip.Prefix, error) {
		prefix, err := netip.ParsePrefix(s)
		if err != nil || prefix != prefix.Masked() {
			return prefix, fmt.Errorf("%q is not a CIDR such as 10.0.0.0/8, without host bits", s)
		}
		return prefix, nil
	})
}

func ids(target *[]uint32) setter {
	return each(target, func(id int64) (uint32, error) {
		if id < 0 || id >= rules.NoID {
			return 0, fmt.Errorf("%d is not between 0 and %d", id, int64(rules.NoID-1))
		}
		return uint32(id), nil
	})
}
