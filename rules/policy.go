// SPDX-License-Identifier: Apache-2.0

package rules

import (
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strconv"
	"strings"
)

// AnnotationPolicy is what pods of some namespaces may ask for with one annotation.
type AnnotationPolicy struct {
	Annotation string   // key, or a pattern of path.Match
	Namespaces []string // patterns of path.Match; none is every namespace
	Allow      []string // ports, ranges of ports, CIDRs, words; every item of the value must be one of them or within one
	Otherwise  Otherwise
}

// Otherwise is what happens to an annotation with a value that is not allowed.
type Otherwise string

// The ways to treat it.
const (
	Refuse Otherwise = "refuse" // the pod is refused
	Ignore Otherwise = "ignore" // the annotation counts as absent, and the plan says so
	Permit Otherwise = "allow"  // it is allowed all the same: ends the search for a policy
)

// violation is one annotation of a pod that a policy does not allow.
type violation struct {
	key     string
	problem string
	ignored bool
}

// request is what the meshes are asked about a pod.
type request struct {
	pod     Pod
	allowed Pod // without the annotations that it may not have
	found   []violation
}

func (n Node) request(pod Pod) request {
	r := request{pod: pod, found: n.violations(pod)}
	if len(r.found) == 0 {
		return r
	}
	r.allowed = pod
	r.allowed.Annotations = maps.Clone(pod.Annotations)
	for _, v := range r.found {
		delete(r.allowed.Annotations, v.key)
	}
	return r
}

// ask asks a mesh about the pod without the annotations that it may not have. A pod that is outside the mesh
// with them and without them is not the policies' business; one that only they take out of it is.
func (r *request) ask(mesh Mesh) Decision {
	asked := mesh.Decide(r.pod)
	if len(r.found) == 0 {
		return asked
	}
	d := mesh.Decide(r.allowed)
	if asked.Action == Skip && d.Action == Skip {
		return asked
	}
	var refused, notes []string
	for _, v := range r.found {
		switch {
		case !v.ignored:
			refused = append(refused, v.problem)
		case d.Action == Skip:
			refused = append(refused, v.problem+"; it is not ignored, because the pod would not belong to the mesh without it")
		default:
			notes = append(notes, v.problem+"; it is ignored")
		}
	}
	if len(refused) > 0 {
		asked.Account.step(string(Rejected) + " (" + string(ReasonForbidden) + "): " + strings.Join(refused, "; "))
		return Decision{Mesh: d.Mesh, Action: Rejected, Reason: ReasonForbidden, Detail: strings.Join(refused, "; "), Intent: asked.Intent, Account: asked.Account}
	}
	d.Account.first(notes)
	return d.noting(notes)
}

// noting puts notes before those of the plan.
func (d Decision) noting(notes []string) Decision {
	planner := d.Planner
	if planner == nil {
		return d
	}
	d.Planner = func(ips []netip.Addr) (Plan, error) {
		p, err := planner(ips)
		if err == nil {
			p.Notes = slices.Concat(notes, p.Notes)
		}
		return p, err
	}
	return d
}

// violations returns the annotations that the node does not allow, by key.
func (n Node) violations(pod Pod) []violation {
	if len(n.Annotations) == 0 {
		return nil
	}
	var found []violation
	for _, key := range slices.Sorted(maps.Keys(pod.Annotations)) {
		i := slices.IndexFunc(n.Annotations, func(p AnnotationPolicy) bool { return p.matches(key, pod.Namespace) })
		if i < 0 || n.Annotations[i].Otherwise == Permit {
			continue
		}
		policy := n.Annotations[i]
		if item, ok := policy.forbidden(pod.Annotations[key]); ok {
			found = append(found, violation{key: key, ignored: policy.Otherwise == Ignore, problem: fmt.Sprintf(
				"annotation %s: %q is not allowed in namespace %s by the node's configuration, which allows %s",
				key, item, pod.Namespace, policy.allowed())})
		}
	}
	return found
}

// matches tells whether the policy is the one for an annotation of a pod in a namespace.
func (p AnnotationPolicy) matches(key, namespace string) bool {
	return matches(p.Annotation, key) && (len(p.Namespaces) == 0 ||
		slices.ContainsFunc(p.Namespaces, func(pattern string) bool { return matches(pattern, namespace) }))
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// forbidden returns the first item of a value that is not allowed. An empty value is one empty item.
func (p AnnotationPolicy) forbidden(value string) (item string, found bool) {
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		if !slices.ContainsFunc(p.Allow, func(entry string) bool { return within(item, entry) }) {
			return item, true
		}
	}
	return "", false
}

func (p AnnotationPolicy) allowed() string {
	if len(p.Allow) == 0 {
		return "nothing"
	}
	words := make([]string, len(p.Allow))
	for i, entry := range p.Allow {
		words[i] = strconv.Quote(entry)
	}
	return strings.Join(words, ", ")
}

// within tells whether an item is an entry of the allowed, or a port or CIDR within it.
func within(item, entry string) bool {
	if item == entry {
		return true
	}
	if port, err := strconv.ParseUint(item, 10, 16); err == nil {
		r, ok := ParsePortRange(entry)
		return ok && r.First <= uint16(port) && uint16(port) <= r.Last
	}
	prefix, err := netip.ParsePrefix(item)
	if err != nil {
		return false
	}
	wider, err := netip.ParsePrefix(entry)
	return err == nil && wider.Bits() <= prefix.Bits() && wider.Contains(prefix.Addr())
}

// PortRange is the ports from First to Last.
type PortRange struct{ First, Last uint16 }

// ParsePortRange reads a port or a range "FIRST-LAST"; false where the text is neither.
func ParsePortRange(text string) (PortRange, bool) {
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	first, err1 := strconv.ParseUint(from, 10, 16)
	last, err2 := strconv.ParseUint(to, 10, 16)
	return PortRange{uint16(first), uint16(last)}, err1 == nil && err2 == nil && first <= last
}
