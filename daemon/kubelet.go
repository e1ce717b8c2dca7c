// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
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
func (e *Enforcer) decideSpecified(ctx context.Context, o outcome.Look) outcome.Look {
	if e.Kubelet == nil || o.Result == lifecycle.Failed || o.Result == lifecycle.Skipped && o.Want != lifecycle.WantNone || !o.Waited {
		return o
	}
	spec, ok := e.Kubelet.Pod(ctx, o.Pod.UID)
	if !ok {
		return o
	}
	o.Pod, o.Result, o.Err, o.Want = o.Pod.With(spec), "", nil, lifecycle.Undecided
	return e.decideUnknown(ctx, o)
}

// specification is what the kubelet says of a pod at once; false where that is nothing.
func specification(k Kubelet, uid string) (spec rules.Pod, known bool) {
	if k == nil {
		return rules.Pod{}, false
	}
	return k.Known(uid)
}

// completed completes a container that the runtime is about to create by what the kubelet says of it, and returns that too.
func completed(k Kubelet, pod rules.Pod, c rules.Container) (rules.Container, rules.Container) {
	known, _ := specification(k, pod.UID)
	listed := known.Container(c.Name)
	if listed == nil || known.Namespace != pod.Namespace || known.Name != pod.Name {
		return c, rules.Container{}
	}
	return c.With(*listed), *listed
}

// contradiction says in what a container of the mesh differs from what its pod's specification says. What the runtime creates
// counts.
func contradiction(o outcome.Outcome, c, spec rules.Container) string {
	what := c.Contradicts(spec)
	if o.Result != lifecycle.Protected || len(what) == 0 {
		return ""
	}
	return "the runtime creates the container otherwise than the pod's specification says, and that counts: " + judge.Short(strings.Join(what, "; "))
}

// bypass says which containers of a pod can go around its rules, before the first of them is created.
func bypass(o outcome.Outcome) string {
	all := o.Decision.Bypasses(o.Pod)
	if o.Trigger != lifecycle.SandboxStarted || o.Result != lifecycle.Protected || len(all) == 0 {
		return ""
	}
	return "the pod can go around its rules, by what its specification gives to " + rules.SayBypasses(all)
}
