// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package kernel is all that the daemon asks of the kernel about a pod: its network namespace, opened, locked and entered, with
// the packet-filter rules, the routes and the addresses in it. Tests of the flow put a kernel in memory in its place.
package kernel

import (
	"context"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Kernel opens namespaces.
type Kernel interface {
	// Open opens the network namespace at path; that of the host is an error.
	Open(path string) (Namespace, error)
}

// Namespace is an open network namespace, whatever becomes of the path.
type Namespace interface {
	ID() netns.ID
	// Backend says what writes rules into it, whatever else is there.
	Backend() string
	// Lock keeps everybody else who would write out of it.
	Lock(context.Context) (unlock func(), err error)
	// Do calls fn on a thread that is in it.
	Do(fn func(Inside) error) error
	Close()
}

// Inside is a namespace for the thread that is in it.
type Inside struct {
	NS          *netns.Namespace // for Rules; a kernel in memory has none
	Rules       Firewall
	Routes      Routes
	Connections Connections
}

// Routes are routes and addresses, as of routing.Handle.
type Routes interface {
	Apply(rules.Plan) (changed bool, err error)
	Verify(rules.Plan) ([]string, error)
	Own(rules.Footprint) (rules.Plan, error)
	Interfaces() ([]rules.Interface, error)
	Network() (rules.Network, error)
}

// Connections are those that the kernel remembers.
type Connections interface {
	// Seen returns the connections whose first packet lockdowns counted and let go, so many at most.
	Seen(most int) ([]rules.Seen, error)
}

// Apply makes the namespace hold the plan.
func (i Inside) Apply(ctx context.Context, plan rules.Plan) (changed bool, err error) {
	changed, err = i.Rules.Apply(ctx, i.NS, plan)
	if err != nil {
		return changed, err
	}
	moved, err := i.Routes.Apply(plan)
	return changed || moved, err
}

// Own reads what the namespace holds of the footprint, those of other plans too. Routes and addresses count only where its
// rules are there.
func (i Inside) Own(ctx context.Context, footprint rules.Footprint) (rules.Plan, error) {
	v4, v6, err := i.Rules.Own(ctx, i.NS, footprint)
	if err != nil {
		return rules.Plan{}, err
	}
	own, err := i.Routes.Own(footprint.Narrow(rules.Plan{V4: v4, V6: v6}))
	own.V4, own.V6 = v4, v6
	return own, err
}

// Firewall writes and reads packet-filter rules of a namespace.
type Firewall interface {
	// Name says what writes the plan's rules into the namespace, for events.
	Name(*netns.Namespace, rules.Plan) string
	// Apply makes the namespace hold the plan, and says whether it had to change anything. It may be
	// called again.
	Apply(context.Context, *netns.Namespace, rules.Plan) (changed bool, err error)
	// Verify reads the kernel and returns every way in which it does not hold the plan.
	Verify(context.Context, *netns.Namespace, rules.Plan) ([]rules.Difference, error)
	// Effect compares what becomes of packets by all that the namespace holds, whoever wrote it, with what becomes of
	// them by the plan. have is the plan's routes and addresses that are there.
	Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error)
	// Own reads the rules of the footprint that the namespace holds, those of another plan too.
	Own(context.Context, *netns.Namespace, rules.Footprint) (v4, v6 rules.Ruleset, err error)
	// Fingerprint reads the kernel and returns a short text: equal ones mean equal rules, in two
	// namespaces or at two times. It runs no program. The generation is that of Generation at this moment; ""
	// where rules may go without a new one.
	Fingerprint(context.Context, *netns.Namespace) (fingerprint, generation string, err error)
	// Generation returns a text that changes with every change of the namespace's rules, and costs less
	// than to read them.
	Generation(context.Context, *netns.Namespace) (string, error)
	// Counts returns how many packets the lockdowns have counted, by the chain of their class.
	Counts(context.Context, *netns.Namespace) (map[string]uint64, error)
}

// Node is the kernel of this machine.
type Node struct {
	Host     []netns.ID // the namespaces that are never touched
	Locks    *netns.Locks
	Firewall Firewall
}

// Open implements Kernel.
func (n Node) Open(path string) (Namespace, error) {
	ns, err := netns.Open(path, n.Host)
	if err != nil {
		return nil, err
	}
	return opened{ns, n}, nil
}

type opened struct {
	*netns.Namespace
	node Node
}

func (o opened) Backend() string { return o.node.Firewall.Name(o.Namespace, rules.Plan{}) }

func (o opened) Lock(ctx context.Context) (unlock func(), err error) {
	return o.node.Locks.Lock(ctx, o.Namespace)
}

func (o opened) Do(fn func(Inside) error) error {
	return o.Namespace.Do(func() error {
		routes := routing.Open()
		defer routes.Close()
		return fn(Inside{o.Namespace, o.node.Firewall, routes, conntrack.Table{}})
	})
}
