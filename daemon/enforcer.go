// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package daemon holds the one flow that every pod goes through, whoever asks: decide, build, enter,
// apply, verify, record.
package daemon

import (
	"cmp"
	"context"
	"sync/atomic"

	"github.com/meshnetd/meshnetd/daemon/auditor"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/daemon/view"
	"github.com/meshnetd/meshnetd/daemon/visit"
	"github.com/meshnetd/meshnetd/rules"
)

// Enforcer takes pods through the flow.
type Enforcer struct {
	// StopSandbox ends a sandbox so that the kubelet makes a new one; nil where that is not possible. It is set
	// before the first pod.
	StopSandbox func(ctx context.Context, sandboxID string) error
	// Kubelet tells what the runtime does not; nil where nobody is asked. It is set before the first pod.
	Kubelet Kubelet
	// Auditor tells of what Audit does.
	Auditor *auditor.Auditor

	policy    atomic.Pointer[policy.Policy]
	sandboxes memory.Sandboxes
	visitor   visit.Visitor
	sharing   sharing.Sharing
	counts    lockdown.Counts
}

// New returns an Enforcer that has seen no pod yet, and keeps receipts in a directory. record is called once for every outcome,
// and must not block.
func New(p policy.Policy, k kernel.Kernel, dir receipts.Directory, record func(outcome.Outcome)) *Enforcer {
	e := &Enforcer{sandboxes: memory.Sandboxes{Receipts: dir}, Auditor: auditor.New(), sharing: sharing.New()}
	e.visitor = visit.Visitor{Kernel: k, Memory: &e.sandboxes, Policy: e.policy.Load, Record: record}
	e.SetPolicy(p)
	return e
}

// SetPolicy replaces the policy. It holds for pods that are looked at from now on: the rules of running
// pods stay.
func (e *Enforcer) SetPolicy(p policy.Policy) {
	before := e.policy.Swap(&p)
	if before == nil || before.AuditInterval == p.AuditInterval {
		return // restarting the auditor at each reload would keep it from its last pods
	}
	e.Auditor.Hurry()
}

// View returns what answers questions about what is known.
func (e *Enforcer) View() view.View {
	return view.View{Policy: e.policy.Load(), Memory: &e.sandboxes, Counts: &e.counts, Kernel: e.visitor.Kernel,
		Specification: func(uid string) (rules.Pod, bool) { return specification(e.Kubelet, uid) }}
}

// Deciding returns a pod with what is kept of its labels and annotations.
func (e *Enforcer) Deciding(pod rules.Pod) rules.Pod { return e.policy.Load().Node.Deciding(pod) }

// Bounded returns a container with what is kept of its arguments, its environment and its groups.
func (e *Enforcer) Bounded(c rules.Container) rules.Container { return e.policy.Load().Node.Bounded(c) }

// Enforce makes the pod's namespace hold its verified rules, or says why the pod must not run. It never
// panics. It returns when ctx ends, whatever the kernel or a program does; what is then still running
// finishes by itself, with the namespace locked.
func (e *Enforcer) Enforce(ctx context.Context, trigger lifecycle.Trigger, pod rules.Pod) outcome.Outcome {
	o := e.enforce(ctx, outcome.Begin(trigger, pod))
	e.report(o)
	e.notice(o.Outcome, outcome.EventBypass, cmp.Or(bypass(o.Outcome), unreadable(o.Outcome)))
	return o.Outcome
}

func (e *Enforcer) enforce(ctx context.Context, o outcome.Look) outcome.Look {
	known, ok := e.sandboxes.Get(o.Pod.SandboxID)
	o.Decision = known.Decision // in case there is no time for a new one
	if !ok || known.State == lifecycle.StateSkipped {
		o = e.unseen(e.decideSpecified(ctx, e.decideUnknown(ctx, o)))
	}
	if o.Undecided() && !o.Decided {
		o = e.try(ctx, o, e.reconcile)
	}
	o.End()
	return o
}

// decideUnknown decides about a pod of which nothing is known. Most pods of a node end here, without a goroutine.
func (e *Enforcer) decideUnknown(ctx context.Context, o outcome.Look) outcome.Look {
	decide := func(_ context.Context, o *outcome.Look) error {
		by := e.policy.Load()
		if o.Decide(by); o.Result != lifecycle.Failed {
			o.Want = by.Want(o.Case())
		}
		if o.By = nil; o.Want == lifecycle.WantRules { // what the kubelet says may have changed that
			o.By = by
		}
		return nil
	}
	if !sharing.Light(o.Pod) || o.Trigger == lifecycle.Takeover { // with all of its containers
		return e.sharing.Within(ctx, o, decide)
	}
	_ = decide(ctx, &o) // it has none
	return o
}

// unseen takes a pod of which nothing was known through the table, where that does not ask for a look into its namespace.
func (e *Enforcer) unseen(o outcome.Look) outcome.Look {
	switch {
	case o.Want == lifecycle.Undecided:
		return e.fail(o, e.sandboxes.EndTurn(o.Pod.SandboxID, o.Overrun))
	case o.Want == lifecycle.WantNothing || o.Want == lifecycle.WantMarked || o.Trigger != lifecycle.Takeover && !o.Want.Looks() || o.Pod.NetNS == "":
		return e.fromMemory(o, o.Want, lifecycle.NoTrouble)
	}
	o.Result = ""
	return o
}

// Verify compares the kernel with the pod's plan, for a pod that is skipped one without rules of any enabled mesh, and
// changes nothing. There is nothing to compare for a pod that is refused, or that sets itself up.
func (e *Enforcer) Verify(ctx context.Context, pod rules.Pod) outcome.Outcome {
	o := outcome.Begin(lifecycle.ByHand, pod)
	by := e.policy.Load()
	o.Decide(by)
	if o.OwnInit(by, true) || o.Err != nil || o.Decision.Reason == rules.ReasonInitContainer {
		return o.Outcome
	}
	return e.sharing.Within(ctx, o, e.visitor.Verify).Outcome
}

// Remove takes out of a namespace what meshnetd put in, and nothing else: those that were verified there,
// where they are whole, else those of every enabled mesh. It says whether there was anything.
func (e *Enforcer) Remove(ctx context.Context, path string) (changed bool, err error) {
	o := e.sharing.Within(ctx, outcome.Begin(lifecycle.ByHand, rules.Pod{NetNS: path}), e.visitor.Remove)
	return o.Changed, o.Err
}
