// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// supersede widens the plan's footprint to another mesh's rules where the label shows that there were some: they would stay
// on top of the new ones otherwise, even if somebody changed them since. Only a new configuration moves a pod to another
// mesh, so this is for pods that are taken over or repaired.
func (e *Enforcer) supersede(ctx context.Context, ns entered, o *Outcome) error {
	if o.Trigger != Takeover && o.Trigger != ByHand {
		return nil
	}
	label, err := ns.routes.Label()
	if err != nil || label == "" || label == o.key {
		return err
	}
	own, err := e.own(ctx, ns)
	if err == nil && own.Rules() > 0 {
		o.Plan.Footprint = rules.Union(append(parts(own.Footprint), o.Plan.Footprint)...)
	}
	return err
}

// parts returns the footprints that a union consists of, so that unions do not nest.
func parts(footprint rules.Footprint) []rules.Footprint {
	if footprint.Parts == nil {
		return []rules.Footprint{footprint}
	}
	return slices.Clone(footprint.Parts)
}

// own reads what the namespace holds of any mesh's plan. Routes and addresses count only for meshes whose rules are there.
func (e *Enforcer) own(ctx context.Context, ns entered) (rules.Plan, error) {
	all := e.policy.Load().Node.Footprint()
	v4, v6, err := e.firewall.Own(ctx, ns.Namespace, all)
	if err != nil {
		return rules.Plan{}, err
	}
	own, err := ns.routes.Own(all.Narrow(rules.Plan{V4: v4, V6: v6}))
	own.V4, own.V6 = v4, v6
	return own, err
}
