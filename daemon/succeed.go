// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
)

// succeed lets the plan take the place of one that was made for another mesh, where a label says that there was one: the
// rules of two would stand on top of each other, also where somebody has changed those of the first since. Only a
// configuration that came since makes a pod another mesh's, so that this is asked when a pod is taken over or repaired.
func (e *Enforcer) succeed(ctx context.Context, ns entered, o *Outcome) error {
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

// parts returns the footprints that one consists of, so that no union is within another.
func parts(footprint rules.Footprint) []rules.Footprint {
	if footprint.Parts == nil {
		return []rules.Footprint{footprint}
	}
	return slices.Clone(footprint.Parts)
}

// own reads what the namespace holds of any mesh's plans. Routes and addresses count only of those meshes whose rules
// are there: nobody else's would have been put there with them.
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
