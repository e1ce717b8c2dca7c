// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package daemon holds the one flow that every pod goes through, whoever asks: decide, build, enter,
// apply, verify, record.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"hash/maphash"
	"slices"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Firewall writes and reads packet-filter rules of a namespace.
type Firewall interface {
	// Name says what writes the rules of the namespace, for events.
	Name(*netns.Namespace) string
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
	// namespaces or at two times. It runs no program. The generation is that of Generation at this moment.
	Fingerprint(context.Context, *netns.Namespace) (fingerprint, generation string, err error)
	// Generation returns a text that changes with every change of the namespace's rules, and costs less
	// than to read them.
	Generation(context.Context, *netns.Namespace) (string, error)
}

// Policy is what the configuration says about pods. It can be replaced while the daemon runs.
type Policy struct {
	Node            rules.Node
	ProxyIdentity   config.Identity
	IdentityExempt  []string // namespaces where nobody looks for ProxyIdentity
	CatchUp         config.CatchUp
	ReplaceOutdated bool
	OnDrift         config.OnDrift
	Required        bool // the runtime requires meshnetd by itself
	Hooks           config.Hooks
	AuditInterval   time.Duration // in which every protected namespace is read once
}

// Enforcer takes pods through the flow.
type Enforcer struct {
	// StopSandbox ends a sandbox so that the kubelet makes a new one; nil where that is not possible. It is set
	// before the first pod.
	StopSandbox func(ctx context.Context, sandboxID string) error
	// Kubelet tells what the runtime does not; nil where nobody is asked. It is set before the first pod.
	Kubelet Kubelet

	host      []netns.ID
	locks     *netns.Locks
	firewall  Firewall
	record    func(Outcome)
	policy    atomic.Pointer[Policy]
	sandboxes sandboxes
	receipts  receipts.Directory
	sharing   sharing
	validator atomic.Pointer[bool] // whether the runtime's own one was on, as its last question showed
	audit     atomic.Pointer[Audit]
	heard     atomic.Pointer[time.Time] // when the auditor last showed that it is alive
	reloaded  chan struct{}             // tells the auditor that its interval is another one
}

// New returns an Enforcer that has seen no pod yet. It never touches the host's namespaces, and enters another one with
// its lock held; in the directory of locks it keeps receipts too. record is called once for every outcome, and must not block.
func New(policy Policy, host []netns.ID, locks *netns.Locks, firewall Firewall, record func(Outcome)) *Enforcer {
	e := &Enforcer{host: host, locks: locks, receipts: receipts.In(locks.Directory()), firewall: firewall, reloaded: make(chan struct{}, 1), sharing: sharing{seed: maphash.MakeSeed()}, record: record}
	e.SetPolicy(policy)
	return e
}

// SetPolicy replaces the policy. It holds for pods that are looked at from now on: the rules of running
// pods stay.
func (e *Enforcer) SetPolicy(policy Policy) {
	before := e.policy.Swap(&policy)
	if before == nil || before.AuditInterval == policy.AuditInterval {
		return // restarting the auditor at each reload would keep it from its last pods
	}
	select {
	case e.reloaded <- struct{}{}:
	default:
	}
}

// Sandboxes returns what is known of every pod of the mesh whose sandbox is there at this moment, by namespace and name. Nobody
// says when one ends; the auditor forgets it later.
func (e *Enforcer) Sandboxes() []Sandbox { return slices.DeleteFunc(e.sandboxes.all(), Sandbox.gone) }

// Host returns the identities of the host's namespace, which is never touched.
func (e *Enforcer) Host() []netns.ID { return e.host }

// Enforce makes the pod's namespace hold its verified rules, or says why the pod must not run. It never
// panics. It returns when ctx ends, whatever the kernel or a program does; what is then still running
// finishes by itself, with the namespace locked.
func (e *Enforcer) Enforce(ctx context.Context, trigger Trigger, pod rules.Pod) Outcome {
	o := e.enforce(ctx, begin(trigger, pod))
	e.report(o)
	e.sayBypass(o)
	return o
}

func begin(trigger Trigger, pod rules.Pod) Outcome {
	now := time.Now()
	return Outcome{Pod: pod, Trigger: trigger, Began: now, Stage: StageDecide, entered: now, waited: trigger.Waits()}
}

func (e *Enforcer) enforce(ctx context.Context, o Outcome) Outcome {
	known, ok := e.sandboxes.get(o.Pod.SandboxID)
	o.Decision = known.Decision // in case there is no time for a new one
	if !ok || known.State == StateSkipped {
		if o = e.decideUnknown(ctx, o); o.Result != Skipped {
			o = e.decideSpecified(ctx, o)
		}
		o = e.unseen(o)
	}
	if o.undecided() && !o.decided {
		o = e.try(ctx, o, e.reconcile)
	}
	o.end()
	return o
}

