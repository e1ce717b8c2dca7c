// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/daemon/sharing"
	"github.com/meshnetd/meshnetd/rules"
)

// Admit makes sure, before a container is created, that its sandbox holds the pod's rules, and says why it
// must not be created. For a sandbox that was verified this is a look-up, unless the container says more
// about its pod than was known: then the rules are made again.
func (e *Enforcer) Admit(ctx context.Context, pod rules.Pod, c rules.Container) outcome.Outcome {
	o := outcome.Begin(lifecycle.ContainerCreated, pod)
	o.Container = c.Name
	known, ok := e.expected(ctx, pod)
	o, c = e.specified(ctx, o, known, c)
	settled := ok && known.Covers(pod, e.policy.Load().Refining([]rules.Container{c}))
	if settled {
		o.Decision, o.Plan, o.NetNS = known.Decision, known.Plan, known.NetNS
		o.Result = lifecycle.Protected
		if known.State == lifecycle.StateExempt {
			o.Result = lifecycle.Skipped
		}
	} else {
		o.Pod.Containers = e.policy.Load().Refining([]rules.Container{c})
		o = e.enforce(ctx, o)
		c = completed(o, c) // of a sandbox that was not known the kubelet was asked only now
	}
	o = e.checkPowers(e.checkIdentity(o, c), c)
	if ids := policy.Identities(c); len(ids) > 0 && o.Error() == nil {
		// Kept for clashes: the proxy, whose ids are not redirected, may be created after this container.
		e.sandboxes.UpdateKnown(pod.SandboxID, func(sb *memory.Sandbox) { sb.Admitted = policy.Overlay(sb.Admitted, ids) })
	}
	e.notice(o.Outcome, outcome.EventContradicted, contradiction(o, c))
	e.notice(o.Outcome, outcome.EventBypass, e.bypassOf(o, c))
	e.report(o)
	return o.Outcome
}

// expected returns what is known of a sandbox. One that is pending is taken over first, so that rules it holds already
// are not replaced on a container's account.
func (e *Enforcer) expected(ctx context.Context, pod rules.Pod) (memory.Sandbox, bool) {
	known, ok := e.sandboxes.Get(pod.SandboxID)
	if known.State == lifecycle.StatePending {
		o := outcome.Begin(lifecycle.Takeover, pod)
		o.Waited = true
		e.report(e.takeOver(ctx, o))
		known, ok = e.sandboxes.Get(pod.SandboxID)
	}
	return known, ok
}

// checkIdentity looks for a container that runs as the proxy without being it: its traffic would go around the mesh.
func (e *Enforcer) checkIdentity(o outcome.Look, c rules.Container) outcome.Look {
	wanted := e.policy.Load().Identity(o.Pod)
	if !o.Result.Admits() || wanted == config.IdentityOff {
		return o
	}
	if o.Impostor = cmp.Or(o.Decision.Impostor(c), hidesUser(&o, c)); o.Impostor == "" {
		return o
	}
	if wanted == config.IdentityRefuse {
		return o.Rejecting("", errors.New(o.Impostor))
	}
	e.notice(o.Outcome, outcome.EventImpostor, o.Impostor)
	return o
}

// Validate reads the kernel when every plugin has had its say about a container, and says why it must not
// be created: its sandbox has lost its rules, or it is not to join its sandbox's network namespace.
func (e *Enforcer) Validate(ctx context.Context, pod rules.Pod, c rules.Container) outcome.Outcome {
	o := outcome.Begin(lifecycle.ContainerValidated, pod)
	o.Container = c.Name
	known, ok := e.expected(ctx, pod)
	o, c = e.specified(ctx, o, known, c)
	news := e.policy.Load().Refining([]rules.Container{c})
	if !ok || !known.Covers(pod, news) {
		// Not what was admitted: the sandbox is new to us, or another plugin changed the container.
		o.Trigger, o.Pod.Containers = lifecycle.ContainerCreated, news
		o = e.enforce(ctx, o)
		c = completed(o, c)
		o = e.checkIdentity(o, c)
	} else if known.State.Enrolled() {
		o = e.lookAgain(ctx, o, known)
	} else {
		o.Result = lifecycle.Skipped
	}
	o = e.checkPowers(o, c)
	if o.Result.Admits() {
		o = checkNetNS(o, c)
	}
	o = e.review(o, c.Review)
	o.End()
	e.report(o)
	return o.Outcome
}

