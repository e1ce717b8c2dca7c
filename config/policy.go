// SPDX-License-Identifier: Apache-2.0

package config

import (
	"fmt"
	"regexp"

	"github.com/meshnetd/meshnetd/rules"
)

// skips are the reasons for which a pod that bears an injector's mark can be left alone.
var skips = []rules.Reason{rules.ReasonNamespaceExcluded, rules.ReasonHostNetwork, rules.ReasonInitContainer, rules.ReasonInjectDisabled,
	rules.ReasonNoProxy, rules.ReasonNotSidecar, rules.ReasonInterceptionNone, rules.ReasonBuildPod}

// policies reads what plans have to capture.
func policies(c *Config) list {
	return list{at: func(place string) { c.Policies[len(c.Policies)-1].Place = place }, add: func() (map[string]setter, func() map[string]string) {
		c.Policies = append(c.Policies, rules.CapturePolicy{})
		p := &c.Policies[len(c.Policies)-1]
		return map[string]setter{
			"namespaces":              texts(&p.Namespaces, pattern),
			"all_outbound":            boolean(&p.AllOutbound),
			"all_inbound":             boolean(&p.AllInbound),
			"no_ipv6_around":          boolean(&p.IPv6),
			"excluded_outbound_ports": given(&p.OutboundPorts, portRanges(&p.OutboundPorts)),
			"excluded_inbound_ports":  given(&p.InboundPorts, portRanges(&p.InboundPorts)),
			"excluded_ranges":         given(&p.Ranges, prefixes(&p.Ranges)),
			"excluded_interfaces":     given(&p.Interfaces, texts(&p.Interfaces, interfaceName)),
			"excluded_users":          given(&p.Users, ids(&p.Users)),
			"excluded_groups":         given(&p.Groups, ids(&p.Groups)),
			"skips":                   given(&p.Skips, each(&p.Skips, func(s string) (rules.Reason, error) { return rules.Reason(s), oneOf(skips)(s) })),
			"may_loosen":              boolean(&p.MayLoosen),
			"accepted_tables":         texts(&p.Accepted, foreignTable),
		}, func() map[string]string { return nil }
	}}
}

var tableName = regexp.MustCompile(`^(ip|ip6|inet|iptables-legacy|ip6tables-legacy) [a-zA-Z0-9][a-zA-Z0-9/\\_.-]*$`)

// foreignTable accepts the name of a table, and none of those that pods' own rules can be in.
func foreignTable(s string) error {
	switch s {
	case "inet meshnetd", "ip nat", "ip mangle", "ip raw", "ip6 nat", "ip6 mangle", "ip6 raw", "ip filter", "ip6 filter":
		return fmt.Errorf("%q is where the pods' own rules are: only tables of others can be accepted", s)
	}
	if !tableName.MatchString(s) {
		return fmt.Errorf(`%q is no table: its family (ip, ip6, inet) and its name, as "nft list tables" shows them, or "iptables-legacy nat"`, s)
	}
	return nil
}

// given keeps an empty list of the file apart from a missing one: an empty list allows nothing, a missing one anything.
func given[T any](target *[]T, read setter) setter {
	return then(read, func() error {
		if *target == nil {
			*target = []T{}
		}
		return nil
	})
}
