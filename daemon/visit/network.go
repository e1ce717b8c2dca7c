// SPDX-License-Identifier: Apache-2.0

//go:build linux

package visit

import (
	"slices"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/rules"
)

// plan builds the plan for the namespace as it is now.
func (p *pass) plan() (err error) {
	if p.o.Decision.Action != rules.Enrol {
		p.o.Planned(rules.Plan{Footprint: p.EnabledFootprint()})
		return nil
	}
	if p.o.Network, err = p.network(); err != nil {
		return err
	}
	plan, err := p.o.Decision.Planner(p.o.Network)
	p.o.Planned(plan)
	return err
}

// network reads the namespace, and adds what the runtime or a manifest says: neither knows all of a pod's addresses.
func (p *pass) network() (rules.Network, error) { return network(p.in, p.o.Pod) }

func network(in kernel.Inside, pod rules.Pod) (rules.Network, error) {
	n, err := in.Routes.Network()
	for _, ip := range pod.IPs {
		if !slices.Contains(n.Addresses, ip.Unmap()) {
			n.Addresses = append(n.Addresses, ip.Unmap())
		}
	}
	return n, err
}

// readdress makes the plan again where the pod's addresses changed, as a router's advertisement or somebody in the pod may
// do at any time. It never takes rules away or changes them into others, since what the proxy speaks was settled when it
// started. Rules of another version that were found whole stay as they are.
func (p *pass) readdress() (moved bool, err error) {
	o, known := p.o, p.known
	now, err := p.network()
	if o.Network = now; err != nil || now.Equal(known.Network) {
		return false, err
	}
	plan := known.Plan.WithIPv6Around(now)
	if !known.Earlier {
		plan, err = known.Decision.Planner(now)
	}
	if err != nil || !known.Plan.V6.Empty() && !plan.V6.Equal(known.Plan.V6) {
		return false, nil // without an address that others can reach, it keeps the rules it had
	}
	o.Planned(plan)
	return o.Key != known.Key || plan.WithoutIPv6 != known.Plan.WithoutIPv6, nil
}
