// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
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

// checkPowers refuses a container of a sandbox that is well for what the pod's specification gives to it, where what enrolled the
// pod refuses that: by then nobody may have asked the kubelet, or the runtime had not told yet what the container runs.
func (e *Enforcer) checkPowers(ctx context.Context, o outcome.Look, c rules.Container) outcome.Look {
	if e.Kubelet == nil || !o.Result.Admits() || !o.Decision.Bars() {
		return o
	}
	spec, told := e.Kubelet.Known(o.Pod.UID)
	if (!told || spec.Unreadable != "") && o.Trigger == lifecycle.ContainerCreated {
		spec, told = e.Kubelet.Pod(ctx, o.Pod.UID)
	}
	pod := o.Pod
	pod.Containers = []rules.Container{c}
	pod = pod.With(spec)
	c = *pod.Container(c.Name)
	known, _ := e.sandboxes.Get(pod.SandboxID)
	switch {
	case !told:
		return o
	case known.Found && !o.Decision.Late(c):
		return o // it may have run before
	case known.Found:
		pod.Containers = []rules.Container{c}
	}
	if why := alsoPoses(o.Decision.Barred(pod, c.Name), o.Decision, c); why != "" {
		return o.Rejecting(rules.ReasonBypass, errors.New(why))
	}
	return o
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
	if o.Trigger != lifecycle.SandboxStarted || o.Result != lifecycle.Protected {
		return ""
	}
	return sayBypasses(o.Decision.Bypasses(o.Pod))
}

// bypassOf says how a container that is created can go around its pod's rules, where the pod's sandbox could not show that.
func (e *Enforcer) bypassOf(o outcome.Outcome, c rules.Container) string {
	if o.Result != lifecycle.Protected || !o.Decision.Late(c) {
		return ""
	}
	spec, _ := specification(e.Kubelet, o.Pod.UID)
	pod := o.Pod.With(spec)
	pod.Containers = []rules.Container{c}
	return alsoPoses(sayBypasses(o.Decision.Bypasses(pod)), o.Decision, c)
}

func sayBypasses(all []rules.Bypass) string {
	if len(all) == 0 {
		return ""
	}
	return "the pod can go around its rules, by what its specification gives to " + rules.SayBypasses(all)
}

// alsoPoses adds to what is said of a container that it is not the proxy, although its name is.
func alsoPoses(text string, d rules.Decision, c rules.Container) string {
	if poses := d.Poses(c); text != "" && poses != "" {
		return text + "; " + poses
	}
	return text
}
