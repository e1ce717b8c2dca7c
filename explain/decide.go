// SPDX-License-Identifier: Apache-2.0

// Package explain says what a pod gets and why: its plan, its reasons, and the way of a packet.
package explain

import (
	"fmt"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Node asks the meshes that are switched on, and knows the rules of all.
func Node(cfg config.Config) rules.Node {
	n := rules.Node{RuntimeHandlers: cfg.RuntimeHandlers, ProxyImages: cfg.ProxyImages, Annotations: cfg.Annotations, Budget: cfg.Budget, Origin: cfg.Origin,
		RefusePowers: cfg.Bypass == config.BypassRefuse, PowersExempt: cfg.BypassExempt,
		Policies: cfg.Policies, Lockdowns: cfg.Lockdowns, Loosening: effect.NewLoosening()}
	n.Meshes, n.Disabled = cfg.Pods()
	return n
}

// View is what plan shows.
type View struct {
	Pod      rules.Pod
	Decision rules.Decision
	Plan     rules.Plan
	Barred   []string // those of the plan's notes that say which containers the daemon would refuse
}

func Plan(cfg config.Config, pod rules.Pod) View {
	return Decided(cfg, pod, Node(cfg).Decide(pod))
}

// Decided is a pod of which a manifest alone is known, with the plan that the decision leads to.
func Decided(cfg config.Config, pod rules.Pod, d rules.Decision) View {
	return View{Pod: pod, Decision: d}.Planned(rules.Network{Addresses: pod.IPs}).noting(cfg)
}

// Planned adds the plan for this network.
func (v View) Planned(network rules.Network) View {
	if v.Decision.Action != rules.Enrol {
		return v
	}
	plan, err := v.Decision.Planner(network)
	if err != nil {
		v.Decision.Action, v.Decision.Reason, v.Decision.Detail = rules.Reject, rules.ReasonBadInput, err.Error()
	}
	v.Plan = plan
	return v
}

// Refused reports whether the daemon would refuse the pod, or a container of it.
func (v View) Refused() bool { return v.Decision.Action == rules.Reject || len(v.Barred) > 0 }

// noting adds what a manifest does not say for sure, and what the daemon would do with containers that run as the
// proxy without being it.
func (v View) noting(cfg config.Config) View {
	if class := v.Pod.RuntimeHandler; class != "" && v.Decision.Action != rules.Skip {
		v.Plan.Notes = append(v.Plan.Notes, fmt.Sprintf("runtimeClassName %s is taken for the name of its handler: kubectl get runtimeclass %s", class, class))
	}
	if v.Decision.Action != rules.Enrol {
		return v
	}
	policy := cfg.ProxyIdentity.In(v.Pod.Namespace, cfg.IdentityExempt)
	var fate string
	switch {
	case cfg.ProxyIdentity == config.IdentityOff:
		return v
	case policy == config.IdentityRefuse:
		fate = fmt.Sprintf("would be refused (proxy_identity = %q)", policy)
	case policy == config.IdentityReport:
		fate = fmt.Sprintf("would be created, and reported (proxy_identity = %q)", policy)
	default:
		fate = fmt.Sprintf("would be created, since proxy_identity_exempt has namespace %s", v.Pod.Namespace)
	}
	for _, c := range v.Pod.Containers {
		why := v.Decision.Impostor(c)
		if why == "" {
			continue
		}
		v.Plan.Notes = append(v.Plan.Notes, fate+": "+why)
		if policy == config.IdentityRefuse {
			v.Barred = append(v.Barred, fate+": "+why)
		}
	}
	return v
}
