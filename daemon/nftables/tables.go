// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package nftables is the only place of meshnetd that speaks nf_tables netlink. It writes a plan in one
// transaction for both families, reads it back, and runs no program. There are two dialects: one that
// iptables-nft reads, and one of the kernel's own that needs no module of xtables.
package nftables

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netlink"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// The dialects.
const (
	IPTables = Dialect("iptables") // tables nat, mangle, raw and filter, as iptables-nft writes them
	Native   = Dialect("nftables") // one table inet meshnetd
)

// Dialect says how a plan is written. What the other dialect wrote is taken out in the same transaction.
type Dialect string

// Tables writes and reads rules in one dialect.
type Tables struct {
	dialect Dialect
	added   *additions // nil is none
}

// New returns the Tables of a dialect. Learn makes them for kernels that are newer than meshnetd.
func New(d Dialect) Tables { return Tables{dialect: d} }

// Name returns the dialect.
func (t Tables) Name(*netns.Namespace, rules.Plan) string { return string(t.dialect) }

// wanted is a plan in a dialect.
type wanted struct {
	sets      []rules.Ruleset // IPv4, IPv6
	native    native
	footprint rules.Footprint
	added     *additions
}

func (t Tables) wanted(plan rules.Plan) (wanted, error) {
	w := wanted{sets: plan.Rulesets(), footprint: plan.Footprint, added: t.added}
	if t.dialect == Native {
		w.sets = rules.Plan{}.Rulesets()
		var err error
		if w.native, err = compile(plan); err != nil {
			return w, fmt.Errorf("rules for nf_tables: %w", err)
		}
	}
	return w, nil
}

// Apply makes the namespace hold the plan's rules, whatever earlier plan it holds, in one transaction, and
// says whether it had to change anything. Rules of others stay where they are; those of the plan's mesh in tables of
// iptables-legacy, as its init container or another backend wrote them, are taken out where nobody else has any there. Where somebody else writes at
// the same time, it begins again.
func (t Tables) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (changed bool, err error) {
	want, err := t.wanted(plan)
	if err != nil {
		return false, err
	}
	err = ns.Within(ctx, "write rules", func() error {
		c, err := dialNetfilter()
		if err != nil {
			return err
		}
		defer c.close()
		changed, err = netlink.Settled(func() (bool, error) {
			c.forget()
			return want.apply(c)
		})
		if err != nil || plan.Rules() == 0 {
			return err
		}
		cleared, err := legacy.Clear(plan.Footprint.Has) // now that its own rules stand
		changed = changed || cleared
		return err
	})
	return changed && err == nil, err
}

func (w wanted) apply(c *netfilter) (changed bool, err error) {
	s, err := read(w.added.of(c))
	if err != nil {
		return false, err
	}
	b, err := w.changes(s)
	defer b.release()
	if err != nil || b.changes() == 0 {
		return false, err
	}
	return true, c.transact(b)
}

// changes returns what makes a state hold the plan's rules. The caller releases it.
func (w wanted) changes(s state) (*batch, error) {
	b := newBatch(s.generation)
	b.owned = slices.ContainsFunc(s.tables, func(t object) bool { return t.owned })
	b.expect(64) // of an ordinary pod
	for _, set := range w.sets {
		have, err := s.decode(set.Family)
		if err != nil {
			return b, err
		}
		if err := appendEdits(b, s, have, rules.Edits(have.Ruleset, set, w.footprint)); err != nil {
			return b, err
		}
	}
	if len(w.native.differences(s)) == 0 {
		return b, nil
	}
	return b, w.native.replace(b, s)
}

// Verify compares what the kernel holds with the plan. A table of iptables-legacy that could take packets
// away from the rules is a difference too.
func (t Tables) Verify(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (diffs []rules.Difference, err error) {
	want, err := t.wanted(plan)
	if err != nil {
		return nil, err
	}
	err = ns.Within(ctx, "read the rules", func() error {
		err := t.added.look(func(s state, _ []byte) (err error) {
			diffs, err = want.differences(s)
			return err
		})
		if err != nil || plan.Rules() == 0 || t.dialect == Native { // whose table is asked before any of iptables-legacy
			return err
		}
		old, err := Legacy(plan)
		diffs = append(diffs, old...)
		return err
	})
	return diffs, err
}

func (w wanted) differences(s state) ([]rules.Difference, error) {
	var diffs []rules.Difference
	for _, set := range w.sets {
		have, err := s.decode(set.Family)
		if err != nil {
			return nil, err
		}
		diffs = append(diffs, rules.Diff(have.Ruleset, set, w.footprint)...)
		for _, d := range have.strange {
			if len(set.Table(d.Table).Chains) > 0 {
				diffs = append(diffs, d)
			}
		}
	}
	return slices.Concat(diffs, s.ownedOf(w.sets), w.native.differences(s)), nil
}

// Own reads the rules of the footprint that the namespace holds, those of another plan too.
func (t Tables) Own(ctx context.Context, ns *netns.Namespace, footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	v4.Family, v6.Family = rules.IPv4, rules.IPv6
	err = ns.Within(ctx, "read the rules", func() error {
		return t.added.look(func(s state, _ []byte) (err error) {
			v4, v6, err = s.own(footprint)
			return err
		})
	})
	return v4, v6, err
}

func (s state) own(footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	have4, err4 := s.decode(rules.IPv4)
	have6, err6 := s.decode(rules.IPv6)
	if err := errors.Join(err4, err6); err != nil {
		return v4, v6, err
	}
	v4, v6 = have4.Own(footprint), have6.Own(footprint)
	if v4.Empty() && v6.Empty() {
		return s.nativePlan()
	}
	return v4, v6, nil
}
