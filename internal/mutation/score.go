// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"slices"

	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Score counts what became of the mutants of one plan and family.
type Score struct {
	Rules      int
	Dead       int      // rules that no packet can meet
	Unmet      []string // rules that no packet meets although one could
	Packets    int
	Mutants    int
	Killed     int
	Equivalent map[string]int // by reason
	Survivors  []string       // neither
	Refuted    []string       // killed, although a reason says that they cannot be
}

// Measure sends packets through a plan of one family and through all of its mutants.
func Measure(s subject) (Score, error) {
	rs := s.rules()
	worlds, meets, err := s.worlds()
	if err != nil {
		return Score{}, err
	}
	score := Score{Equivalent: map[string]int{}}
	for _, w := range worlds {
		score.Packets += len(w.packets)
	}
	for _, table := range rs.Tables {
		for _, c := range table.Chains {
			for i, r := range c.Rules {
				score.Rules++
				at := place{table.Name, c.Name, i}
				if meets[at] {
					continue
				}
				switch prove(rs, Mutant{Table: table.Name, Chain: c.Name, Index: i, Rule: r, What: deleted}) {
				case whyTaken, whyUnreachable:
					score.Dead++
				default:
					score.Unmet = append(score.Unmet, fmt.Sprintf("%s %s %d: %s", at.table, at.chain, i+1, r))
				}
			}
		}
	}
	for _, m := range Mutants(rs) {
		score.Mutants++
		why := reason(rs, m)
		switch {
		case slices.ContainsFunc(worlds, func(w world) bool { return w.tells(m) }):
			if score.Killed++; why != "" {
				score.Refuted = append(score.Refuted, m.String()+": "+why)
			}
		case why != "":
			score.Equivalent[why]++
		default:
			score.Survivors = append(score.Survivors, m.String())
		}
	}
	return score, nil
}

// world is a pod with its interfaces, and what becomes of packets in it.
type world struct {
	subject
	locked     bool
	interfaces []rules.Interface
	packets    []rules.Packet
	fates      []fate
	meets      map[place][]int // which packets meet a rule
}

// fate is what becomes of a packet, and which counters of lockdowns have it.
type fate struct {
	end     rules.End
	counted string
}

// worlds returns the pod without and with an address beside the loopback one: what is sent there is sent
// elsewhere, or stays.
func (s subject) worlds() ([]world, map[place]bool, error) {
	var all []world
	met := map[place]bool{}
	plain := generate.Interfaces(s.plan, s.ips)
	beside := rules.Interface{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr("::3")}}
	packets := generate.Witnesses(s.rules(), plain)
	for _, interfaces := range [][]rules.Interface{plain, append(slices.Clone(plain), beside)} {
		w := world{subject: s, locked: s.plan.LocksDown(), interfaces: interfaces, packets: packets, meets: map[place][]int{}}
		tracer := effect.NewTracer(s.plan, interfaces)
		for i, p := range w.packets {
			path, err := tracer.Trace(p)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", s.name, err)
			}
			w.fates = append(w.fates, fateOf(path))
			for _, step := range path.Steps {
				if step.Table != "" {
					at := place{step.Table, step.Chain, step.Index - 1}
					w.meets[at], met[at] = append(w.meets[at], i), true
				}
			}
		}
		all = append(all, w)
		if s.family == rules.IPv4 { // all of 127.0.0.0/8 stays anyway
			break
		}
	}
	return all, met, nil
}

func fateOf(path rules.Path) fate {
	f := fate{end: path.End}
	for _, step := range path.Steps {
		if counter := step.Rule.Counter(step.Chain); counter != "" {
			f.counted += counter + " "
		}
	}
	return f
}

// fate traces a packet, with its steps only where these tell more than its end.
func (w world) fate(by *effect.Tracer, p rules.Packet) (fate, error) {
	if !w.locked {
		end, err := by.End(p)
		return fate{end: end}, err
	}
	path, err := by.Trace(p)
	return fateOf(path), err
}

// tells reports whether any packet has another fate; those that meet the changed rule are the likeliest. The rules of a lockdown
// ask for more at a time than the packets here just miss: of these, package effect finds others.
func (w world) tells(m Mutant) bool {
	mutated := w.with(m.Rules)
	tracer := effect.NewTracer(mutated, w.interfaces)
	differs := func(i int) bool {
		f, err := w.fate(tracer, w.packets[i])
		return err != nil || f != w.fates[i]
	}
	if slices.ContainsFunc(w.meets[place{m.Table, m.Chain, m.Index}], differs) {
		return true
	}
	if w.locked {
		return w.finds(w.plan, mutated) || w.finds(w.with(stopping(w.rules())), w.with(stopping(m.Rules)))
	}
	for i := range w.packets {
		if differs(i) {
			return true
		}
	}
	return false
}

// finds reports whether a packet has another fate of those that tell two plans from each other by what they do.
func (w world) finds(plan, mutated rules.Plan) bool {
	pod := effect.NewPod(w.interfaces)
	r := effect.Compare(pod, effect.OfPlan(pod, plan, w.family), effect.OfPlan(pod, mutated, w.family))
	before, after := effect.NewTracer(plan, w.interfaces), effect.NewTracer(mutated, w.interfaces)
	return slices.ContainsFunc(r.Differences, func(d effect.Difference) bool {
		was, err := w.fate(before, d.Witness)
		now, changes := w.fate(after, d.Witness)
		return err == nil && (changes != nil || was != now)
	})
}

// stopping returns the rules with an end for what a lockdown only counts: package effect looks at no counter.
func stopping(rs rules.Ruleset) rules.Ruleset {
	for t, table := range rs.Tables {
		for c, chain := range table.Chains {
			now := slices.Clone(chain.Rules)
			for i, r := range now {
				if _, counts := r.Target.(rules.SetConnMark); counts && r.Counter(chain.Name) != "" {
					now[i].Target = rules.Drop
				}
			}
			rs = with(rs, t, c, now)
		}
	}
	return rs
}

type place struct {
	table, chain string
	index        int
}
