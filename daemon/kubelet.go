// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// Kubelet knows of pods what the runtime tells late, or never.
type Kubelet interface {
	// Pod returns what is known of a pod that is about to run, or of which a container is: "" is its sandbox. It may ask for a moment.
	Pod(ctx context.Context, uid, container string) (rules.Pod, bool)
	// Known returns what is known of a pod at once.
	Known(uid string) (rules.Pod, bool)
}

// decideSpecified decides once more about a pod that belongs to the mesh and of which nothing was known, by what the kubelet
// says of it, too.
func (e *Enforcer) decideSpecified(ctx context.Context, o outcome.Look) outcome.Look {
	if e.Kubelet == nil || o.Result == lifecycle.Failed || o.Result == lifecycle.Skipped && o.Want != lifecycle.WantNone || !o.Waited {
		return o
	}
	spec, _ := e.Kubelet.Pod(ctx, o.Pod.UID, o.Container)
	if !spec.About(o.Pod) {
		return o
	}
	o.Spec = spec
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

// specified has the look at a container know what the kubelet says of its pod, and completes the container by that. Where it has
// not told of the container, and its word matters, it is asked: once a look.
func (e *Enforcer) specified(ctx context.Context, o outcome.Look, known memory.Sandbox, c rules.Container) (outcome.Look, rules.Container) {
	spec, _ := specification(e.Kubelet, o.Pod.UID)
	if untold := spec.Unreadable != "" || spec.Container(c.Name) == nil; untold && e.minds(o, known.Decision, c) {
		if asked, ok := e.Kubelet.Pod(ctx, o.Pod.UID, c.Name); ok {
			spec = asked
		}
	}
	if spec.About(o.Pod) {
		o.Spec = spec
	}
	return o, completed(o, c)
}

// minds reports whether what only the kubelet can say of a container decides anything about it: as whom it runs, as it is created.
func (e *Enforcer) minds(o outcome.Look, d rules.Decision, c rules.Container) bool {
	by := e.policy.Load()
	identity := o.Trigger != lifecycle.ContainerStarted && by.Identity(o.Pod) != config.IdentityOff && untoldUser(c)
	return e.Kubelet != nil && d.Action == rules.Enrol && (identity || by.Node.Refusing(o.Pod.Namespace, d).Bars())
}

// completed completes a container that the runtime is about to create by what the kubelet says of it.
func completed(o outcome.Look, c rules.Container) rules.Container {
	if listed := o.Spec.Container(c.Name); listed != nil {
		return c.With(*listed)
	}
	return c
}

// checkPowers refuses a container of a sandbox that is well for what the pod's specification gives to it, where the node refuses
// that today: when the sandbox was made nobody may have asked the kubelet, or refused that, or known what the container runs.
func (e *Enforcer) checkPowers(o outcome.Look, c rules.Container) outcome.Look {
	d := e.policy.Load().Node.Refusing(o.Pod.Namespace, o.Decision)
	if !o.Result.Admits() || !d.Bars() || o.Spec.UID == "" {
		return o
	}
	pod := o.Pod
	pod.Containers = []rules.Container{c}
	pod, c = pod.With(o.Spec), completed(o, c)
	known, _ := e.sandboxes.Get(pod.SandboxID)
	listed := o.Spec.Container(c.Name) != nil
	switch {
	case !listed && o.Trigger == lifecycle.ContainerStarted:
		return o // for good, where it has been judged already, and the answer comes too late
	case pod.Unreadable != "": // nor does anybody know which of its containers are new
	case !listed:
		o.Untold = true
		return o.Rejecting(rules.ReasonBypass, errors.New(d.Untold(c.Name)))
	case known.Found && !d.Late(c):
		return o
	case !d.Late(c):
		d = d.BarringAs(o.Decision) // what nobody refused when it was enrolled may run
	case known.Spared(d):
		pod.Containers = []rules.Container{c}
	}
	if why := alsoPoses(d.Barred(pod, c.Name), d, c); why != "" {
		return o.Rejecting(rules.ReasonBypass, errors.New(why))
	}
	return o
}

// contradiction says in what a container of the mesh differs from what its pod's specification says. What the runtime creates
// counts.
func contradiction(o outcome.Look, c rules.Container) string {
	listed := o.Spec.Container(c.Name)
	if o.Result != lifecycle.Protected || listed == nil {
		return ""
	}
	what := c.Contradicts(*listed)
	if len(what) == 0 {
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
func (e *Enforcer) bypassOf(o outcome.Look, c rules.Container) string {
	d := e.policy.Load().Node.Refusing(o.Pod.Namespace, o.Decision)
	if o.Result != lifecycle.Protected || !d.Late(c) {
		return ""
	}
	pod := o.Pod.With(o.Spec)
	pod.Containers = []rules.Container{c}
	return alsoPoses(sayBypasses(d.Bypasses(pod)), d, c)
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
