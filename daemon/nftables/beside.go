// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"
	"cmp"
	"errors"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// How much of what stands beside a plan is looked at one by one: whoever has NET_ADMIN in a pod chooses how many tables there are.
const (
	mostNeighbours = 8
	besideWork     = 200_000 // beyond it, what the others do is not told; they are in the judgement of the whole
)

// neighbour is a table of somebody else's, or one of ours in which somebody else has rules.
type neighbour struct {
	effect.Neighbour
	alone  state             // nothing but this table
	old    []legacy.Contents // the table, where it is of iptables-legacy
	shared string            // the table of the plan's that it is, "" for none
}

// beside tells what each table of somebody else's does, by the plan's rules with that table beside them.
func (s state) beside(plan, have rules.Plan, interfaces []rules.Interface, old []legacy.Contents) ([]effect.Neighbour, error) {
	all, err := s.neighbours(plan)
	if err != nil {
		return nil, err
	}
	var told []effect.Neighbour
	work, native := 0, s.only(object{family: nativeFamily, table: append([]byte(nativeTable), 0)})
	for _, n := range append(all, oldNeighbours(plan, old)...) {
		if len(told) == mostNeighbours {
			break
		}
		n.Answer = effect.CannotTell
		if work < besideWork {
			if err := n.judge(plan, have, interfaces, native); err != nil {
				return nil, err
			}
			work += n.Work
		}
		n.Accepted = slices.Contains(plan.Accepted, n.Table)
		told = append(told, n.Neighbour)
	}
	return told, nil
}

// neighbours returns the tables of nf_tables that decide something, and are not the plan's alone.
func (s state) neighbours(plan rules.Plan) (all []neighbour, err error) {
	for _, t := range s.tables {
		family, known := familyNames[t.family]
		n := neighbour{Neighbour: effect.Neighbour{Table: family + " " + name(t.table)}, alone: s.only(t)}
		n.Rules = len(n.alone.rules)
		decides := n.Rules > 0 || slices.ContainsFunc(n.alone.chains, object.drops)
		if !known || !decides || t.dormant || t.family == nativeFamily && name(t.table) == nativeTable {
			continue
		}
		if t.ofIPTables() {
			ours, err := s.ourRules(t, plan.Footprint)
			switch {
			case err != nil:
				return nil, err
			case ours == n.Rules:
				continue
			case ours > 0:
				n.shared = name(t.table)
			}
		}
		var chains []string
		for _, c := range n.alone.chains {
			chains = append(chains, name(c.chain))
		}
		n.Owner = effect.OwnerOf(name(t.table), chains)
		all = append(all, n)
	}
	return all, nil
}

// familyNames are those of tables that the pod's packets come to; a bridge's, ingress and ARP are not judged.
var familyNames = map[uint8]string{unix.NFPROTO_IPV4: "ip", unix.NFPROTO_IPV6: "ip6", unix.NFPROTO_INET: "inet"}

// only returns what the state holds of a table. It searches, as there may be as many tables as objects.
func (s state) only(t object) state {
	of := func(list []object) []object {
		at := func(beyond int) int {
			i, _ := slices.BinarySearchFunc(list, t, func(o, t object) int {
				return cmp.Or(cmp.Compare(o.family, t.family), bytes.Compare(o.table, t.table), beyond)
			})
			return i
		}
		return list[at(1):at(-1)]
	}
	return state{tables: of(s.tables), chains: of(s.chains), rules: of(s.rules), sets: of(s.sets), elements: of(s.elements)}
}

// ourRules counts the rules of a table of iptables' that are the footprint's.
func (s state) ourRules(t object, footprint rules.Footprint) (n int, err error) {
	have, err := s.decode(t.ip())
	if err != nil {
		return 0, err
	}
	for _, c := range have.Own(footprint).Table(name(t.table)).Chains {
		n += len(c.Rules)
	}
	return n, nil
}

// oldNeighbours returns the tables of iptables-legacy. One with chains of the plan's may be the plan's.
func oldNeighbours(plan rules.Plan, tables []legacy.Contents) (all []neighbour) {
	for _, t := range tables {
		n := neighbour{Neighbour: effect.Neighbour{Table: oldName(t)}, old: []legacy.Contents{t}}
		if n.Rules, n.Owner = t.Rules(), effect.OwnerOf(t.Name, t.Chains()); ofMesh(plan, t) {
			n.shared = t.Name
		}
		all = append(all, n)
	}
	return all
}

// ofMesh reports whether a table of iptables-legacy has chains that are called as the plan's.
func ofMesh(plan rules.Plan, t legacy.Contents) bool {
	return slices.ContainsFunc(t.Chains(), plan.Footprint.Has)
}

// accepted leaves out the tables that the plan accepts.
func (s state) accepted(plan rules.Plan, old []legacy.Contents) (state, []legacy.Contents) {
	if len(plan.Accepted) == 0 {
		return s, old
	}
	s.chains = slices.DeleteFunc(slices.Clone(s.chains), func(c object) bool {
		return slices.Contains(plan.Accepted, familyNames[c.family]+" "+name(c.table))
	})
	return s, acceptedOld(plan, old)
}

func acceptedOld(plan rules.Plan, old []legacy.Contents) []legacy.Contents {
	return slices.DeleteFunc(slices.Clone(old), func(t legacy.Contents) bool { return slices.Contains(plan.Accepted, oldName(t)) })
}

// oldName is the program that lists a table of iptables-legacy, and its name.
func oldName(t legacy.Contents) string { return t.Family.String() + "-legacy " + t.Name }

// judge compares the plan with what comes of its rules beside the table: those of the native table, whose chains are asked at
// other places, or else the plan's.
func (n *neighbour) judge(plan, have rules.Plan, interfaces []rules.Interface, native state) error {
	n.Answer = effect.Equal
	ours := plan
	switch { // the table as it is stands in place of the plan's
	case len(native.rules) > 0:
		ours.V4, ours.V6 = rules.Ruleset{}, rules.Ruleset{}
	case n.shared == "":
	case n.Table == "ip "+n.shared || n.Table == "iptables-legacy "+n.shared:
		ours.V4 = withoutTable(plan.V4, n.shared)
	default:
		ours.V6 = withoutTable(plan.V6, n.shared)
	}
	ours.Routes, ours.Loopback = have.Routes, have.Loopback
	for _, family := range families {
		pod := effect.NewPod(interfaces)
		wanted, held, table := effect.OfPlan(pod, plan, family), effect.OfPlan(pod, ours, family), effect.NewSide(pod, family, nil, nil)
		err := errors.Join(native.addTo(held, pod, family, nil), n.alone.addTo(table, pod, family, n.old))
		n.First = n.First || table.Precedes(held)
		if err = errors.Join(err, n.alone.addTo(held, pod, family, n.old)); err != nil {
			return err
		}
		one := effect.Compare(pod, wanted, held)
		n.Answer, n.Work = max(n.Answer, one.Answer), n.Work+one.Work
		n.Differences = append(n.Differences, one.Differences...)
	}
	return nil
}

func withoutTable(rs rules.Ruleset, table string) rules.Ruleset {
	rs.Tables = slices.DeleteFunc(slices.Clone(rs.Tables), func(t rules.Table) bool { return t.Name == table })
	return rs
}
