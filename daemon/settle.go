// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// settle looks into the pod's namespace, changes what has to be changed, and remembers the result.
func (e *Enforcer) settle(ctx context.Context, o *Outcome) error {
	err := e.visit(ctx, o, func(ns entered) error {
		// Read again: with the lock held, nothing more is learned about this pod meanwhile.
		known, _ := e.sandboxes.get(o.Pod.SandboxID)
		o.WasEnrolled = known.enrolled()
		same := known.keepsNetNS
		if o.Trigger == Audited {
			same = known.inNetNS
		}
		if err := same(ns); err != nil {
			return err
		}
		return e.settleIn(ctx, ns, o, known)
	})
	if known, _ := e.sandboxes.get(o.Pod.SandboxID); errors.Is(err, netns.ErrHost) && known.NetNS == (netns.ID{}) {
		// CRI-O gives hostNetwork pods a path: only now it is known what it leads to. A sandbox that had a
		// namespace of its own is no such pod.
		o.Pod.HostNetwork = true
		e.decide(o)
		e.sandboxes.forget(o.Pod.SandboxID)
		return nil
	}
	return err
}

func (e *Enforcer) settleIn(ctx context.Context, ns entered, o *Outcome, known Sandbox) error {
	if err := o.step(ctx, StageDecide); err != nil {
		return err
	}
	asDecided := o.Trigger != Takeover || known.earlier && !e.policy.Load().ReplaceOutdated
	if o.WasEnrolled && asDecided && known.knows(o.Pod.Containers) {
		path := o.Pod.NetNS // the runtime may name the namespace in another way than before
		o.Pod, o.Decision, o.Plan, o.key, o.node, o.earlier = known.Pod, known.Decision, known.Plan, known.key, known.node, known.earlier
		o.Pod.NetNS = path
		if err := e.readdress(ns, o, known); err != nil {
			return err
		}
		return e.protect(ctx, ns, o, known)
	}
	o.Pod.Containers = overlay(known.Pod.Containers, o.Pod.Containers)
	if o.WasEnrolled { // decided by the node that enrolled it: a new configuration is for pods that start from now on
		o.node = known.node
	}
	e.decide(o)
	if e.setsItselfUp(o, known) {
		if stays, err := e.leaveSelfManaged(ctx, ns, o, known); err != nil || stays {
			return err
		}
	}
	switch {
	case e.shownByContainers(*o):
		return e.exempt(ctx, ns, o)
	case e.ofDisabledMesh(*o):
		if stays, err := e.keepEarlier(ctx, ns, o); err != nil || stays {
			return err
		}
		e.sandboxes.forget(o.Pod.SandboxID)
		return nil
	case o.Result == Refused && o.Trigger == Takeover:
		stays, err := e.keepEarlier(ctx, ns, o)
		if err == nil && !stays && (!known.refused() || known.Detail != o.Err.Error()) {
			e.remember(o, StateUnprotected, "") // it stays so until its author or the configuration changes
		}
		return err
	case !o.undecided():
		return nil
	}
	if e.checkAdmitted(o, known); o.Result == Refused {
		return nil
	}
	if err := e.plan(ns, o); err != nil {
		return err
	}
	o.Refined = o.WasEnrolled && known.key != o.key
	return e.protect(ctx, ns, o, known)
}

// ofDisabledMesh reports whether a pod is outside every enabled mesh, but would belong to one that was switched off: it
// keeps the rules it may have of that mesh, and they are audited.
func (e *Enforcer) ofDisabledMesh(o Outcome) bool {
	return o.Result == Skipped && o.node.ClaimedByDisabled(o.Pod)
}

