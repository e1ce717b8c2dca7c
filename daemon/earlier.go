// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// receipt returns what was verified in the outcome's sandbox before; the zero Receipt where nothing is known of that.
func (p *pass) receipt() receipts.Receipt {
	if r := p.receipts.Read(p.o.receiptID()); r.NetNS == p.ns.ID() {
		return r
	}
	return receipts.Receipt{}
}

// receiptID is what the receipt is for. A command may name a namespace and no sandbox: no takeover believes that one.
func (o *Outcome) receiptID() string {
	if o.Pod.SandboxID == "" {
		return fmt.Sprintf("netns-%d", o.NetNS.Ino)
	}
	return o.Pod.SandboxID
}

// heldEarlier returns the outcome with the plan that was verified in the sandbox with another configuration, and how the
// namespace is judged by that; nil where it holds other rules by now, or some that take packets from them.
func (p *pass) heldEarlier() (*Outcome, error) {
	receipt := p.receipt()
	if receipt.Plan == "" || receipt.Plan == p.o.key {
		return nil, nil
	}
	own, err := p.own()
	if err != nil || own.Rules() == 0 || own.Key() != receipt.Plan {
		return nil, err
	}
	o, by := *p.o, *p
	by.o = &o
	today := p.compared(o.Plan, own)
	p.adopt(&o, own)
	if o.network, err = by.network(); err != nil {
		return nil, err
	}
	o.planned(own.WithIPv6Around(o.network))
	o.Result, o.Err, o.earlier = "", nil, true
	if err := by.judgeBy(); err != nil || o.judged.holds() == lifecycle.Less {
		return nil, err
	}
	if o.judged.said == "" {
		o.judged.said = today
	}
	return &o, nil
}

// compared says what the rules of an earlier plan do that those of today's do not, or the other way round. Pods of one kind
// are compared once.
func (e *Enforcer) compared(today, earlier rules.Plan) string {
	if today.Rules() == 0 { // the pod would get none
		return ""
	}
	at := evidence{today.Key(), earlier.Key(), "plans"}
	j, known := e.sandboxes.judged(at)
	if !known {
		j.said = Outcome{Effect: effect.ComparePlans(today, earlier)}.said()
		e.sandboxes.learn(at, j)
	}
	return j.said
}

// adopt fits the decision about a pod to the rules that it has: the meshes that wrote them decide, and the rules say
// whose traffic they let pass. Policies and switches of today's configuration do not count against them.
func (e *Enforcer) adopt(o *Outcome, plan rules.Plan) {
	writers := o.node.OnlyWritersOf(plan)
	wrote := func(mesh rules.Mesh) bool { return mesh.Name() == o.Decision.Mesh }
	if o.Decision.Action != rules.Enrol || !slices.ContainsFunc(writers.Meshes, wrote) {
		o.node, o.node.Annotations = writers, nil
		again := *o
		again.Result, again.Err = "", nil
		e.decide(&again)
		o.Decision = again.Decision
	}
	o.Decision.Proxy = o.Decision.Proxy.IdentifiedBy(plan)
}

// supersede widens the plan's footprint to another mesh's rules that were verified in the sandbox: they would stay on top of
// the new ones otherwise, even if somebody changed them since. Only a new configuration moves a pod to another mesh, so
// this is for pods that are taken over or repaired.
func (p *pass) supersede() error {
	if p.o.Trigger != Takeover && p.o.Trigger != ByHand {
		return nil
	}
	if receipt := p.receipt(); receipt.Plan == "" || receipt.Plan == p.o.key {
		return nil
	}
	own, err := p.own()
	if err == nil && own.Rules() > 0 {
		p.o.Plan.Footprint = rules.Union(append(parts(own.Footprint), p.o.Plan.Footprint)...)
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
func (p *pass) own() (rules.Plan, error) {
	all := p.policy.Load().Node.Footprint()
	v4, v6, err := p.firewall.Own(p.ctx, p.ns, all)
	if err != nil {
		return rules.Plan{}, err
	}
	own, err := p.routes.Own(all.Narrow(rules.Plan{V4: v4, V6: v6}))
	own.V4, own.V6 = v4, v6
	return own, err
}
