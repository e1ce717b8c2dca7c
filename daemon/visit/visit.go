// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package visit is what is done in a pod's network namespace, with that locked: it is the table's hands and eyes there. It reads
// what the namespace holds, makes the plan for it, writes, reads again, and commits what came of it.
package visit

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
)

// ErrUnknown is within the error about a sandbox of which nothing is remembered.
var ErrUnknown = errors.New("is not known: it is gone, or does not belong to the mesh")

// Visitor looks into the namespaces of pods, and writes there.
type Visitor struct {
	Kernel kernel.Kernel
	Memory *memory.Sandboxes
	Policy func() *policy.Policy
	// Record takes what is told before a look has ended.
	Record func(outcome.Outcome)

	judge judge.Judge
}

// pass is one look at a pod, on a thread that is in the namespace, with that locked.
type pass struct {
	*Visitor
	*policy.Policy
	ctx   context.Context
	in    kernel.Inside
	o     *outcome.Look
	known memory.Sandbox

	earlier *outcome.Look // by the plan of another configuration, which it holds
	err     error
}

// visit opens and locks the pod's namespace and calls fn on a thread that is in it.
func (v *Visitor) visit(ctx context.Context, o *outcome.Look, fn func(*pass) error) error {
	o.Enter(outcome.StageEnter)
	ns, err := v.Kernel.Open(o.Pod.NetNS)
	if err != nil {
		return err
	}
	defer ns.Close()
	o.NetNS, o.Backend = ns.ID(), ns.Backend()
	unlock, err := ns.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ctx.Err(); err != nil { // nobody waits for this any more, and a later look knows more
		return fmt.Errorf("lock %s: too late: %w", o.Pod.NetNS, err)
	}
	return ns.Do(func(in kernel.Inside) error {
		return fn(&pass{Visitor: v, Policy: v.Policy(), ctx: ctx, in: in, o: o})
	})
}

// Verify compares the namespace with the plan of what was decided, and changes nothing.
func (v *Visitor) Verify(ctx context.Context, o *outcome.Look) error {
	return v.visit(ctx, o, func(p *pass) error {
		if err := p.plan(); err != nil {
			return err
		}
		_, err := p.compare()
		return err
	})
}

// Compare compares the namespace of a sandbox with the plan that is remembered for it, and changes nothing.
func (v *Visitor) Compare(ctx context.Context, o *outcome.Look, known memory.Sandbox) error {
	return v.visit(ctx, o, func(p *pass) error {
		if err := known.InNetNS(*o); err != nil {
			return err
		}
		_, err := p.compare()
		return err
	})
}

// Remove takes out of the namespace what meshnetd put in.
func (v *Visitor) Remove(ctx context.Context, o *outcome.Look) error {
	return v.visit(ctx, o, (*pass).remove)
}

// compare judges the namespace anew, and remembers nothing of it.
func (p *pass) compare() (judge.Finding, error) {
	if err := p.o.Step(p.ctx, outcome.StageVerify); err != nil {
		return judge.Finding{}, err
	}
	f, err := judge.Anew(p.ctx, p.in, p.o.Plan)
	p.o.Found(f)
	return f, err
}

// Intact reports whether the sandbox still has its namespace, and nobody has written there since it was verified. It
// takes no lock, so that nobody waits.
func (v *Visitor) Intact(ctx context.Context, known memory.Sandbox) (intact bool, err error) {
	ns, err := v.Kernel.Open(known.Pod.NetNS)
	if err != nil {
		return false, err
	}
	defer ns.Close()
	if ns.ID() != known.NetNS {
		return false, nil
	}
	err = ns.Do(func(in kernel.Inside) error {
		generation, err := in.Rules.Generation(ctx, in.NS)
		if err != nil || generation != known.Generation {
			return err
		}
		moved, err := in.Routes.Verify(known.Plan)
		if err != nil || len(moved) > 0 {
			return err
		}
		if known.Around != "" {
			if around, err := judge.Around(in, known.Plan); err != nil || around != known.Around {
				return err
			}
		}
		now, err := network(in, known.Pod)
		intact = err == nil && now.Equal(known.Network)
		return err
	})
	return intact, err
}
