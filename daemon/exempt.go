// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"

	"github.com/meshnetd/meshnetd/rules"
)

// shownByContainers reports whether only its containers show that a pod is to be left alone.
func (e *Enforcer) shownByContainers(o Outcome) bool {
	if o.Result != Skipped || len(o.Pod.Containers) == 0 {
		return false
	}
	o = e.withoutContainers(o)
	return o.undecided()
}

// withoutContainers decides about the pod as long as its containers are not known.
func (e *Enforcer) withoutContainers(o Outcome) Outcome {
	o.Pod.Containers, o.Result, o.Err = nil, "", nil
	e.decide(&o)
	return o
}

// setsItselfUp reports whether only its containers show that an init container of the pod writes its rules. The decision
// is that mesh's then, whatever else there is against the pod. What a container of that name takes from a pod that has
// rules is another matter (rules.ReasonLoosened): this is for pods that were there before meshnetd.
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

// asItIs leaves a pod alone whose init container has set it up: where rules of a mesh are in the kernel that capture
// something, and no label says that they are ours. The container's name shows nothing. A pod that was there before meshnetd
// is else looked at as if nobody knew of that container, as it was when it got its rules.
func (e *Enforcer) asItIs(ctx context.Context, ns entered, o *Outcome, known Sandbox) (stays bool, err error) {
	label, err := ns.routes.Label()
	if err != nil {
		return false, err
	}
	if label == "" || known.State == StateExempt {
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

// exempt takes the rules out that a pod had as long as its containers were not known.
func (e *Enforcer) exempt(ctx context.Context, ns entered, o *Outcome) error {
	footprint, err := e.had(ctx, ns, o)
	if err != nil {
		return err
	}
	if err := e.clear(ctx, ns, o, footprint); err != nil {
		return err
	}
	if err := ns.routes.SetLabel(""); err != nil {
		return err
	}
	e.remember(o, StateExempt, "")
	return nil
}

// had tells the rules that an exempt pod may have from here: those of the mesh that enrols it without its containers,
// and those that the label names. Another mesh's are another program's.
func (e *Enforcer) had(ctx context.Context, ns entered, o *Outcome) (rules.Footprint, error) {
	var footprints []rules.Footprint
	enrols := e.withoutContainers(*o).Decision.Mesh
	for _, mesh := range o.node.Meshes {
		if mesh.Name() == enrols {
			footprints = append(footprints, mesh.Footprint())
		}
	}
	label, err := ns.routes.Label()
	if err != nil || label == "" {
		return rules.Union(footprints...), err
	}
	own, err := e.own(ctx, ns)
	if own.Key() == label {
		footprints = append(footprints, parts(own.Footprint)...)
	}
	return rules.Union(footprints...), err
}

// remove takes out the rules that the label names. Without such ones, those of every mesh that is enabled go, whose
// names the operator has given to this node, and no others. The label stays where nothing is of any mesh: what it
// names may be where another firewall writes, which is asked next.
func (e *Enforcer) remove(ctx context.Context, ns entered, o *Outcome) error {
	label, err := ns.routes.Label()
	if err != nil {
		return err
	}
	own, err := e.own(ctx, ns)
	if err != nil {
		return err
	}
	footprint := e.enabled()
	if own.Rules() > 0 && own.Key() == label {
		footprint = own.Footprint
	}
	if err := e.clear(ctx, ns, o, footprint); err != nil || own.Rules() == 0 {
		return err
	}
	return ns.routes.SetLabel("")
}

// clear takes the rules of the footprint out of the namespace. What proves another plan does not prove this one: it
// does not say whose rules are gone.
func (e *Enforcer) clear(ctx context.Context, ns entered, o *Outcome, footprint rules.Footprint) error {
	o.planned(rules.Plan{Footprint: footprint})
	if err := e.apply(ctx, ns, o); err != nil {
		return err
	}
	diffs, err := e.differences(ctx, ns, o)
	if err != nil {
		return err
	}
	if len(diffs) > 0 {
		return fmt.Errorf("the rules could not be taken out: %s", some(diffs))
	}
	return nil
}

// enabled tells the rules of every mesh that is enabled from others'.
func (e *Enforcer) enabled() rules.Footprint {
	return rules.Node{Meshes: e.policy.Load().Node.Meshes}.Footprint()
}
