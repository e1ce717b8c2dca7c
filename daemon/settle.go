// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
)

// settle looks into the pod's namespace, changes what has to be changed, and remembers the result.
func (e *Enforcer) settle(ctx context.Context, o *Outcome) error {
	err := e.visit(ctx, o, func(ns *netns.Namespace) error {
		// Decided again: with the lock held, nobody learns more about this pod meanwhile.
		known, _ := e.sandboxes.get(o.Pod.SandboxID)
		o.Known = known.enrolled()
		o.Pod.Containers = overlay(known.Pod.Containers, o.Pod.Containers)
		o.Stage = StageDecide
		e.decide(o)
		switch {
		case o.Result == Skipped && o.Known:
			if err := e.clear(ctx, ns, o); err != nil {
				return err
			}
			e.exempt(*o)
		case o.undecided():
			if e.overtaken(o, known.Users); o.Result == Refused {
				return nil
			}
			if err := e.plan(ns, o); err != nil {
				return err
			}
			o.Refined = o.Known && known.Plan.Key() != o.Plan.Key()
			return e.protect(ctx, ns, o)
		}
		return nil
	})
	if known, _ := e.sandboxes.get(o.Pod.SandboxID); errors.Is(err, netns.ErrHost) && !known.enrolled() {
		// CRI-O gives hostNetwork pods a path: only now it is known what it leads to. A sandbox that had a
		// namespace of its own is no such pod.
		o.Pod.HostNetwork = true
		o.Decision = e.policy.Load().Node.Decide(o.Pod)
		o.Result = Skipped
		return nil
	}
	return err
}

// overtaken refuses a proxy that runs as a container does which was let through before it: rules for that
// proxy would let this container go around the mesh.
func (e *Enforcer) overtaken(o *Outcome, earlier []rules.Container) {
	if o.Trigger != ContainerCreated || e.policy.Load().ProxyIdentity != config.IdentityRefuse {
		return
	}
	for _, c := range earlier {
		if o.Impostor = o.Decision.Impostor(c); o.Impostor != "" {
			o.Result, o.Err = Refused, errors.New(o.Impostor)
			return
		}
	}
}

// protect makes the namespace hold the plan. What was there before meshnetd looked is treated as the
// configuration says: rules of a running pod are not changed without being asked.
func (e *Enforcer) protect(ctx context.Context, ns *netns.Namespace, o *Outcome) error {
	policy := e.policy.Load()
	switch o.Trigger {
	case SandboxStarted, ContainerCreated, ByHand:
		return e.make(ctx, ns, o)
	case ContainerValidated, Takeover, Audited:
	}
	condition, err := e.inspect(ctx, ns, o)
	if err != nil {
		return err
	}
	o.Drifted = condition == broken && o.Known
	switch {
	case condition == whole:
		return nil
	case condition == outdated && (o.Trigger != Takeover || !policy.ReplaceOutdated):
		return nil
	case o.Trigger == ContainerValidated:
		return fmt.Errorf("the sandbox has lost its rules: %s", strings.Join(o.Differences, "; "))
	case o.Trigger == Takeover && condition == broken && o.running() && policy.CatchUp != config.CatchUpApply,
		o.Trigger == Audited && policy.OnDrift != config.DriftRepair:
		o.Result = Unprotected
		o.Err = fmt.Errorf("the kernel does not hold the pod's rules: %s", strings.Join(o.Differences, "; "))
		e.remember(o, StateUnprotected, "")
		return nil
	case o.Drifted && o.Trigger == Audited:
		e.record(found(*o))
	}
	return e.make(ctx, ns, o)
}

// found is the outcome that says what was found, before it is repaired.
func found(o Outcome) Outcome {
	o.Result = Unprotected
	o.Err = fmt.Errorf("the pod's rules were changed: %s", strings.Join(o.Differences, "; "))
	return o
}

// make applies the plan, and proves by reading the kernel that it is there.
func (e *Enforcer) make(ctx context.Context, ns *netns.Namespace, o *Outcome) error {
	fingerprint, held, err := e.held(ctx, ns, o.Plan)
	if err != nil {
		return err
	}
	if !held {
		if err := e.apply(ctx, ns, o); err != nil {
			return err
		}
		if fingerprint, held, err = e.held(ctx, ns, o.Plan); err != nil {
			return err
		}
	}
	if !held {
		diffs, err := e.differences(ctx, ns, o)
		if err != nil {
			return err
		}
		if len(diffs) > 0 {
			return fmt.Errorf("the kernel does not hold what was written: %s", strings.Join(diffs, "; "))
		}
		fingerprint = e.learn(ctx, ns, o.Plan, fingerprint)
	}
	return e.protected(ns, o, fingerprint)
}

// condition is how a namespace holds the rules of its pod.
type condition int

const (
	whole    condition = iota // exactly the plan
	outdated                  // exactly another plan that meshnetd verified there
	broken
)

// inspect reads the kernel and changes nothing but the label. It remembers what needs no change.
func (e *Enforcer) inspect(ctx context.Context, ns *netns.Namespace, o *Outcome) (condition, error) {
	o.Stage = StageVerify
	fingerprint, held, err := e.held(ctx, ns, o.Plan)
	if err != nil {
		return broken, err
	}
	if held {
		return whole, e.protected(ns, o, fingerprint)
	}
	if o.Differences, err = e.differences(ctx, ns, o); err != nil {
		return broken, err
	}
	if len(o.Differences) == 0 {
		return whole, e.protected(ns, o, e.learn(ctx, ns, o.Plan, fingerprint))
	}
	certified, err := e.certified(ctx, ns)
	if err != nil {
		return broken, err
	}
	if !certified {
		return broken, nil
	}
	o.Result, o.Outdated = Protected, true
	e.remember(o, StateOutdated, e.still(ctx, ns, fingerprint))
	return outdated, nil
}

