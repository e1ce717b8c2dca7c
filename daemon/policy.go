// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"errors"
	"slices"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/rules"
)

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

// decide is the pure part: it makes no system call.
func (p *Policy) decide(o *Outcome) {
	if o.node.Meshes == nil {
		o.node = p.Node
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

// want says what the decision asks for.
func (p *Policy) want(o *Outcome) lifecycle.Want {
	switch {
	case p.shownByContainers(*o):
		return lifecycle.WantNone
	case o.Result == Skipped && o.node.ClaimedByDisabled(o.Pod):
		return lifecycle.WantFormer
	case o.Result == Skipped && (o.Decision.Marked || o.Decision.Unmeshed != ""):
		return lifecycle.WantMarked
	case o.Result == Skipped:
		return lifecycle.WantNothing
	case o.Decision.Action == rules.Reject:
		return lifecycle.WantReject
	}
	return lifecycle.WantRules
}

// clashes reports whether the proxy has the user or group of a container that was let through before: rules for this proxy
// would let that container go around the mesh.
func (p *Policy) clashes(o *Outcome, known Sandbox) bool {
	was, is := known.Decision.Proxy, o.Decision.Proxy
	if o.Trigger != ContainerCreated || (was.UID == is.UID && was.GID == is.GID) || p.identity(o.Pod) != config.IdentityRefuse {
		return false
	}
	for _, c := range known.Admitted {
		if o.Impostor = o.Decision.Impostor(c); o.Impostor != "" {
			o.Err = errors.New(o.Impostor)
			return true
		}
	}
	return false
}

// shownByContainers reports whether a pod is skipped only because of what its containers say.
func (p *Policy) shownByContainers(o Outcome) bool {
	if o.Result != Skipped || len(o.Pod.Containers) == 0 {
		return false
	}
	o = p.withoutContainers(o)
	return o.undecided()
}

// withoutContainers decides about the pod as if its containers were not known.
func (p *Policy) withoutContainers(o Outcome) Outcome {
	o.Pod.Containers, o.Result, o.Err = nil, "", nil
	p.decide(&o)
	return o
}

// hasOwnInitContainer reports whether a container shows that an init container of the pod's own writes its rules. The outcome then
// has that mesh's decision, whatever else there is against the pod. It is for pods that were there before meshnetd: in
// one that has our rules, a container of that name loosens them (rules.ReasonLoosened).
func (p *Policy) hasOwnInitContainer(o *Outcome, known Sandbox) bool {
	before := o.Trigger == Takeover || known.State == StateExempt || known.State == StatePending
	if !p.shownByContainers(*o) && (!before || o.Decision.Reason != rules.ReasonLoosened) {
		return false
	}
	for _, mesh := range o.node.Meshes {
		if d := mesh.Decide(o.Pod); d.Reason == rules.ReasonInitContainer {
			o.Decision, o.Result, o.Err = d, Skipped, nil
			o.Decision.Detail = "sets itself up: " + d.Detail + ", and what that wrote stays as it is"
			return true
		}
	}
	return false
}

// adopt fits the decision about a pod to the rules that it has: the meshes that wrote them decide, and the rules say
// whose traffic they let pass. Policies and switches of today's configuration do not count against them.
func (p *Policy) adopt(o *Outcome, plan rules.Plan) {
	writers := o.node.OnlyWritersOf(plan)
	wrote := func(mesh rules.Mesh) bool { return mesh.Name() == o.Decision.Mesh }
	if o.Decision.Action != rules.Enrol || !slices.ContainsFunc(writers.Meshes, wrote) {
		o.node, o.node.Annotations = writers, nil
		again := *o
		again.Result, again.Err = "", nil
		p.decide(&again)
		o.Decision = again.Decision
	}
	o.Decision.Proxy = o.Decision.Proxy.IdentifiedBy(plan)
}

// refining returns the containers that say more about their pod, reduced to that.
func (p *Policy) refining(containers []rules.Container) []rules.Container {
	return saying(containers, p.Node.Refines)
}

// enabledFootprint returns the footprint of every enabled mesh.
func (p *Policy) enabledFootprint() rules.Footprint {
	return rules.Node{Meshes: p.Node.Meshes}.Footprint()
}

// identity returns what to do with containers of the pod that run as the proxy without being it.
func (p *Policy) identity(pod rules.Pod) config.Identity {
	return p.ProxyIdentity.In(pod.Namespace, p.IdentityExempt)
}

// facts are what is known before anything is looked at.
func (p *Policy) facts(o Outcome, known Sandbox, canStop bool) lifecycle.Facts {
	return lifecycle.Facts{
		Trigger: o.Trigger, State: known.State, Lack: known.lack, Older: known.earlier, Ran: known.running,
		News: !known.knows(o.Pod.Containers) || known.news && o.Trigger == Takeover,
		Policy: lifecycle.Policy{
			Report:   p.CatchUp != config.CatchUpApply,
			Stop:     p.CatchUp == config.CatchUpStop && canStop,
			Leave:    p.OnDrift != config.DriftRepair,
			Replace:  p.ReplaceOutdated,
			Unheeded: o.Unheeded != "",
		},
	}
}
