// SPDX-License-Identifier: Apache-2.0

// Package gaps finds out what of a pod's traffic its plan does not give to the proxy: all first packets of connections are
// walked through the plan, and those that no rule takes or stops are grouped by the reason of the rule that let them go.
package gaps

import (
	"cmp"
	"slices"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Of returns what goes around the proxy by this plan, in a pod with these interfaces: of connections that begin when the rules
// are there, on sockets without a mark, and last of those that were there before.
func Of(plan rules.Plan, interfaces []rules.Interface, proxy rules.Proxy) []rules.Gap {
	f := finder{scene: newScene(plan, interfaces, proxy), found: map[key]*group{}, taken: map[key]bool{}, reasons: map[string]*reason{}}
	f.tracer = effect.NewTracer(plan, f.present())
	for i, rs := range plan.Rulesets() {
		for r := range rs.All() {
			f.decides(r.Table, r.Rule)
		}
		if len(rs.Tables) > 0 {
			f.find(i, rs.Family)
		}
	}
	return f.gaps()
}

// key is what packets of one gap have in common: their direction and the reason of the rule that let them go. Where no rule
// did, it is their way and protocol, and for UDP that alone.
type key struct {
	why, way, protocol string
}

// group is what was found of a gap.
type group struct {
	key
	packet   rules.Packet // that shows it: the most usual one
	rank     rank         // of that
	families map[rules.Family]bool
}

// rank orders packets: of IPv4 before others, then by in how many fields they differ from usual ones, and from which.
type rank struct{ family, changed, from int }

func (r rank) compare(other rank) int {
	return cmp.Or(r.family-other.family, r.changed-other.changed, r.from-other.from)
}

// reason is why rules let packets go.
type reason struct {
	step  rules.Step // of the first; its index is that of the reason
	rules []rules.Rule
}

type finder struct {
	*scene
	tracer  *effect.Tracer
	found   map[key]*group
	taken   map[key]bool // ways and protocols of which a rule takes something
	reasons map[string]*reason
	beyond  bool // there are too many rules to follow all packets through them

	asked            rules.Packet // the last one that a gap was asked to cover, and what came of it
	answer           key
	answered, around bool
}

// decides notes why a rule lets packets go, if it can.
func (f *finder) decides(table string, r rules.Rule) {
	if !decides(table, r) {
		return
	}
	why := f.reasons[r.Why]
	if why == nil {
		why = &reason{step: rules.Step{Index: len(f.reasons), Rule: r}}
		f.reasons[r.Why] = why
	}
	why.rules = append(why.rules, r)
}

// find adds what goes around by the rules of one family.
func (f *finder) find(turn int, family rules.Family) {
	parts, ok := f.tracer.Parts(family, f.bases(family), func(s *rules.Step) *rules.Step {
		if !decides(s.Table, s.Rule) {
			return nil
		}
		return &f.reasons[s.Rule.Why].step
	})
	f.beyond = f.beyond || !ok
	for _, part := range parts {
		for _, protocol := range []string{rules.TCP, rules.UDP} {
			if !part.Of(protocol) {
				continue
			}
			near, changed, from, usual := part.Nearest(protocol)
			k := key{way: f.way(near), protocol: protocol}
			switch {
			case !usual:
				continue
			case part.End != rules.Delivered && part.End != rules.Leaves:
				f.taken[k] = true
				continue
			case part.By != nil:
				k = key{why: part.By.Rule.Why, way: direction(near)}
			case protocol == rules.UDP:
				k = key{protocol: rules.UDP}
			}
			g, at := f.found[k], rank{turn, changed, from}
			if g == nil {
				g = &group{key: k, packet: near, rank: at, families: map[rules.Family]bool{}}
				f.found[k] = g
			} else if at.compare(g.rank) < 0 {
				g.packet, g.rank = near, at
			}
			g.families[family] = true
		}
	}
}

// order compares gaps: those that no rule is for come first, then those of usual packets, and then in the order of the rules.
func (f *finder) order(a, b *group) int {
	place := func(g *group) int {
		if g.why == "" || g.rank.changed == 0 {
			return -1
		}
		return f.reasons[g.why].step.Index
	}
	return cmp.Or(len(b.protocol)-len(a.protocol), place(a)-place(b), a.rank.compare(b.rank))
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
