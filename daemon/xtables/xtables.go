// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package xtables is the only place of meshnetd that runs iptables programs.
package xtables

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync/atomic"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Tables writes and reads rules with one variant of iptables, nft or legacy.
type Tables struct {
	isolated *netns.Isolated
	variant  variant
	noIPv6   error // why ip6tables cannot be used; nil where it can
	netlink  bool  // the kernel has nf_tables, where earlier rules may be that this variant does not see
}

// Name returns the variant and its version, such as "iptables-nft 1.8.9".
func (t *Tables) Name(*netns.Namespace, rules.Plan) string {
	return t.variant.name + " " + t.variant.version
}

// Apply makes the namespace hold the plan's rules, whatever earlier plan it holds, in one transaction per
// table, and says whether it had to change anything. Rules of others stay where they are. Both families
// are written at once.
func (t *Tables) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (bool, error) {
	var changed atomic.Bool
	err := t.eachFamily(plan, func(want rules.Ruleset) error {
		have, err := t.save(ctx, ns, want.Family)
		if err != nil {
			return err
		}
		change := rules.Change(have, want, plan.Footprint)
		if change == "" {
			return nil
		}
		changed.Store(true)
		return t.restore(ctx, ns, want.Family, change)
	})
	if err != nil || !t.netlink {
		return changed.Load(), err
	}
	cleared, err := unseen.Apply(ctx, ns, t.without(plan))
	if err == nil && !t.variant.legacy && plan.Rules() > 0 {
		err = ns.Do(func() error {
			old, err := legacy.Clear(plan.Footprint.Has)
			cleared = cleared || old
			return err
		})
	}
	return changed.Load() || cleared, err
}

// unseen reads and clears our rules in nf_tables that the variant does not show: the native table, and for
// iptables-legacy those of iptables-nft.
var unseen = nftables.New(nftables.IPTables)

// without is the plan that unseen applies: none of our rules.
func (t *Tables) without(plan rules.Plan) rules.Plan {
	if t.variant.legacy {
		return rules.Plan{Footprint: plan.Footprint}
	}
	return rules.Plan{} // iptables-nft itself sees its tables
}

// Verify compares what the kernel holds with the plan.
func (t *Tables) Verify(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]rules.Difference, error) {
	var diffs [2][]rules.Difference
	err := t.eachFamily(plan, func(want rules.Ruleset) error {
		have, err := t.save(ctx, ns, want.Family)
		if err != nil {
			return err
		}
		i := 0
		if want.Family == rules.IPv6 {
			i = 1
		}
		diffs[i] = rules.Diff(have, want, plan.Footprint)
		return nil
	})
	if err != nil || !t.netlink {
		return append(diffs[0], diffs[1]...), err
	}
	more, err := unseen.Verify(ctx, ns, t.without(plan))
	if err == nil && !t.variant.legacy && plan.Rules() > 0 {
		err = ns.Do(func() error {
			old, err := nftables.Legacy(plan)
			if err != nil {
				return err
			}
			owned, err := nftables.Owned(plan)
			more = slices.Concat(more, old, owned)
			return err
		})
	}
	return append(append(diffs[0], diffs[1]...), more...), err
}

// Effect compares what becomes of packets by all that the namespace holds with what becomes of them by the plan.
func (t *Tables) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	if t.variant.legacy { // the plan's own rules are there
		plan.Accepted = slices.DeleteFunc(slices.Clone(plan.Accepted), func(table string) bool { return strings.Contains(table, "-legacy ") })
	}
	if !t.netlink {
		return nftables.EffectOfLegacy(ctx, ns, plan, have, interfaces)
	}
	return unseen.Effect(ctx, ns, plan, have, interfaces)
}

// eachFamily calls fn for both rule sets at once, that of IPv6 only where ip6tables works. A plan that
// needs it where it does not work is an error.
func (t *Tables) eachFamily(plan rules.Plan, fn func(rules.Ruleset) error) error {
	sets := plan.Rulesets()
	if t.noIPv6 != nil {
		if !plan.V6.Empty() {
			return fmt.Errorf("the plan has IPv6 rules, but ip6tables cannot be used on this node: %w", t.noIPv6)
		}
		sets = sets[:1]
	}
	errs := make(chan error)
	for _, set := range sets {
		go func() { errs <- recovered.Call(func() error { return fn(set) }) }()
	}
	var all []error
	for range sets {
		all = append(all, <-errs)
	}
	return errors.Join(all...)
}

func (t *Tables) save(ctx context.Context, ns *netns.Namespace, family rules.Family) (rules.Ruleset, error) {
	if err := t.readable(ctx, ns); err != nil {
		return rules.Ruleset{}, err
	}
	out, err := t.run(ctx, ns, t.variant.tool(family, "save"), "")
	if err != nil {
		return rules.Ruleset{}, err
	}
	return rules.ParseSave(family, bytes.NewReader(out))
}

// readable fails where there is too much to read: a program holds all of it in memory, which counts as meshnetd's.
func (t *Tables) readable(ctx context.Context, ns *netns.Namespace) error {
	if t.netlink {
		return nftables.Readable(ctx, ns)
	}
	_, err := legacyFingerprint(ctx, ns)
	return err
}

func (t *Tables) restore(ctx context.Context, ns *netns.Namespace, family rules.Family, input string) error {
	args := []string{"--noflush"}
	if t.variant.legacy {
		args = append(args, "--wait")
	}
	_, err := t.run(ctx, ns, t.variant.tool(family, "restore"), input, args...)
	var failed *exitError
	if errors.As(err, &failed) {
		failed.line = lineOf(input, failed.stderr)
	}
	return err
}

// lineOf finds the input line that iptables-restore complains about, to show it instead of its number.
func lineOf(input, stderr string) string {
	lines := strings.Split(input, "\n")
	for field := range strings.FieldsSeq(stderr) {
		var n int
		if _, err := fmt.Sscanf(strings.Trim(field, ":."), "%d", &n); err == nil && n > 0 && n <= len(lines) {
			return lines[n-1]
		}
	}
	return ""
}
