// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package backend finds out what can write rules on this node, by trying, and chooses it for each namespace.
package backend

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// What can be asked for.
const (
	Auto     = "auto"          // the first of the following that proves itself
	IPTables = "iptables"      // netlink; rules as iptables-nft writes them
	Exec     = "iptables-exec" // the node's iptables programs, nft before legacy
	NFTables = "nftables"      // netlink; one table of nf_tables' own kind
)

// inOrder is the order in which Auto tries.
var inOrder = []string{IPTables, Exec, NFTables}

// Backend writes and reads rules with what it was chosen to. Two kinds of namespaces get NFTables: those that belong to a user
// namespace of the pod, since the kernel refuses iptables' owner match there; and those in which tables of iptables-legacy, as
// docker's in a pod, could be asked before iptables' own, which nothing shows.
type Backend struct {
	Trials []Trial // what was tried, in the order in which it was

	widest         rules.Plan
	chosen, native *proven // native is nil where it does not work
	nativeProblem  error
}

// Trial is what came of trying one.
type Trial struct {
	Backend string
	Err     error // nil where it works
}

// proven is a firewall that showed that it can write every rule there is.
type proven struct {
	kernel.Firewall
	name   string
	noIPv6 error // why it cannot write IPv6 rules; nil where it can
}

// Want is what is asked of a backend.
type Want struct {
	Name string     // one of the above, or a variant of iptables
	All  bool       // all are tried, and not only the first that works
	Plan rules.Plan // it has to write and read back: what Node.Widest returns
}

// Find tries the wanted backends in new network namespaces, never in the host's. It fails where none works. Programs run on
// the isolated thread, which the caller closes.
func Find(ctx context.Context, want Want, isolated *netns.Isolated) (*Backend, error) {
	b := &Backend{widest: want.Plan}
	candidates := inOrder
	if want.Name != Auto {
		candidates = []string{want.Name}
	}
	var problems []error
	for i, name := range candidates {
		if b.chosen != nil && !want.All && name != NFTables {
			continue
		}
		p, err := b.try(ctx, len(candidates)+1-i, name, isolated)
		if err != nil {
			problems = append(problems, fmt.Errorf("%s: %w", name, err))
		} else if b.chosen == nil {
			b.chosen = p
		}
	}
	if b.native == nil && b.nativeProblem == nil { // always needed, for pods with a user namespace of their own
		_, _ = b.try(ctx, 1, NFTables, isolated)
	}
	if b.chosen == nil {
		return nil, fmt.Errorf("nothing on this node can write the rules (backend = %q): %w", want.Name, errors.Join(problems...))
	}
	return b, nil
}

// try takes its share of the time that so many trials have, so that one that hangs leaves the others theirs.
func (b *Backend) try(ctx context.Context, trials int, name string, isolated *netns.Isolated) (*proven, error) {
	ctx, cancel := share(ctx, trials)
	defer cancel()
	p, err := b.attempt(ctx, name, isolated)
	b.Trials = append(b.Trials, Trial{name, err})
	if name == NFTables {
		b.native, b.nativeProblem = p, err
	}
	return p, err
}

func share(ctx context.Context, trials int) (context.Context, context.CancelFunc) {
	deadline, ok := ctx.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, time.Until(deadline)/time.Duration(trials))
}

func (b *Backend) attempt(ctx context.Context, name string, isolated *netns.Isolated) (*proven, error) {
	switch name {
	case IPTables, NFTables:
		tables, err := b.learn(ctx, nftables.Dialect(name))
		if err != nil {
			return nil, err
		}
		return b.prove(ctx, name, tables)
	}
	variant := strings.Replace(name, Exec, xtables.Auto, 1)
	var p *proven
	_, err := xtables.Find(ctx, variant, isolated, func(t *xtables.Tables) (err error) {
		p, err = b.prove(ctx, name, t)
		return err
	})
	return p, err
}

func (b *Backend) learn(ctx context.Context, dialect nftables.Dialect) (nftables.Tables, error) {
	scratch, err := netns.New()
	if err != nil {
		return nftables.Tables{}, err
	}
	defer scratch.Close()
	return nftables.Learn(ctx, dialect, scratch, withoutIPv6(b.widest))
}

func withoutIPv6(plan rules.Plan) rules.Plan {
	plan.V6 = rules.Ruleset{Family: rules.IPv6}
	return plan
}

// prove writes and reads back the widest plan, for IPv4 and for both families.
func (b *Backend) prove(ctx context.Context, name string, f kernel.Firewall) (*proven, error) {
	p := &proven{Firewall: f, name: name}
	if err := writes(ctx, f, withoutIPv6(b.widest)); err != nil {
		return nil, err
	}
	p.noIPv6 = writes(ctx, f, b.widest)
	return p, nil
}