// decideUnknown decides about a pod of which nothing is known. Most pods of a node end here, without a goroutine.
func (e *Enforcer) decideUnknown(ctx context.Context, o Outcome) Outcome {
	decide := func(_ context.Context, o *Outcome) error {
		if e.decide(o); o.Result != Failed {
			o.want = e.want(o)
		}
		if o.want == lifecycle.WantNone {
			o.Result = "" // not without a look
		}
		return nil
	}
	if !light(o.Pod) {
		return e.within(ctx, o, decide)
	}
	_ = decide(ctx, &o) // it has none
	return o
}

// unseen takes a pod of which nothing was known through the table, where that does not ask for a look into its namespace.
func (e *Enforcer) unseen(o Outcome) Outcome {
	switch {
	case o.want == lifecycle.Undecided:
		return e.fail(o, e.sandboxes.endTurn(o.Pod.SandboxID, o.overrun))
	case o.want == lifecycle.WantNothing || o.want == lifecycle.WantMarked || o.Trigger != Takeover && !o.want.Looks() || o.Pod.NetNS == "":
		return e.fromMemory(o, o.want, lifecycle.NoTrouble)
	}
	o.Result = ""
	return o
}

// Verify compares the kernel with the pod's plan, for a pod that is skipped one without rules of any enabled mesh, and
// changes nothing. There is nothing to compare for a pod that is refused, or that sets itself up.
func (e *Enforcer) Verify(ctx context.Context, pod rules.Pod) Outcome {
	o := begin(ByHand, pod)
	e.decide(&o)
	if e.setsItselfUp(&o, Sandbox{State: StateExempt}) || o.Err != nil || o.Decision.Reason == rules.ReasonInitContainer {
		return o
	}
	return e.within(ctx, o, func(ctx context.Context, o *Outcome) error {
		return e.visit(ctx, o, func(p *pass) error {
			if err := p.plan(); err != nil {
				return err
			}
			return p.compare()
		})
	})
}

// Remove takes out of a namespace what meshnetd put in, and nothing else: those that were verified there,
// where they are whole, else those of every enabled mesh. It says whether there was anything.
func (e *Enforcer) Remove(ctx context.Context, path string) (changed bool, err error) {
	o := e.within(ctx, begin(ByHand, rules.Pod{NetNS: path}), func(ctx context.Context, o *Outcome) error {
		return e.visit(ctx, o, (*pass).remove)
	})
	return o.Changed, o.Err
}

// decide is the pure part: it makes no system call.
func (e *Enforcer) decide(o *Outcome) {
	if o.node.Meshes == nil {
		o.node = e.policy.Load().Node
	}
	if err := recovered.Call(func() error { o.Decision = o.node.Decide(o.Pod); return nil }); err != nil {
		o.Result, o.Err = Failed, err
		return
	}
	if o.Decision.Action == rules.Enrol && o.Pod.NetNS == "" {
		o.Decision.Action, o.Decision.Reason = rules.Reject, rules.ReasonNoNetNS
		o.Decision.Detail = "the runtime names no network namespace for the sandbox, so there is nothing to put rules into"
	}
	switch o.Decision.Action {
	case rules.Enrol: // its result is still to come
	case rules.Skip:
		o.Result = Skipped
	case rules.Reject:
		o.Result, o.Err = Refused, errors.New(o.Decision.Detail)
	}
}

// pass is one look at a pod, on a thread that is in the namespace, with that locked.
type pass struct {
	*Enforcer
	ctx    context.Context
	ns     *netns.Namespace
	routes *routing.Handle
	o      *Outcome
	known  Sandbox

	earlier *Outcome // by the plan of another configuration, which it holds
	err     error
}

// visit opens and locks the pod's namespace and calls fn on a thread that is in it.
func (e *Enforcer) visit(ctx context.Context, o *Outcome, fn func(*pass) error) error {
	o.enter(StageEnter)
	ns, err := netns.Open(o.Pod.NetNS, e.host)
	if err != nil {
		return err
	}
	defer ns.Close()
	o.NetNS, o.Backend = ns.ID(), e.firewall.Name(ns)
	unlock, err := e.locks.Lock(ctx, ns)
	if err != nil {
		return err
	}
	defer unlock()
	if err := ctx.Err(); err != nil { // nobody waits for this any more, and a later look knows more
		return fmt.Errorf("lock %s: too late: %w", ns.Path(), err)
	}
	return ns.Do(func() error {
		routes, err := routing.Open()
		if err != nil {
			return err
		}
		defer routes.Close()
		return fn(&pass{Enforcer: e, ctx: ctx, ns: ns, routes: routes, o: o})
	})
}
