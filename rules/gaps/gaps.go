// SPDX-License-Identifier: Apache-2.0

// Package gaps finds out what of a pod's traffic its plan does not give to the proxy. Packets that meet each rule are sent
// through the plan; those that no rule takes or stops are grouped by the reason of the rule that let them go.
package gaps

import (
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Of returns what goes around the proxy by this plan, in a pod with these interfaces: of connections that begin when the rules
// are there, on sockets without a mark, and last of those that were there before.
func Of(plan rules.Plan, interfaces []rules.Interface, proxy rules.Proxy) []rules.Gap {
	f := finder{scene: newScene(plan, interfaces, proxy), found: map[key]*group{}, taken: map[key]bool{}}
	f.tracer = effect.NewTracer(plan, f.interfaces)
	bases := map[rules.Family][]rules.Packet{}
	for _, rs := range plan.Rulesets() {
		if len(rs.Tables) > 0 {
			bases[rs.Family] = f.bases(rs.Family)
		}
		for _, p := range bases[rs.Family] {
			f.send(p)
		}
	}
	deciding := map[rules.Family][]placed{}
	for _, rs := range plan.Rulesets() {
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					if decides(table.Name, r) {
						deciding[rs.Family] = append(deciding[rs.Family], placed{table.Name, r})
					} else {
						f.takes(bases[rs.Family], r)
					}
				}
			}
		}
	}
	for _, family := range []rules.Family{rules.IPv4, rules.IPv6} {
		rules := deciding[family]
		for _, r := range rules {
			f.lets(bases[family], r.Rule, r.Match)
		}
		for _, r := range rules { // what meets it may have to pass another table, too
			for _, other := range rules {
				if other.table != r.table && f.unknown(r.Why) {
					f.lets(bases[family], r.Rule, slices.Concat(r.Match, other.Match))
				}
			}
		}
	}
	return f.gaps(deciding)
}

// placed is a rule and its table.
type placed struct {
	table string
	rules.Rule
}

// key is what packets of one gap have in common: their direction and the reason of the rule that let them go. Where no rule
// did, it is their way and protocol, and for UDP that alone.
type key struct {
	why, way, protocol string
}

// group is what was found of a gap.
type group struct {
	key
	packet   rules.Packet // that shows it
	families map[rules.Family]bool
}

type finder struct {
	*scene
	tracer *effect.Tracer
	order  []*group
	found  map[key]*group
	taken  map[key]bool // ways and protocols of which a rule takes something

	asked            rules.Packet // the last one that a gap was asked to cover, and what came of it
	answer           key
	answered, around bool
}

// send notes what becomes of a packet.
func (f *finder) send(p rules.Packet) {
	k, around := f.classify(p)
	if !around {
		f.taken[key{way: f.way(p), protocol: p.Protocol}] = true
		return
	}
	g := f.found[k]
	if g == nil {
		g = &group{key: k, packet: p, families: map[rules.Family]bool{}}
		f.found[k], f.order = g, append(f.order, g)
	}
	g.families[p.Family()] = true
}

// classify returns the gap that a packet is part of, and false where a rule takes or stops it.
func (f *finder) classify(p rules.Packet) (k key, around bool) {
	path, err := f.tracer.Trace(p)
	if err != nil || path.End.Kind != rules.Delivered && path.End.Kind != rules.Leaves {
		return key{}, false
	}
	for _, s := range slices.Backward(path.Steps) {
		if decides(s.Table, s.Rule) {
			return key{why: s.Rule.Why, way: direction(p)}, true
		}
	}
	if p.Protocol == rules.UDP {
		return key{protocol: rules.UDP}, true
	}
	return key{way: f.way(p), protocol: p.Protocol}, true
}

// decides reports whether a rule can be why a packet goes around the proxy. What raw decides is how connections are told apart.
func decides(table string, r rules.Rule) bool {
	switch r.Target.(type) {
	case rules.Verdict, rules.DNAT:
		return table != "" && table != "raw"
	}
	return false
}

// takes sends packets that meet a rule that may give them to the proxy, unless what they would show is known.
func (f *finder) takes(bases []rules.Packet, r rules.Rule) {
	for _, base := range bases {
		for _, p := range f.meeting(base, r.Match) {
			if !f.taken[key{way: f.way(p), protocol: p.Protocol}] {
				f.send(p)
			}
		}
	}
}

// lets sends packets that meet a rule's conditions, and perhaps others, until it is shown to let one go.
func (f *finder) lets(bases []rules.Packet, r rules.Rule, conditions []rules.Match) {
	for _, base := range bases {
		for _, p := range f.meeting(base, conditions) {
			if f.found[key{why: r.Why, way: direction(p)}] == nil {
				f.send(p)
			}
		}
	}
}

// unknown reports whether nothing goes around for a reason, as far as was found.
func (f *finder) unknown(why string) bool {
	return f.found[key{why: why, way: sent}] == nil && f.found[key{why: why, way: arriving}] == nil
}

// covers reports whether a packet is part of a gap.
func (f *finder) covers(g *group) func(rules.Packet) bool {
	return func(p rules.Packet) bool {
		if !begins(p) || !f.ruled(p.Family()) {
			return false
		}
		if p != f.asked || !f.answered {
			f.answer, f.around = f.classify(p)
			f.asked, f.answered = p, true
		}
		return f.around && f.answer == g.key
	}
}

// begins reports whether a packet begins a connection, on a socket without a mark.
func begins(p rules.Packet) bool { return (p.State == 0 || p.State == rules.StateNew) && p.Mark == 0 }