// held compares what costs little: a fingerprint that a namespace had which held the same plan, and the
// plan's routes and addresses.
func (e *Enforcer) held(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (fingerprint string, held bool, err error) {
	if fingerprint, err = e.firewall.Fingerprint(ctx, ns); err != nil {
		return "", false, err
	}
	if !e.sandboxes.proves(evidence{plan.Key(), fingerprint}) {
		return fingerprint, false, nil
	}
	routed, err := routes(ns, plan)
	return fingerprint, err == nil && len(routed) == 0, err
}

// learn remembers the fingerprint of a namespace that was just read to hold the plan, if it was the same
// before and after: else somebody else writes there too, and it proves nothing.
func (e *Enforcer) learn(ctx context.Context, ns *netns.Namespace, plan rules.Plan, before string) string {
	fingerprint := e.still(ctx, ns, before)
	if fingerprint != "" {
		e.sandboxes.learn(evidence{plan.Key(), fingerprint})
	}
	return fingerprint
}

// still returns the fingerprint if the namespace has it still, else "".
func (e *Enforcer) still(ctx context.Context, ns *netns.Namespace, before string) string {
	after, err := e.firewall.Fingerprint(ctx, ns)
	if err != nil || after != before {
		return ""
	}
	return after
}

// certified tells whether the namespace holds exactly the rules that its label names: those that an
// earlier meshnetd, or one with another configuration, verified there.
func (e *Enforcer) certified(ctx context.Context, ns *netns.Namespace) (bool, error) {
	footprint := e.nothing().Footprint
	var label string
	var own rules.Plan
	err := ns.Do(func() (err error) {
		if label, err = routing.Label(); err == nil && label != "" {
			own, err = routing.Own(footprint)
		}
		return err
	})
	if err != nil || label == "" {
		return false, err
	}
	if own.V4, own.V6, err = e.firewall.Own(ctx, ns, footprint); err != nil {
		return false, err
	}
	return own.Key() == label, nil
}

// protected labels the namespace with the plan it was read to hold, and remembers the sandbox.
func (e *Enforcer) protected(ns *netns.Namespace, o *Outcome, fingerprint string) error {
	if err := ns.Do(func() error { return routing.SetLabel(o.Plan.Key()) }); err != nil {
		return err
	}
	o.Result, o.Outdated = Protected, false
	e.remember(o, StateProtected, fingerprint)
	return nil
}

func (e *Enforcer) remember(o *Outcome, state State, fingerprint string) {
	detail := o.Decision.Detail
	if o.Err != nil {
		detail = o.Err.Error()
	}
	pod := o.Pod
	pod.Containers = e.refining(pod.Containers)
	known, _ := e.sandboxes.get(pod.SandboxID)
	e.sandboxes.put(Sandbox{Pod: pod, State: state, Decision: o.Decision, Plan: o.Plan, NetNS: o.NetNS,
		Since: time.Now(), Took: time.Since(o.Began), Detail: detail,
		Users: overlay(known.Users, users(o.Pod.Containers...)), fingerprint: fingerprint})
}

// exempt remembers a pod that only its containers show to have no sidecar: the next container of it is
// not asked, and must not bring rules.
func (e *Enforcer) exempt(o Outcome) {
	if len(e.refining(o.Pod.Containers)) > 0 {
		e.remember(&o, StateExempt, "")
	}
}

// refining returns the containers that say more about their pod, with what they say only.
func (e *Enforcer) refining(containers []rules.Container) []rules.Container {
	mesh := e.policy.Load().Node.Mesh
	var refining []rules.Container
	for _, c := range containers {
		if mesh.Refines(c.Name) {
			refining = append(refining, rules.Container{Name: c.Name, Args: c.Args, Env: c.Env, UID: c.UID, GID: c.GID})
		}
	}
	return refining
}

// clear takes the rules out of the namespace.
func (e *Enforcer) clear(ctx context.Context, ns *netns.Namespace, o *Outcome) error {
	o.Plan = e.nothing()
	if err := e.apply(ctx, ns, o); err != nil {
		return err
	}
	diffs, err := e.differences(ctx, ns, o)
	if err != nil {
		return err
	}
	if len(diffs) > 0 {
		return fmt.Errorf("the rules could not be taken out: %s", strings.Join(diffs, "; "))
	}
	return ns.Do(func() error { return routing.SetLabel("") })
}

func (e *Enforcer) apply(ctx context.Context, ns *netns.Namespace, o *Outcome) error {
	o.Stage = StageApply
	changed, err := e.firewall.Apply(ctx, ns, o.Plan)
	if err != nil {
		return err
	}
	var moved bool
	err = ns.Do(func() (err error) {
		moved, err = routing.Apply(o.Plan)
		return err
	})
	o.Changed = changed || moved
	return err
}

func (e *Enforcer) differences(ctx context.Context, ns *netns.Namespace, o *Outcome) ([]string, error) {
	o.Stage = StageVerify
	found, err := e.firewall.Verify(ctx, ns, o.Plan)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, d := range found {
		diffs = append(diffs, d.String())
	}
	more, err := routes(ns, o.Plan)
	return append(diffs, more...), err
}

// routes returns how the namespace does not hold the plan's policy rules, routes and addresses.
func routes(ns *netns.Namespace, plan rules.Plan) (diffs []string, err error) {
	err = ns.Do(func() (err error) {
		diffs, err = routing.Verify(plan)
		return err
	})
	return diffs, err
}
