// SPDX-License-Identifier: Apache-2.0

//go:build linux

package visit

import (
	"slices"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// receipt returns what was verified in the outcome's sandbox before; the zero Receipt where nothing is known of that.
func (p *pass) receipt() receipts.Receipt {
	if r := p.Memory.Receipts.Read(p.o.ReceiptID()); r.NetNS == p.o.NetNS {
		return r
	}
	return receipts.Receipt{}
}

// heldEarlier returns the outcome with the plan that was verified in the sandbox with another configuration, and how the
// namespace is judged by that; nil where it holds other rules by now, or some that take packets from them.
func (p *pass) heldEarlier() (*outcome.Look, error) {
	receipt := p.receipt()
	if receipt.Plan == "" || receipt.Names(p.o.Key) {
		return nil, nil
	}
	own, err := p.own()
	if err != nil || own.Rules() == 0 || !receipt.Names(own.Key()) {
		return nil, err
	}
	o, by := *p.o, *p
	by.o = &o
	today := p.judge.Plans(o.Plan, own)
	o.Take(p.Adopt(o.Case(), own))
	if o.Network, err = by.network(); err != nil {
		return nil, err
	}
	o.Planned(own.WithIPv6Around(o.Network))
	o.Result, o.Err, o.Earlier = "", nil, true
	if err := by.judgeRules(); err != nil || worth(o.Judged) == lifecycle.Less {
		return nil, err
	}
	if o.Difference() == "" {
		o.Judged.Packets = today
	}
	return &o, nil
}

// supersede widens the plan's footprint to another mesh's rules that were verified in the sandbox: they would stay on top of
// the new ones otherwise, even if somebody changed them since. Only a new configuration moves a pod to another mesh, so
// this is for pods that are taken over or repaired.
func (p *pass) supersede() error {
	if p.o.Trigger != lifecycle.Takeover && p.o.Trigger != lifecycle.ByHand {
		return nil
	}
	if receipt := p.receipt(); receipt.Plan == "" || receipt.Names(p.o.Key) {
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

// own reads what the namespace holds of any mesh's plan.
func (p *pass) own() (rules.Plan, error) { return p.in.Own(p.ctx, p.Node.Footprint()) }
