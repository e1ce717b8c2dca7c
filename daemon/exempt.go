// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// shownByContainers reports whether a pod is skipped only because of what its containers say.
func (e *Enforcer) shownByContainers(o Outcome) bool {
	if o.Result != Skipped || len(o.Pod.Containers) == 0 {
		return false
	}
	o = e.withoutContainers(o)
	return o.undecided()
}

// withoutContainers decides about the pod as if its containers were not known.
func (e *Enforcer) withoutContainers(o Outcome) Outcome {
	o.Pod.Containers, o.Result, o.Err = nil, "", nil
	e.decide(&o)
	return o
}

// setsItselfUp reports whether a container shows that an init container of the pod's own writes its rules. The outcome then
// has that mesh's decision, whatever else there is against the pod. It is for pods that were there before meshnetd: in
// one that has our rules, a container of that name loosens them (rules.ReasonLoosened).
func (e *Enforcer) setsItselfUp(o *Outcome, known Sandbox) bool {
	before := o.Trigger == Takeover || known.State == StateExempt || known.State == StatePending
	if !e.shownByContainers(*o) && (!before || o.Decision.Reason != rules.ReasonLoosened) {
		return false
	}
	for _, mesh := range o.node.Meshes {
		if d := mesh.Decide(o.Pod); d.Reason == rules.ReasonInitContainer {
			o.Decision, o.Result, o.Err = d, Skipped, nil
			o.Decision.Detail = "sets itself up: " + d.Detail + ", and what that wrote stays as it is"
			return true
		}
	}
	return false
}

// leaveSelfManaged leaves a pod alone whose init container has set it up. The container's name proves nothing: the kernel
// must hold rules of a mesh that capture something, and none were verified there. Otherwise a pod that was
// there before meshnetd is decided about as if that container were not known, as it was when it got its rules.
func (e *Enforcer) leaveSelfManaged(ctx context.Context, ns entered, o *Outcome, known Sandbox) (stays bool, err error) {
	if e.receipt(ns, o).Plan == "" || known.State == StateExempt {
		own, err := e.own(ctx, ns)
		if err != nil {
			return false, err
		}
		if own.Captures() {
			e.remember(o, StateExempt, "")
			return true, nil
		}
	}
	if o.Trigger == Takeover || known.State == StatePending || known.State == StateExempt {
		o.Pod.Containers = e.refining(o.Pod.Containers)
		o.Result, o.Err = "", nil
		e.decide(o)
	}
	return false, nil
}

// exempt takes out the rules that a pod got before its containers were known.
func (e *Enforcer) exempt(ctx context.Context, ns entered, o *Outcome) error {
	footprint, err := e.exemptFootprint(ctx, ns, o)
	if err != nil {
		return err
	}
	if err := e.clear(ctx, ns, o, footprint); err != nil {
		return err
	}
	e.receipts.Remove(o.receiptID())
	e.remember(o, StateExempt, "")
	return nil
}

// exemptFootprint covers the rules that an exempt pod may have from meshnetd: those of the mesh that enrols it without its
// containers, and those that were verified there. Any other mesh's were written by another program.
func (e *Enforcer) exemptFootprint(ctx context.Context, ns entered, o *Outcome) (rules.Footprint, error) {
	var footprints []rules.Footprint
	enrols := e.withoutContainers(*o).Decision.Mesh
	for _, mesh := range o.node.Meshes {
		if mesh.Name() == enrols {
			footprints = append(footprints, mesh.Footprint())
		}
	}
	receipt := e.receipt(ns, o)
	if receipt.Plan == "" {
		return rules.Union(footprints...), nil
	}
	own, err := e.own(ctx, ns)
	if own.Key() == receipt.Plan {
		footprints = append(footprints, parts(own.Footprint)...)
	}
	return rules.Union(footprints...), err
}

// remove takes out the rules that were verified there; where they are not whole, those of every enabled mesh, and no others.
func (e *Enforcer) remove(ctx context.Context, ns entered, o *Outcome) error {
	own, err := e.own(ctx, ns)
	if err != nil {
		return err
	}
	footprint := e.enabledFootprint()
	if own.Rules() > 0 && slices.ContainsFunc(e.receipts.Of(ns.ID()), func(r receipts.Receipt) bool { return r.Plan == own.Key() }) {
		footprint = own.Footprint
	}
	return e.clear(ctx, ns, o, footprint)
}

// clear takes the rules of the footprint out of the namespace. It reads the kernel rule by rule: the fingerprint of an
// empty plan does not say whose rules are gone.
func (e *Enforcer) clear(ctx context.Context, ns entered, o *Outcome, footprint rules.Footprint) error {
	o.planned(rules.Plan{Footprint: footprint})
	if err := e.apply(ctx, ns, o); err != nil {
		return err
	}
	left, err := e.differences(ctx, ns, o)
	if err != nil {
		return err
	}
	if len(left) > 0 {
		o.Differences = left
		return fmt.Errorf("the rules could not be taken out: %s", o.some())
	}
	return nil
}

// enabledFootprint returns the footprint of every enabled mesh.
func (e *Enforcer) enabledFootprint() rules.Footprint {
	return rules.Node{Meshes: e.policy.Load().Node.Meshes}.Footprint()
}
