// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// failure is a packet of which the tracer and the kernel say different things.
type failure struct {
	setting *generate.Setting // that the plan was made for; nil where that is not known any more
	plan    rules.Plan
	packet  rules.Packet
	shot    *shot
}

// shrink leaves out of the pod, of the plan and of the packet what the failure does not need. It takes a minute
// at most, and afterwards the gallery is of no more use: what it waits for need not be certain to come.
func (g *gallery) shrink(ctx context.Context, f failure) failure {
	ctx, stop := context.WithTimeout(ctx, time.Minute)
	defer stop()
	g.wait = 500
	f, ok := g.again(ctx, f)
	if !ok {
		return f // only among others: there is nothing to leave out
	}
	for smaller := true; smaller && ctx.Err() == nil; {
		smaller = false
		for _, try := range slices.Concat(f.plainerSettings(), f.smallerPlans(), f.plainerPackets()) {
			if next, ok := g.again(ctx, try); ok {
				f, smaller = next, true
				break
			}
		}
	}
	return f
}

// again sends the packet alone, and reports whether it still fails.
func (g *gallery) again(ctx context.Context, f failure) (failure, bool) {
	shots, err := g.fire(ctx, f.plan, f.plan, []rules.Packet{f.packet})
	if err != nil || shots[0].cannot != "" || shots[0].got == shots[0].want {
		return f, false
	}
	f.shot = shots[0]
	return f, true
}

// plainerSettings returns the failure for pods that say less, or that say the usual.
func (f failure) plainerSettings() []failure {
	if f.setting == nil {
		return nil
	}
	var all []failure
	add := func(change func(*generate.Setting)) {
		s := *f.setting
		s.Pod.Annotations = maps.Clone(s.Pod.Annotations)
		change(&s)
		if s.Settle() == nil && s.Plan.Key() != f.plan.Key() {
			all = append(all, failure{setting: &s, plan: s.Plan, packet: f.packet})
		}
	}
	for key := range f.setting.Pod.Annotations {
		add(func(s *generate.Setting) { delete(s.Pod.Annotations, key) })
	}
	usual := istio.Standard()
	for _, change := range []func(*istio.Defaults){
		func(d *istio.Defaults) { d.DNSCapture = usual.DNSCapture },
		func(d *istio.Defaults) { d.InvalidDrop = usual.InvalidDrop },
		func(d *istio.Defaults) { d.DualStack = usual.DualStack },
		func(d *istio.Defaults) { d.OwnerGroups = usual.OwnerGroups },
		func(d *istio.Defaults) { d.OwnerGroupsExclude = usual.OwnerGroupsExclude },
		func(d *istio.Defaults) { d.Loopback = usual.Loopback },
	} {
		add(func(s *generate.Setting) { change(&s.Defaults) })
	}
	return all
}

// smallerPlans returns the failure for plans without one family, without one rule or without what goes with
// them. They are no pod's any more.
func (f failure) smallerPlans() []failure {
	var all []failure
	add := func(change func(*rules.Plan)) {
		plan := f.plan
		change(&plan)
		all = append(all, failure{plan: plan, packet: f.packet})
	}
	if !f.plan.V4.Empty() {
		add(func(p *rules.Plan) { p.V4 = rules.Ruleset{} })
	}
	if !f.plan.V6.Empty() {
		add(func(p *rules.Plan) { p.V6 = rules.Ruleset{} })
	}
	if len(f.plan.Routes) > 0 {
		add(func(p *rules.Plan) { p.Routes = nil })
	}
	if len(f.plan.Loopback) > 0 {
		add(func(p *rules.Plan) { p.Loopback = nil })
	}
	for _, c := range changesOf(f.plan) {
		if c.condition < 0 && recognized(c.plan) {
			all = append(all, failure{plan: c.plan, packet: f.packet})
		}
	}
	return all
}

// plainerPackets returns the failure for packets with less about them.
func (f failure) plainerPackets() []failure {
	var all []failure
	add := func(change func(*rules.Packet)) {
		p := f.packet
		change(&p)
		if p != f.packet {
			all = append(all, failure{f.setting, f.plan, p, nil})
		}
	}
	add(func(p *rules.Packet) { p.Mark = 0 })
	add(func(p *rules.Packet) { p.ConnMark = 0 })
	add(func(p *rules.Packet) { p.Transparent = false })
	if f.packet.Socket {
		add(func(p *rules.Packet) { p.UID = 0 })
		add(func(p *rules.Packet) { p.GID = 0 })
	}
	return all
}

// String tells everything about a failure.
func (f failure) String() string {
	var out strings.Builder
	if f.setting != nil {
		fmt.Fprintf(&out, "pod %v %v\ndefaults %+v\n", f.setting.Pod.IPs, f.setting.Pod.Annotations, f.setting.Defaults)
	}
	for _, rs := range f.plan.Rulesets() {
		if !rs.Empty() {
			fmt.Fprintf(&out, "# %s\n%s", rs.Family, rs)
		}
	}
	fmt.Fprintf(&out, "routes %v, on lo %v\nthe tracer: %s", f.plan.Routes, f.plan.Loopback, f.shot.path)
	fmt.Fprintf(&out, "wanted: %s\nkernel: %s\n", f.shot.want, f.shot.got)
	for _, seen := range f.shot.seen {
		fmt.Fprintf(&out, "  seen: %s\n", seen)
	}
	return out.String()
}
