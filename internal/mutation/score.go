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
		mutated := s.with(m.Rules)
		if slices.ContainsFunc(worlds, func(w world) bool { return w.tells(mutated, m) }) {
			score.Killed++
			if why := reason(rs, m); why != "" {
				score.Refuted = append(score.Refuted, m.String()+": "+why)
			}
		} else if why := reason(rs, m); why != "" {
			score.Equivalent[why]++
		} else {
			score.Survivors = append(score.Survivors, m.String())
		}
	}
	return score, nil
}

// world is a pod with its interfaces, and what becomes of packets in it.
type world struct {
	interfaces []rules.Interface
	packets    []rules.Packet
	ends       []rules.End
	meets      map[place][]int // which packets meet a rule
}

// worlds returns the pod without and with an address beside the loopback one: what is sent there is sent
// elsewhere, or stays.
func (s subject) worlds() ([]world, map[place]bool, error) {
	var all []world
	met := map[place]bool{}
	plain := generate.Interfaces(s.plan, s.ips)
	beside := rules.Interface{Name: "lo", Addresses: []netip.Addr{netip.MustParseAddr("::3")}}
	for _, interfaces := range [][]rules.Interface{plain, append(slices.Clone(plain), beside)} {
		w := world{interfaces: interfaces, packets: generate.Witnesses(s.rules(), interfaces), meets: map[place][]int{}}
		tracer := effect.NewTracer(s.plan, interfaces)
		for i, p := range w.packets {
			path, err := tracer.Trace(p)
			if err != nil {
				return nil, nil, fmt.Errorf("%s: %w", s.name, err)
			}
			w.ends = append(w.ends, path.End)
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

// tells reports whether any packet ends elsewhere; those that meet the changed rule are the likeliest.
func (w world) tells(mutated rules.Plan, m Mutant) bool {
	tracer := effect.NewTracer(mutated, w.interfaces)
	differs := func(i int) bool {
		end, err := tracer.End(w.packets[i])
		return err != nil || end != w.ends[i]
	}
	if slices.ContainsFunc(w.meets[place{m.Table, m.Chain, m.Index}], differs) {
		return true
	}
	for i := range w.packets {
		if differs(i) {
			return true
		}
	}
	return false
}

type place struct {
	table, chain string
	index        int
}
