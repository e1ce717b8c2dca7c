// SPDX-License-Identifier: Apache-2.0

//go:build linux

package visit

import (
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// ownInit says whether an init container has set the pod up. The container's name proves nothing: the kernel must hold rules
// of a mesh that capture something, and none were verified there.
func (p *pass) ownInit() (lifecycle.Holds, error) {
	own, err := p.own()
	switch {
	case err != nil || !own.Captures():
		return lifecycle.Less, err
	case p.receipt().Plan != "":
		return lifecycle.Enough, nil
	}
	return lifecycle.Foreign, nil
}

// exemptFootprint covers the rules that an exempt pod may have from meshnetd: those of the mesh that enrols it without its
// containers, and those that were verified there. Any other mesh's were written by another program.
func (p *pass) exemptFootprint() (rules.Footprint, error) {
	var footprints []rules.Footprint
	enrols := p.WithoutContainers(p.o.Case()).Decision.Mesh
	for _, mesh := range p.o.Node.Meshes {
		if mesh.Name() == enrols {
			footprints = append(footprints, mesh.Footprint())
		}
	}
	receipt := p.receipt()
	if receipt.Plan == "" {
		return rules.Union(footprints...), nil
	}
	own, err := p.own()
	if receipt.Names(own.Key()) {
		footprints = append(footprints, parts(own.Footprint)...)
	}
	return rules.Union(footprints...), err
}

// remove takes out the rules that were verified there; where they are not whole, those of every enabled mesh, and no others.
func (p *pass) remove() error {
	own, err := p.own()
	if err != nil {
		return err
	}
	footprint := p.EnabledFootprint()
	if own.Rules() > 0 && slices.ContainsFunc(p.Memory.Receipts.Of(p.o.NetNS), func(r receipts.Receipt) bool { return r.Names(own.Key()) }) {
		footprint = own.Footprint
	}
	p.o.Planned(rules.Plan{Footprint: footprint})
	return p.clear()
}

// clear takes the rules of the plan's footprint out of the namespace; the plan itself is empty. It reads the kernel rule by
// rule: the fingerprint of an empty plan does not say whose rules are gone.
func (p *pass) clear() error {
	if err := p.apply(); err != nil {
		return err
	}
	f, err := p.compare()
	if err == nil && len(f.Differences) > 0 {
		return fmt.Errorf("the rules could not be taken out: %s", p.o.Difference())
	}
	return err
}