// checkAdmitted refuses a proxy whose user or group a container has that was let through before: rules for this proxy
// would let that container go around the mesh.
func (e *Enforcer) checkAdmitted(o *Outcome, known Sandbox) {
	was, is := known.Decision.Proxy, o.Decision.Proxy
	if o.Trigger != ContainerCreated || (was.UID == is.UID && was.GID == is.GID) || e.policy.Load().identity(o.Pod) != config.IdentityRefuse {
		return
	}
	for _, c := range known.Admitted {
		if o.Impostor = o.Decision.Impostor(c); o.Impostor != "" {
			o.Result, o.Err = Refused, errors.New(o.Impostor)
			return
		}
	}
}

// protect makes the namespace do what the plan says. Rules of a running pod that do that, or that another configuration
// wrote and that are whole, are not changed without being asked.
func (e *Enforcer) protect(ctx context.Context, ns entered, o *Outcome, known Sandbox) error {
	switch o.Trigger {
	case SandboxStarted, ContainerCreated, ByHand:
		o.Running = known.State == StateUnprotected && known.running
		return e.applyAndVerify(ctx, ns, o)
	case ContainerValidated, ContainerStarted, Takeover, Audited:
		if o.WasEnrolled && o.key != known.key { // because its addresses changed, not its rules
			return e.applyAndVerify(ctx, ns, o)
		}
	}
	replace := o.Trigger == Takeover && e.policy.Load().ReplaceOutdated
	earlier, err := e.heldEarlier(ctx, ns, *o)
	switch {
	case err != nil:
		return err
	case earlier != nil && !replace:
		*o = *earlier
	case earlier == nil:
		if err := e.look(ctx, ns, o); err != nil {
			return err
		}
		replace = replace && (o.judged.grade() == alike || o.judged.grade() == unproven)
	}
	if replace {
		o.Running = false // it had rules, and gets others because somebody asked for that
		return e.applyAndVerify(ctx, ns, o)
	}
	switch o.judged.grade() {
	case whole, alike:
		o.Outdated = o.earlier || o.judged.grade() == alike
		return e.keep(ctx, o)
	case unproven:
		return e.protectUnproven(ctx, ns, o)
	case lost:
	}
	return e.protectLost(ctx, ns, o, known)
}

// protectUnproven replaces rules of which nobody can tell what they do before a container is created or starts, unless
// those are the plan's, and it is somebody else's that nobody can tell of. A running pod keeps them.
func (e *Enforcer) protectUnproven(ctx context.Context, ns entered, o *Outcome) error {
	switch {
	case o.judged.words:
	case o.Trigger == ContainerValidated: // the next try begins with the look that writes
		return o.cannotTell()
	case o.Trigger == ContainerStarted, o.Trigger == Takeover && !o.Running:
		return e.applyAndVerify(ctx, ns, o)
	}
	return e.leaveUnproven(ctx, o)
}

func (o Outcome) cannotTell() error {
	return fmt.Errorf("what becomes of the pod's packets cannot be told: %s", o.judged.said)
}

func (e *Enforcer) leaveUnproven(ctx context.Context, o *Outcome) error {
	if err := givenUp(ctx); err != nil {
		return err
	}
	o.Result, o.Err = Unproven, o.cannotTell()
	e.remember(o, StateUnproven, o.seen.generation)
	return nil
}

// protectLost writes rules where there are none, or such that do less than the plan, or leaves that as the configuration says.
func (e *Enforcer) protectLost(ctx context.Context, ns entered, o *Outcome, known Sandbox) error {
	if err := givenUp(ctx); err != nil {
		return err
	}
	policy := e.policy.Load()
	leave := o.Running && policy.CatchUp != config.CatchUpApply
	if o.WasEnrolled {
		leave, o.Drifted = policy.OnDrift != config.DriftRepair, known.State != StateFailing
	}
	if o.Trigger == ContainerStarted { // its containers go on, and this one has not begun
		leave, o.Running = false, known.State == StateUnprotected && known.running
	}
	switch {
	case o.Trigger == ContainerValidated:
		return fmt.Errorf("the sandbox has lost its rules: %s", o.judged.said)
	case leave:
		o.Result = Unprotected
		o.Err = fmt.Errorf("the kernel does not hold the pod's rules: %s", o.judged.said)
		e.remember(o, StateUnprotected, "")
		return nil
	case o.Drifted:
		e.record(driftFound(*o))
	}
	return e.applyAndVerify(ctx, ns, o)
}

