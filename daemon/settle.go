// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/netns"
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
	if o.WasEnrolled && o.Trigger != Takeover && known.knows(o.Pod.Containers) {
		path := o.Pod.NetNS // the runtime may name the namespace in another way than before
		o.Pod, o.Decision, o.Plan, o.key, o.node = known.Pod, known.Decision, known.Plan, known.key, known.node
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
		if outdated, err := e.matchesLabel(ctx, ns, o); err != nil || outdated {
			return err
		}
		e.sandboxes.forget(o.Pod.SandboxID)
		return nil
	case o.Result == Refused && o.Trigger == Takeover:
		outdated, err := e.matchesLabel(ctx, ns, o)
		if err == nil && !outdated && (!known.refused() || known.Detail != o.Err.Error()) {
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

// protect makes the namespace hold the plan. What was there before meshnetd looked is treated as the
// configuration says: rules of a running pod are not changed without being asked.
func (e *Enforcer) protect(ctx context.Context, ns entered, o *Outcome, known Sandbox) error {
	policy := e.policy.Load()
	switch o.Trigger {
	case SandboxStarted, ContainerCreated, ByHand:
		o.Running = known.State == StateUnprotected && known.running
		return e.applyAndVerify(ctx, ns, o)
	case ContainerValidated, ContainerStarted, Takeover, Audited:
		if o.WasEnrolled && o.key != known.key { // because its addresses changed, not its rules
			return e.applyAndVerify(ctx, ns, o)
		}
	}
	if whole, err := e.inspect(ctx, ns, o); err != nil || whole {
		return err
	}
	// Another whole plan was written by an earlier meshnetd, or by the one that is replacing this one.
	replace := o.Trigger == Takeover && policy.ReplaceOutdated
	if !replace && (o.Trigger == Takeover || e.otherDaemons()) {
		if outdated, err := e.matchesLabel(ctx, ns, o); err != nil || outdated {
			return err
		}
	}
	leave := o.Running && policy.CatchUp != config.CatchUpApply && !replace
	if o.WasEnrolled {
		leave = policy.OnDrift != config.DriftRepair && !replace
		o.Drifted = known.State != StateFailing && !replace
	}
	if o.Trigger == ContainerStarted { // its containers go on, and this one has not begun
		leave, o.Running = false, known.State == StateUnprotected && known.running
	}
	switch {
	case o.Trigger == ContainerValidated:
		return fmt.Errorf("the sandbox has lost its rules: %s", o.some())
	case leave:
		o.Result = Unprotected
		o.Err = fmt.Errorf("the kernel does not hold the pod's rules: %s", o.some())
		e.remember(o, StateUnprotected, "")
		return nil
	case o.Drifted:
		e.record(driftFound(*o))
	}
	return e.applyAndVerify(ctx, ns, o)
}

// otherDaemons reports whether another meshnetd runs on this node.
func (e *Enforcer) otherDaemons() bool { return e.OtherDaemons != nil && e.OtherDaemons() }

// driftFound returns the outcome that reports the drift, before it is repaired. Its stages have no
// times: those are in the outcome of the repair.
func driftFound(o Outcome) Outcome {
	o.Result, o.Took, o.Spent = Unprotected, time.Since(o.Began), [len(Stages)]time.Duration{}
	o.Err = fmt.Errorf("the pod's rules were changed: %s", o.some())
	return o
}

// applyAndVerify applies the plan, and reads the kernel to prove that it is there.
func (e *Enforcer) applyAndVerify(ctx context.Context, ns entered, o *Outcome) error {
	if err := e.supersede(ctx, ns, o); err != nil {
		return err
	}
	if err := e.apply(ctx, ns, o); err != nil {
		return err
	}
	whole, err := e.inspect(ctx, ns, o)
	if err == nil && !whole {
		err = fmt.Errorf("the kernel does not hold what was written: %s", o.some())
	}
	return err
}

// inspect reports whether the namespace holds exactly the plan, and if so remembers the sandbox as protected. In the
// kernel it changes nothing but the label.
func (e *Enforcer) inspect(ctx context.Context, ns entered, o *Outcome) (whole bool, err error) {
	if err := o.step(ctx, StageVerify); err != nil {
		return false, err
	}
	seen, held, err := e.matchesEvidence(ctx, ns, o)
	if err != nil {
		return false, err
	}
	if !held {
		if o.Differences, err = e.differences(ctx, ns, o); err != nil || len(o.Differences) > 0 {
			return false, err
		}
		seen = e.learn(ctx, ns, o, seen)
	}
	if err := ctx.Err(); err != nil { // nobody waits for the result, so it must not be recorded
		return false, fmt.Errorf("%w after a look that took too long: %w", errGivenUp, err)
	}
	return true, e.markProtected(ns, o, seen.generation)
}

// reading identifies a namespace's rules: the fingerprint compares them with other namespaces', the generation shows
// whether anything was written since.
type reading struct{ fingerprint, generation string }

func (e *Enforcer) read(ctx context.Context, ns entered) (r reading, err error) {
	r.fingerprint, r.generation, err = e.firewall.Fingerprint(ctx, ns.Namespace)
	return r, err
}

// matchesEvidence is the cheap verification: the fingerprint is one that was seen on a namespace holding the same plan,
// and the plan's routes and addresses are there.
func (e *Enforcer) matchesEvidence(ctx context.Context, ns entered, o *Outcome) (seen reading, held bool, err error) {
	if seen, err = e.read(ctx, ns); err != nil {
		return seen, false, err
	}
	if !e.sandboxes.proves(evidence{o.key, seen.fingerprint}) {
		return seen, false, nil
	}
	routed, err := ns.routes.Verify(o.Plan)
	return seen, err == nil && len(routed) == 0, err
}

// learn remembers the fingerprint of a namespace that was just verified, unless somebody wrote there in between: then it
// proves nothing.
func (e *Enforcer) learn(ctx context.Context, ns entered, o *Outcome, before reading) reading {
	still := e.ifUnchanged(ctx, ns, before)
	if still.fingerprint != "" {
		e.sandboxes.learn(evidence{o.key, still.fingerprint})
	}
	return still
}

// ifUnchanged returns the reading where nobody wrote since, else the zero reading.
func (e *Enforcer) ifUnchanged(ctx context.Context, ns entered, before reading) reading {
	generation, err := e.firewall.Generation(ctx, ns.Namespace)
	if err != nil || generation != before.generation {
		return reading{}
	}
	return before
}

// matchesLabel reports whether the namespace holds exactly the rules that its label names: those that an earlier meshnetd,
// or one with another configuration, verified there. The sandbox is then remembered as outdated. A pod with NET_ADMIN can
// write a label too, so this is asked only at a takeover, and while another meshnetd runs.
func (e *Enforcer) matchesLabel(ctx context.Context, ns entered, o *Outcome) (bool, error) {
	label, err := ns.routes.Label()
	if err != nil || label == "" { // read first, since nothing else can fail then: most pods of others end here
		return false, err
	}
	seen, err := e.read(ctx, ns)
	if err != nil {
		return false, err
	}
	own, err := e.own(ctx, ns)
	if err != nil {
		return false, err
	}
	if own.Rules() == 0 || own.Key() != label {
		return false, nil
	}
	e.adopt(o, own)
	if o.network, err = network(ns, o.Pod); err != nil {
		return false, err
	}
	o.planned(own.WithIPv6Around(o.network))
	o.Result, o.Err, o.Outdated, o.Differences = Protected, nil, true, nil
	e.remember(o, StateOutdated, e.ifUnchanged(ctx, ns, seen).generation)
	return true, nil
}

// adopt fits the decision about a pod to the rules that it has: the meshes that wrote them decide, and the rules say
// whose traffic they let pass. Policies and switches of today's configuration do not count against them.
func (e *Enforcer) adopt(o *Outcome, plan rules.Plan) {
	writers := o.node.OnlyWritersOf(plan)
	wrote := func(mesh rules.Mesh) bool { return mesh.Name() == o.Decision.Mesh }
	if o.Decision.Action != rules.Enrol || !slices.ContainsFunc(writers.Meshes, wrote) {
		o.node, o.node.Annotations = writers, nil
		again := *o
		again.Result, again.Err = "", nil
		e.decide(&again)
		o.Decision = again.Decision
	}
	o.Decision.Proxy = o.Decision.Proxy.IdentifiedBy(plan)
}

// markProtected labels the namespace with the plan it was read to hold, and remembers the sandbox.
func (e *Enforcer) markProtected(ns entered, o *Outcome, generation string) error {
	if err := ns.routes.SetLabel(o.key); err != nil {
		return err
	}
	known, _ := e.sandboxes.get(o.Pod.SandboxID)
	state := StateProtected
	if o.Outdated = known.State == StateOutdated && known.key == o.key; o.Outdated {
		state = StateOutdated
	}
	o.Result = Protected
	e.remember(o, state, generation)
	return nil
}

func (e *Enforcer) remember(o *Outcome, state State, generation string) {
	detail := o.Decision.Detail
	if o.Err != nil {
		detail = o.Err.Error()
	}
	pod := e.policy.Load().Node.Remembered(o.Pod, o.Decision)
	if o.Decision.Reason != rules.ReasonInitContainer { // known from containers that need not be kept
		pod.Containers = e.refining(pod.Containers)
	}
	e.sandboxes.update(pod.SandboxID, func(sb *Sandbox) {
		*sb = Sandbox{Pod: pod, State: state, Decision: o.Decision, Plan: o.Plan, key: o.key, network: o.network, NetNS: o.NetNS, Since: time.Now(),
			Took: time.Since(o.Began), Detail: detail, Admitted: sb.Admitted, Drift: sb.Drift, node: o.node,
			Changes: sb.Changes, reviewed: sb.reviewed, required: sb.required,
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