func writes(ctx context.Context, f kernel.Firewall, plan rules.Plan) error {
	scratch, err := netns.New()
	if err != nil {
		return err
	}
	defer scratch.Close()
	if _, err := f.Apply(ctx, scratch, plan); err != nil {
		return err
	}
	diffs, err := f.Verify(ctx, scratch, plan)
	if err != nil {
		return err
	}
	if len(diffs) > 0 {
		return fmt.Errorf("rules written are not the rules read back: %s", diffs[0])
	}
	if _, _, err := f.Fingerprint(ctx, scratch); err != nil {
		return err
	}
	_, err = f.Generation(ctx, scratch)
	return err
}

// Chosen returns what writes rules, such as "iptables" or "iptables-nft 1.8.9".
func (b *Backend) Chosen() string { return b.chosen.Name(nil, rules.Plan{}) }

// IPv6 returns nil, or why no IPv6 rules can be written.
func (b *Backend) IPv6() error { return b.chosen.noIPv6 }

// UserNamespaces returns nil, or why pods with a user namespace of their own cannot be served.
func (b *Backend) UserNamespaces() error { return b.nativeProblem }

// of returns what writes the rules of a namespace.
func (b *Backend) of(ns *netns.Namespace) (*proven, error) {
	if !ns.OwnUsers() {
		return b.chosen, nil
	}
	if b.native == nil {
		return nil, fmt.Errorf("%s belongs to a user namespace of the pod (hostUsers: false), where only nf_tables' own kind of rules "+
			"works, and that does not on this node: %w", ns.Path(), b.nativeProblem)
	}
	return b.native, nil
}

// writer returns what writes a plan into a namespace, and where that is not the chosen one because of tables of
// iptables-legacy, what they could take from the plan.
func (b *Backend) writer(ns *netns.Namespace, plan rules.Plan) (p *proven, overtaken []rules.Difference, err error) {
	p, err = b.of(ns)
	if err != nil || plan.Rules() == 0 || b.native == nil || p == b.native || strings.HasPrefix(p.Name(ns, plan), xtables.Legacy) {
		return p, nil, err
	}
	if overtaken, err = nftables.Overtaken(ns, plan); len(overtaken) > 0 {
		p = b.native
	}
	return p, overtaken, err
}

// Name implements kernel.Firewall.
func (b *Backend) Name(ns *netns.Namespace, plan rules.Plan) string {
	p, _, err := b.writer(ns, plan)
	if err != nil {
		return "none"
	}
	return p.Name(ns, plan)
}

// Apply implements kernel.Firewall.
func (b *Backend) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (changed bool, err error) {
	p, _, err := b.writer(ns, plan)
	if err != nil {
		return false, err
	}
	if !plan.V6.Empty() && p.noIPv6 != nil {
		return false, fmt.Errorf("the plan has IPv6 rules, which %s cannot write on this node: %w", p.name, p.noIPv6)
	}
	return p.Apply(ctx, ns, plan)
}

// Verify implements kernel.Firewall.
func (b *Backend) Verify(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]rules.Difference, error) {
	p, overtaken, err := b.writer(ns, plan)
	if err != nil {
		return nil, err
	}
	diffs, err := p.Verify(ctx, ns, plan)
	if len(diffs) == 0 {
		return nil, err
	}
	return append(overtaken, diffs...), err // of which those are the reason
}

// Effect implements kernel.Firewall.
func (b *Backend) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	p, _, err := b.writer(ns, plan)
	if err != nil {
		return effect.Result{}, err
	}
	return p.Effect(ctx, ns, plan, have, interfaces)
}

// Own implements kernel.Firewall.
func (b *Backend) Own(ctx context.Context, ns *netns.Namespace, footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	p, err := b.of(ns)
	if err != nil {
		return v4, v6, err
	}
	return p.Own(ctx, ns, footprint)
}

// Fingerprint implements kernel.Firewall.
func (b *Backend) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	p, err := b.of(ns)
	if err != nil {
		return "", "", err
	}
	return p.Fingerprint(ctx, ns)
}

// Generation implements kernel.Firewall.
func (b *Backend) Generation(ctx context.Context, ns *netns.Namespace) (string, error) {
	p, err := b.of(ns)
	if err != nil {
		return "", err
	}
	return p.Generation(ctx, ns)
}

// Counts implements kernel.Firewall.
func (b *Backend) Counts(ctx context.Context, ns *netns.Namespace) (map[string]uint64, error) {
	p, err := b.of(ns)
	if err != nil {
		return nil, err
	}
	return p.Counts(ctx, ns)
}
