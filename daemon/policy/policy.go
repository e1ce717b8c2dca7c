// SPDX-License-Identifier: Apache-2.0

// Package policy says what is wanted for a pod: by what the configuration says, and what the pod and its containers say. It is
// pure: it looks at nothing, and what a mesh makes of a pod's inputs is bounded by its caller.
package policy

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

// Case is a pod and what was decided about it.
type Case struct {
	Pod      rules.Pod
	Node     rules.Node // that decides; the policy's where it is the zero Node
	Decision rules.Decision
	Result   lifecycle.Result // Open where it is still to come
	Err      error            // of Refused and Failed
}

// Decide decides about the pod. Where a mesh fails, the decision is that of before.
func (p *Policy) Decide(c Case) Case {
	if c.Node.Meshes == nil {
		c.Node = p.Node
	}
	c.Result, c.Err = lifecycle.Open, nil
	if err := recovered.Call(func() error { c.Decision = c.Node.Decide(c.Pod); return nil }); err != nil {
		c.Result, c.Err = lifecycle.Failed, err
		return c
	}
	if c.Decision.Action == rules.Enrol && c.Pod.NetNS == "" {
		c.Decision.Action, c.Decision.Reason = rules.Reject, rules.ReasonNoNetNS
		c.Decision.Detail = "the runtime names no network namespace for the sandbox, so there is nothing to put rules into"
	}
	switch c.Decision.Action {
	case rules.Enrol: // its result is still to come
	case rules.Skip:
		c.Result = lifecycle.Skipped
	case rules.Reject:
		c.Result, c.Err = lifecycle.Refused, errors.New(c.Decision.Detail)
	}
	return c
}

// Want says what the decision asks for.
func (p *Policy) Want(c Case) lifecycle.Want {
	switch {
	case p.shownByContainers(c):
		return lifecycle.WantNone
	case c.Result == lifecycle.Skipped && c.Node.ClaimedByDisabled(c.Pod):
		return lifecycle.WantFormer
	case c.Result == lifecycle.Skipped && (c.Decision.Marked || c.Decision.Unmeshed != ""):
		return lifecycle.WantMarked
	case c.Result == lifecycle.Skipped:
		return lifecycle.WantNothing
	case c.Decision.Action == rules.Reject:
		return lifecycle.WantReject
	}
	return lifecycle.WantRules
}

// Clash says which of the containers that were let through has the user or group of a proxy that is another one than before:
// rules for this proxy would let that container go around the mesh. "" is none.
func (p *Policy) Clash(pod rules.Pod, was, is rules.Decision, admitted []rules.Container) string {
	if was.Proxy.UID == is.Proxy.UID && was.Proxy.GID == is.Proxy.GID || p.Identity(pod) != config.IdentityRefuse {
		return ""
	}
	for _, c := range admitted {
		if impostor := is.Impostor(c); impostor != "" {
			return impostor
		}
	}
	return ""
}

// shownByContainers reports whether a pod is skipped only because of what its containers say.
func (p *Policy) shownByContainers(c Case) bool {
	return c.Result == lifecycle.Skipped && len(c.Pod.Containers) > 0 && p.WithoutContainers(c).Result == lifecycle.Open
}

// WithoutContainers decides about the pod as if its containers were not known.
func (p *Policy) WithoutContainers(c Case) Case {
	c.Pod.Containers = nil
	return p.Decide(c)
}

// OwnInit reports whether a container shows that an init container of the pod's own writes its rules. The case then
// has that mesh's decision, whatever else there is against the pod. It is for pods that were there before meshnetd: in
// one that has our rules, a container of that name loosens them (rules.ReasonLoosened).
func (p *Policy) OwnInit(c Case, before bool) (Case, bool) {
	if !p.shownByContainers(c) && (!before || c.Decision.Reason != rules.ReasonLoosened) {
		return c, false
	}
	for _, mesh := range c.Node.Meshes {
		if d := mesh.Decide(c.Pod); d.Reason == rules.ReasonInitContainer {
			c.Decision, c.Result, c.Err = d, lifecycle.Skipped, nil
			c.Decision.Detail = "sets itself up: " + d.Detail + ", and what that wrote stays as it is"
			return c, true
		}
	}
	return c, false
}

// Adopt fits the decision about a pod to the rules that it has: the meshes that wrote them decide, and the rules say
// whose traffic they let pass. Policies and switches of today's configuration do not count against them.
func (p *Policy) Adopt(c Case, plan rules.Plan) Case {
	writers := c.Node.OnlyWritersOf(plan)
	wrote := func(mesh rules.Mesh) bool { return mesh.Name() == c.Decision.Mesh }
	if c.Decision.Action != rules.Enrol || !slices.ContainsFunc(writers.Meshes, wrote) {
		c.Node, c.Node.Annotations = writers, nil
		c.Decision = p.Decide(c).Decision
	}
	c.Decision.Proxy = c.Decision.Proxy.IdentifiedBy(plan)
	return c
}

// Refining returns the containers that say more about their pod, reduced to that.
func (p *Policy) Refining(containers []rules.Container) []rules.Container {
	return p.Saying(containers, p.Node.Refines)
}

// EnabledFootprint returns the footprint of every enabled mesh.
func (p *Policy) EnabledFootprint() rules.Footprint {
	return rules.Node{Meshes: p.Node.Meshes}.Footprint()
}

// Identity returns what to do with containers of the pod that run as the proxy without being it.
func (p *Policy) Identity(pod rules.Pod) config.Identity {
	return p.ProxyIdentity.In(pod.Namespace, p.IdentityExempt)
}
