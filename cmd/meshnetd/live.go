// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"net/netip"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// live is a sandbox that the daemon looks at when it is asked.
type live struct {
	*daemon.Enforcer
	id string
}

// Verify implements status.Live.
func (l live) Verify(ctx context.Context) status.Verdict {
	o := l.Compare(ctx, l.id)
	v := verdict(o)
	if o.Err == nil && len(o.Differences) > 0 {
		v.Result = status.Different
	}
	return v
}

// Repair implements status.Live.
func (l live) Repair(ctx context.Context) status.Verdict {
	o := l.Enforcer.Repair(ctx, l.id)
	v := verdict(o)
	if o.Err == nil && o.Changed {
		v.Result = status.Repaired
	}
	return v
}

func verdict(o daemon.Outcome) status.Verdict {
	v := status.Verdict{Result: status.Whole, Differences: o.Differences, Rules: o.Plan.Rules(), Plan: o.Plan.Key(), Took: status.Milliseconds(o.Took)}
	switch {
	case o.Err != nil:
		v.Result, v.Detail = status.Failed, o.Err.Error()
	case o.Decision.Action != rules.Enrol:
		v.Result, v.Detail = status.Exempt, o.Decision.Detail
	}
	return v
}

// Plan implements status.Live.
func (l live) Plan() status.Plan {
	sb, _ := l.Sandbox(l.id)
	p := describe(sb.Plan)
	p.NetNS, p.Device, p.Inode = sb.Pod.NetNS, sb.NetNS.Dev, sb.NetNS.Ino
	return p
}

// describe puts a plan into what the socket tells.
func describe(plan rules.Plan) status.Plan {
	p := status.Plan{Key: plan.Key()}
	for _, set := range plan.Rulesets() {
		for _, table := range set.Tables {
			for _, chain := range table.Chains {
				for _, r := range chain.Rules {
					p.Rules = append(p.Rules, status.Rule{Family: int(set.Family), Table: table.Name, Chain: chain.Name, Rule: r.String(), Why: r.Why})
				}
			}
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

// planOf makes the daemon's plan of what it told. Its key proves that nothing was lost on the way.
func planOf(told status.Plan) (rules.Plan, error) {
	sets := map[int]*rules.Builder{int(rules.IPv4): {}, int(rules.IPv6): {}}
	var p rules.Plan
	for _, r := range told.Rules {
		if set := sets[r.Family]; set != nil {
			parsed := rules.ParseRule(r.Rule)
			set.Append(r.Table, r.Chain, r.Why, parsed.Target, parsed.Match...)
		}
	}
	p.V4, p.V6 = sets[int(rules.IPv4)].Ruleset(rules.IPv4), sets[int(rules.IPv6)].Ruleset(rules.IPv6)
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
	if p.Key() != told.Key {
		return rules.Plan{}, fmt.Errorf("the daemon's plan is %s, and what it told of it %s: is the daemon of this version?", told.Key, p.Key())
	}
	return p, nil
}
