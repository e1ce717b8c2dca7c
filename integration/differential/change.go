// SPDX-License-Identifier: Apache-2.0

//go:build linux

package differential

import (
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// change is a plan in which one rule is gone, or asks for one thing less.
type change struct {
	family       rules.Family
	table, chain string
	index        int // of the rule, from 0
	condition    int // which is left out; -1: the whole rule is
	rule         rules.Rule
	plan         rules.Plan
}

func (c change) String() string {
	text := fmt.Sprintf("%s %s %s %d: %s: ", c.family, c.table, c.chain, c.index+1, c.rule)
	if c.condition < 0 {
		return text + "left out"
	}
	return text + fmt.Sprintf("condition %d, %T, left out", c.condition+1, c.rule.Match[c.condition])
}

// changesOf returns all changes of a plan. Of a rule about ports, the protocol is not left out.
func changesOf(plan rules.Plan) []change {
	var all []change
	for f, rs := range plan.Rulesets() {
		for t, table := range rs.Tables {
			for c, chain := range table.Chains {
				for i, r := range chain.Rules {
					add := func(condition int, now []rules.Rule) {
						changed := plan
						*[]*rules.Ruleset{&changed.V4, &changed.V6}[f] = with(rs, t, c, now)
						all = append(all, change{rs.Family, table.Name, chain.Name, i, condition, r, changed})
					}
					add(-1, slices.Delete(slices.Clone(chain.Rules), i, i+1))
					for n, m := range r.Match {
						if m.Field == rules.FieldProtocol && needsProtocol(r) {
							continue
						}
						now := slices.Clone(chain.Rules)
						now[i].Match = slices.Delete(slices.Clone(r.Match), n, n+1)
						add(n, now)
					}
				}
			}
		}
	}
	return all
}

// recognized reports whether all rules of a plan are known as ours where they stand: others would be left there.
func recognized(plan rules.Plan) bool {
	own := plan
	own.V4, own.V6 = plan.V4.Own(plan.Footprint), plan.V6.Own(plan.Footprint)
	return own.Key() == plan.Key()
}

// needsProtocol reports whether the kernel refuses a rule that names no protocol.
func needsProtocol(r rules.Rule) bool {
	switch r.Target.(type) {
	case rules.Redirect, rules.TProxy, rules.RejectWith:
		return true
	}
	return slices.ContainsFunc(r.Match, func(m rules.Match) bool { return len(m.Ports()) > 0 })
}

// with returns a rule set with other rules in one chain.
func with(rs rules.Ruleset, table, chain int, changed []rules.Rule) rules.Ruleset {
	rs.Tables = slices.Clone(rs.Tables)
	rs.Tables[table].Chains = slices.Clone(rs.Tables[table].Chains)
	rs.Tables[table].Chains[chain].Rules = changed
	return rs
}

// telling is a change with a packet that ends elsewhere by it, so that the packet tells whether the rule is
// there as it should be.
type telling struct {
	change
	packet rules.Packet
}

// subject is a plan and what tells its changes.
type subject struct {
	name    string
	plan    rules.Plan
	told    []telling // by a packet that can be sent
	untold  []change  // only by packets that cannot be, with the reason of one
	reasons []string
	same    []change // by no packet: nothing is lost with what they leave out
}

// packets returns those that tell the changes, each once.
func (s subject) packets() []rules.Packet {
	var all []rules.Packet
	for _, t := range s.told {
		if !slices.Contains(all, t.packet) {
			all = append(all, t.packet)
		}
	}
	return all
}

// tell finds for each change of a plan a packet that tells it.
func (w *world) tell(name string, plan rules.Plan, packets []rules.Packet) (subject, error) {
	result := subject{name: name, plan: plan}
	var shots []*shot
	tracer := effect.NewTracer(plan, w.interfaces)
	for _, p := range packets {
		s := &shot{packet: w.fit(p)}
		s.way, s.cannot = w.wayOf(plan, s.packet)
		var err error
		if s.path, err = tracer.Trace(s.packet); err != nil {
			return result, err
		}
		s.want = wanted(s.path.End, s.way)
		if s.way == byData && s.cannot == "" && zoned(s.path) {
			s.cannot = alreadyZoned
		}
		shots = append(shots, s)
	}
	slices.SortStableFunc(shots, func(a, b *shot) int { return a.rarity() - b.rarity() })
	for _, c := range changesOf(plan) {
		changed := effect.NewTracer(c.plan, w.interfaces)
		i := slices.IndexFunc(shots, func(s *shot) bool { return tells(s, &c, changed) })
		switch {
		case i < 0:
			result.same = append(result.same, c)
		case shots[i].cannot != "":
			result.untold, result.reasons = append(result.untold, c), append(result.reasons, shots[i].cannot)
		default:
			result.told = append(result.told, telling{c, shots[i].packet})
		}
	}
	return result, nil
}

// rarity puts first what is sent as it ever is, and last what cannot be sent.
func (s *shot) rarity() int {
	if s.cannot != "" {
		return 100
	}
	return int(s.way)
}

// tells reports whether a packet ends elsewhere by a change.
func tells(s *shot, c *change, changed *effect.Tracer) bool {
	if s.packet.Family() != c.family || c.condition < 0 && !generate.Meets(s.path, c.table, c.chain, c.index+1) || !reaches(s.path, c) {
		return false
	}
	end, err := changed.End(s.packet)
	return err == nil && wanted(end, s.way) != s.want
}

// reaches reports whether a packet may have come to a rule: it is cheaper to ask than what becomes of a change.
func reaches(path rules.Path, c *change) bool {
	came := slices.Contains([]string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"}, c.chain)
	for i := range path.Steps {
		step := &path.Steps[i]
		if step.Table != c.table {
			continue
		}
		came = came || step.Rule.Target == rules.Jump(c.chain)
		if step.Chain == c.chain && step.Index <= c.index && step.Rule.Target == rules.Return {
			return false
		}
	}
	return came
}