// Outside reports whether the pod is one that no container of which is looked at when it starts. It costs no system call,
// and no memory for a pod that bears no mark of a mesh.
func (e *Enforcer) Outside(pod rules.Pod) bool {
	if known, ok := e.sandboxes.Get(pod.SandboxID); ok {
		return known.State == lifecycle.StateExempt || known.State == lifecycle.StateSkipped
	}
	if !sharing.Light(pod) {
		return false // Start bounds what is decided about it
	}
	outside := false
	_ = recovered.Call(func() error { outside = e.policy.Load().Node.Decide(pod).Action == rules.Skip; return nil })
	return outside
}

// Start looks at a pod's namespace once more, when everything is done that can change it before the container runs: hooks of
// the runtime come after Validate. Rules that were changed are written again, whatever becomes of drift otherwise, and the
// container goes on; a start that is refused is final where pods are not started anew. unheeded says why the runtime may not
// heed an error; "" where it does.
func (e *Enforcer) Start(ctx context.Context, pod rules.Pod, container, unheeded string) outcome.Outcome {
	o := outcome.Begin(lifecycle.ContainerStarted, pod)
	o.Container, o.Unheeded = container, unheeded
	known, ok := e.expected(ctx, pod)
	o, c := e.specified(ctx, o, known, rules.Container{Name: container})
	if ok {
		o = e.lookAgain(ctx, o, known)
	} else {
		o = e.enforce(ctx, o)
	}
	o = e.checkPowers(o, c)
	if o.End(); o.Error() == nil {
		o.Unheeded = ""
	}
	e.report(o)
	return o.Outcome
}

// lookAgain looks at a sandbox that is known: with its lock held, and by the table, only where anything changed since it was
// verified.
func (e *Enforcer) lookAgain(ctx context.Context, o outcome.Look, known memory.Sandbox) outcome.Look {
	return e.try(ctx, o, func(ctx context.Context, o *outcome.Look) error {
		o.Enter(outcome.StageVerify)
		if o.Trigger == lifecycle.Audited {
			e.count(ctx, known, o.Outcome)
		}
		if known.Pod.NetNS == o.Pod.NetNS && known.Generation != "" {
			if intact, err := e.visitor.Intact(ctx, known); err == nil && intact {
				confirm(o, known)
				return nil
			}
		}
		return e.reconcile(ctx, o)
	})
}

// confirm gives the outcome what is known of a sandbox whose rules nobody touched.
func confirm(o *outcome.Look, known memory.Sandbox) {
	o.Decided = true
	o.Decision, o.Plan, o.NetNS, o.Result = known.Decision, known.Plan, known.NetNS, lifecycle.Protected
	if known.State == lifecycle.StateUnproven {
		o.Result = lifecycle.Unproven
	}
}

// checkNetNS refuses a container that is to run in another network namespace than its sandbox's.
func checkNetNS(o outcome.Look, c rules.Container) outcome.Look {
	refuse := func(format string, args ...any) outcome.Look {
		return o.Rejecting(rules.ReasonOtherNetNS, fmt.Errorf(format, args...))
	}
	if c.MovedBy != "" {
		return refuse("%s gives it another network namespace than its sandbox's (%q), where the pod's rules are not", c.MovedBy, c.NetNS)
	}
	// A path of the runtime's own may not be visible here; then there is nothing to compare.
	var st unix.Stat_t
	if c.NetNS != "" && unix.Stat(c.NetNS, &st) == nil {
		if id := (netns.ID{Dev: st.Dev, Ino: st.Ino}); id != o.NetNS {
			return refuse("the runtime gives it the network namespace %s (%s), and the pod's rules are in %s", c.NetNS, id, o.NetNS)
		}
	}
	return o
}
