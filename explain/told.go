// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"fmt"
	"net/netip"
	"strings"
	"unicode"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// Describe puts a plan into what the socket tells.
func Describe(plan rules.Plan) status.Plan {
	p := status.Plan{Key: plan.Key()}
	for _, set := range plan.Rulesets() {
		for r := range set.All() {
			p.Rules = append(p.Rules, status.Rule{Family: int(set.Family), Table: r.Table, Chain: r.Chain, Rule: r.String(), Why: r.Why})
		}
	}
	for _, r := range plan.Routes {
		p.Routes = append(p.Routes, status.Route{Family: int(r.Family), Mark: r.Mark, Table: r.Table})
	}
	for _, prefix := range plan.Loopback {
		p.Loopback = append(p.Loopback, prefix.String())
	}
	return p
}

// PlanOf makes the daemon's plan of what it told. Its key proves that nothing was lost on the way.
func PlanOf(told status.Plan) (rules.Plan, error) {
	sets := map[int]*rules.Builder{int(rules.IPv4): {}, int(rules.IPv6): {}}
	var p rules.Plan
	for _, r := range told.Rules {
		if set := sets[r.Family]; set != nil {
			parsed := rules.ParseRule(r.Rule)
			set.Append(r.Table, r.Chain, r.Why, parsed.Target, parsed.Match...)
		}
	}
	p.V4, p.V6 = sets[int(rules.IPv4)].Ruleset(rules.IPv4), sets[int(rules.IPv6)].Ruleset(rules.IPv6)
	beside, err := routed(told)
	if err != nil {
		return rules.Plan{}, err
	}
	p.Routes, p.Loopback = beside.Routes, beside.Loopback
	if p.Key() != told.Key {
		return rules.Plan{}, fmt.Errorf("the daemon's plan is %s, and what it told of it %s: is the daemon of this version?", told.Key, p.Key())
	}
	return p, nil
}

// routed makes a plan of only the routes and addresses that were told.
func routed(told status.Plan) (p rules.Plan, err error) {
	for _, r := range told.Routes {
		p.Routes = append(p.Routes, rules.PolicyRoute{Family: rules.Family(r.Family), Mark: r.Mark, Table: r.Table})
	}
	for _, text := range told.Loopback {
		prefix, err := netip.ParsePrefix(text)
		if err != nil {
			return rules.Plan{}, fmt.Errorf("the daemon's plan: %w", err)
		}
		p.Loopback = append(p.Loopback, prefix)
	}
	return p, nil
}

// PlainLines takes out control characters, since texts quote what a pod's author wrote.
func PlainLines(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, text)
}

// InterfacesOf reads what the daemon told of a pod's interfaces.
func InterfacesOf(told status.Plan) ([]rules.Interface, error) {
	var all []rules.Interface
	for _, i := range told.Interfaces {
		one := rules.Interface{Name: i.Name}
		for _, text := range i.Addresses {
			addr, err := netip.ParseAddr(text)
			if err != nil {
				return nil, fmt.Errorf("the daemon's interfaces: %w", err)
			}
			one.Addresses = append(one.Addresses, addr)
		}
		all = append(all, one)
	}
	return all, nil
}

// Assumed returns the interfaces of a pod of which only its addresses are known.
func Assumed(ips []netip.Addr) []rules.Interface {
	if len(ips) == 0 {
		return nil
	}
	return []rules.Interface{{Name: rules.UsualInterface, Addresses: ips}}
}
