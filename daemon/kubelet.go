// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
)

// Kubelet knows of pods what the runtime tells late, or never.
type Kubelet interface {
	// Pod returns what is known of a pod that is about to run, which it may ask for a moment.
	Pod(ctx context.Context, uid string) (rules.Pod, bool)
	// Known returns what is known of a pod at once.
	Known(uid string) (rules.Pod, bool)
}

// decideSpecified decides once more about a pod that belongs to the mesh and of which nothing was known, by what the kubelet
// says of it, too.
func (e *Enforcer) decideSpecified(ctx context.Context, o Outcome) Outcome {
	if e.Kubelet == nil || o.Result == Failed || !o.waited {
		return o
	}
	spec, ok := e.Kubelet.Pod(ctx, o.Pod.UID)
	if !ok {
		return o
	}
	o.Pod, o.Result, o.Err, o.want = o.Pod.With(spec), "", nil, lifecycle.Undecided
	return e.decideUnknown(ctx, o)
}

// sharesHost reports whether a pod that was there before has the host's network, as far as the kubelet tells: of all that
// it says, only this counts for a pod that runs already.
func (e *Enforcer) sharesHost(pod rules.Pod) bool {
	if e.Kubelet == nil || pod.HostNetwork {
		return pod.HostNetwork
	}
	spec, ok := e.Kubelet.Known(pod.UID)
	return ok && pod.With(spec).HostNetwork
}

// specified completes a container that the runtime is about to create by what the kubelet says of it, and returns that too.
func (e *Enforcer) specified(pod rules.Pod, c rules.Container) (completed rules.Container, spec rules.Container) {
	if e.Kubelet == nil {
		return c, rules.Container{}
	}
	known, ok := e.Kubelet.Known(pod.UID)
	if !ok || known.Namespace != pod.Namespace || known.Name != pod.Name {
		return c, rules.Container{}
	}
	listed := known.Container(c.Name)
	if listed == nil {
		return c, rules.Container{}
	}
	return c.With(*listed), *listed
}

// sayContradiction says in what a container of the mesh differs from what its pod's specification says. What the runtime
// creates counts.
func (e *Enforcer) sayContradiction(o Outcome, c, spec rules.Container) {
	if what := c.Contradicts(spec); o.Result == Protected && len(what) > 0 {
		e.record(o.noticing(EventContradicted, "the runtime creates the container otherwise than the pod's specification says, and that counts: "+judge.Short(strings.Join(what, "; "))))
	}
}

// sayBypass says which containers of a pod can go around its rules, before the first of them is created.
func (e *Enforcer) sayBypass(o Outcome) {
	if all := o.Decision.Bypasses(o.Pod); o.Trigger == SandboxStarted && o.Result == Protected && len(all) > 0 {
		e.record(o.noticing(EventBypass, "the pod can go around its rules, by what its specification gives to "+rules.SayBypasses(all)))
	}
}

// Bypasses returns the containers of a sandbox that can go around its rules, as far as the kubelet tells.
func (e *Enforcer) Bypasses(sb Sandbox) []rules.Bypass {
	if e.Kubelet == nil || !sb.enrolled() {
		return nil
	}
	spec, ok := e.Kubelet.Known(sb.Pod.UID)
	if !ok {
		return nil
	}
	return sb.Decision.Bypasses(sb.Pod.With(spec))
}
