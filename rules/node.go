// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Node is what the node can do for pods, and lets them ask for, whatever their mesh.
type Node struct {
	Meshes          []Mesh             // asked about every pod, in this order
	Disabled        []Mesh             // not asked, but their rules in running pods are recognised
	RuntimeHandlers []string           // handlers whose sandboxes use the node's kernel for their network
	ProxyImages     []string           // patterns of path.Match for the image of a proxy; none is any image
	Annotations     []AnnotationPolicy // the first that matches an annotation counts; without one it is allowed
	Loosening       Loosening          // nil: any plan that differs counts as looser
	RefusePowers    bool               // containers that were given a way around the rules are refused with their pod
	PowersExempt    []string           // patterns of path.Match for namespaces where they are not
	Budget          Budget             // of rules, and of annotations that a policy reads; the meshes have it too
	Policies        []CapturePolicy    // the first that matches a namespace counts
	Lockdowns       []Lockdown         // all that match a namespace count
	Addresses       []netip.Addr       // the node's own, from which the kubelet probes
	Origin          map[string]string  // where the configuration has a key, such as "/etc/meshnetd/meshnetd.toml:12", for Explain
}

// Loosening returns what a plan lets go that an earlier plan of the same pod takes, "" where that is nothing. It is called
// only where the plans differ.
type Loosening func(before, after Plan) string

// all returns every mesh that the node knows.
func (n Node) all() []Mesh { return slices.Concat(n.Meshes, n.Disabled) }

// Footprint tells the rules of every mesh that the node knows from others'.
func (n Node) Footprint() Footprint {
	var all []Footprint
	for _, mesh := range n.all() {
		all = append(all, mesh.Footprint())
	}
	return Union(all...)
}

// Refines reports whether a container of that name says more about its pod than the sandbox does, to any mesh that the
// node knows.
func (n Node) Refines(container string) bool {
	return n.some(func(mesh Mesh) bool { return mesh.Refines(container) })
}

// some reports whether it is so of one of the meshes that the node knows, without making a list of them.
func (n Node) some(so func(Mesh) bool) bool {
	return slices.ContainsFunc(n.Meshes, so) || slices.ContainsFunc(n.Disabled, so)
}

// ClaimedByDisabled reports whether a mesh that is switched off would enrol the pod, whose rules may be left from before.
func (n Node) ClaimedByDisabled(pod Pod) bool {
	return slices.ContainsFunc(n.Disabled, func(mesh Mesh) bool { return mesh.Decide(pod).Action == Enrol })
}

// OnlyWritersOf returns the node with only those meshes, disabled ones included, whose rules the plan holds.
func (n Node) OnlyWritersOf(plan Plan) Node {
	n.Meshes, n.Disabled = slices.DeleteFunc(n.all(), func(mesh Mesh) bool { return !mesh.Footprint().wrote(plan) }), nil
	return n
}

// mostMeshes is how many meshes can be asked about a pod without an allocation.
const mostMeshes = 8

// Decide asks each mesh about what the node's policies let the pod ask for, and rejects what they forbid, what more
// than one mesh claims, and what the node cannot protect.
func (n Node) Decide(pod Pod) Decision {
	d := n.govern(pod, n.wanted(pod))
	d.Detail = shortened(d.Detail, longestDetail)
	return d
}

// wanted returns what the meshes and the annotations' policies decide.
func (n Node) wanted(pod Pod) Decision {
	var room [mostMeshes]Decision
	answers := room[:0]
	r := n.request(pod)
	for _, mesh := range n.Meshes {
		answers = append(answers, r.ask(mesh))
	}
	d := choose(answers)
	if d.Action == Skip {
		return d
	}
	if problem := n.tooMuch(pod); problem != "" {
		d.Mesh = ""
		return d.rejected(ReasonOverBudget, problem)
	}
	if d.Action != Enrol {
		return d
	}
	if !slices.Contains(n.RuntimeHandlers, pod.RuntimeHandler) {
		return d.rejected(ReasonRuntimeHandler, fmt.Sprintf("runtime handler %q is not one of runtime_handlers in the node's "+
			"configuration: what its sandboxes send may not pass the node's kernel, where the rules are", pod.RuntimeHandler))
	}
	d.Proxy.Images = n.ProxyImages
	return d
}

// noMesh is the detail of a pod that was not injected, whichever mesh is asked.
const noMesh = "no injector of a mesh that is enabled here has marked the pod"

// choose returns the answer of the one mesh that claims the pod. A pod that several claim is rejected. Of one that
// none claims, the first answer counts that says more than that the pod was not injected.
func choose(answers []Decision) Decision {
	claim, rivals, telling := -1, 0, 0
	for i := range answers {
		d := &answers[i]
		if d.Action != Skip && claim < 0 {
			claim = i
		}
		if d.rivals() {
			rivals++
		}
		if answers[telling].Reason == ReasonNotInjected && d.Reason != ReasonNotInjected {
			telling = i
		}
	}
	switch {
	case claim >= 0 && rivals > 1:
		return accounted(answers, -1, Decision{Action: Reject, Reason: ReasonTwoMeshes, Detail: contested(answers)})
	case claim >= 0:
		return accounted(answers, claim, answers[claim])
	case len(answers) == 0:
		return Decision{Action: Skip, Reason: ReasonNotInjected, Detail: noMesh}
	case len(answers) == 1 || slices.ContainsFunc(answers, func(d Decision) bool { return d.Reason != answers[telling].Reason }):
		return accounted(answers, telling, answers[telling])
	}
	d := Decision{Action: Skip, Reason: answers[telling].Reason, Detail: answers[telling].Detail} // of each mesh
	if d.Reason == ReasonNotInjected {
		d.Detail = noMesh
	}
	return accounted(answers, -1, d)
}

// rivals reports whether a mesh has rules for the pod: written by this node, or by an init container of the pod's own,
// which would add them on top of another mesh's.
func (d Decision) rivals() bool { return d.Action != Skip || d.Reason == ReasonInitContainer }

// contested says who claims a pod, why, and what to do.
func contested(answers []Decision) string {
	var names, claims []string
	for _, d := range answers {
		if !d.rivals() {
			continue
		}
		names = append(names, d.Mesh)
		claims = append(claims, fmt.Sprintf("%s (%s: %s)", d.Mesh, d.Reason, d.Detail))
	}
	return fmt.Sprintf("%s claim the pod, and the rules of one would go on top of the other's: %s. Let one of them have it, "+
		"and switch off the others for this pod: their injection, or the selector of a static profile",
		strings.Join(names, " and "), strings.Join(claims, "; "))
}