// driftFound returns the outcome that reports the drift, before it is repaired. Its stages have no
// times: those are in the outcome of the repair.
func driftFound(o Outcome) Outcome {
	o.Result, o.Took, o.Spent = Unprotected, time.Since(o.Began), [len(Stages)]time.Duration{}
	o.Err = fmt.Errorf("the pod's rules were changed: %s", o.judged.said)
	return o
}

// applyAndVerify applies the plan, and reads the kernel to prove that it is there and holds.
func (e *Enforcer) applyAndVerify(ctx context.Context, ns entered, o *Outcome) error {
	if err := e.supersede(ctx, ns, o); err != nil {
		return err
	}
	if err := e.apply(ctx, ns, o); err != nil {
		return err
	}
	err := e.look(ctx, ns, o)
	switch g := o.judged.grade(); {
	case err != nil:
		return err
	case g <= alike:
		o.Outdated = o.earlier
		return e.keep(ctx, o)
	case g == unproven && o.judged.words:
		return e.leaveUnproven(ctx, o)
	case o.judged.words:
		return fmt.Errorf("the kernel holds the pod's rules, and rules of somebody else that take packets from them: %s", o.judged.said)
	}
	return fmt.Errorf("the kernel does not hold what was written: %s", o.judged.said)
}

// keep remembers the sandbox as protected by the rules that were found.
func (e *Enforcer) keep(ctx context.Context, o *Outcome) error {
	if err := givenUp(ctx); err != nil {
		return err
	}
	o.Result, o.Err = Protected, nil
	state := StateProtected
	if o.Outdated {
		state = StateOutdated
	}
	e.remember(o, state, o.seen.generation)
	return nil
}

// givenUp is an error where nobody waits for the result any more, so that it must not be recorded.
func givenUp(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%w after a look that took too long: %w", errGivenUp, err)
	}
	return nil
}

func (e *Enforcer) remember(o *Outcome, state State, generation string) {
	detail := o.Decision.Detail
	switch {
	case o.Err != nil:
		detail = o.Err.Error()
	case o.Outdated:
		detail = o.outdated()
	}
	if (state == StateProtected || state == StateOutdated) && o.judged.words {
		e.receipts.Write(o.receiptID(), receipts.Receipt{NetNS: o.NetNS, Plan: o.key})
	}
	pod := e.policy.Load().Node.Remembered(o.Pod, o.Decision)
	if o.Decision.Reason != rules.ReasonInitContainer { // known from containers that need not be kept
		pod.Containers = e.refining(pod.Containers)
	}
	e.sandboxes.update(pod.SandboxID, func(sb *Sandbox) {
		*sb = Sandbox{Pod: pod, State: state, Decision: o.Decision, Plan: o.Plan, key: o.key, earlier: o.earlier, network: o.network, NetNS: o.NetNS, Since: time.Now(),
			Took: time.Since(o.Began), Detail: detail, Admitted: sb.Admitted, Drift: sb.Drift, node: o.node,
			Changes: sb.Changes, Beside: o.judged.beside, reviewed: sb.reviewed, required: sb.required,
			running: sb.running, generation: generation, Backend: o.Backend, turn: sb.turn}
	})
}

func (e *Enforcer) apply(ctx context.Context, ns entered, o *Outcome) error {
	if err := o.step(ctx, StageApply); err != nil {
		return err
	}
	changed, err := e.firewall.Apply(ctx, ns.Namespace, o.Plan)
	if err != nil {
		return err
	}
	moved, err := ns.routes.Apply(o.Plan)
	o.Changed = changed || moved
	return err
}
