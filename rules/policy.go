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
	Annotation string      // key, or a pattern of path.Match
	Namespaces []string    // patterns of path.Match; none is every namespace
	Allow      []Allowance // every item of the value must be one of them or within one
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
	key, item string
	tooLong   int // how many bytes it has, where they are more than a policy reads
	policy    AnnotationPolicy
	namespace string
}

func (v violation) ignored() bool { return v.policy.Otherwise == Ignore }

// String says what is not allowed, and what is.
func (v violation) String() string {
	what := fmt.Sprintf("%q is not allowed", shortened(v.item, longestValue))
	if v.tooLong > 0 {
		what = fmt.Sprintf("%d bytes are more than is read, and so not allowed,", v.tooLong)
	}
	return shortened(fmt.Sprintf("annotation %s: %s in namespace %s by the node's configuration, which allows %s",
		shortened(v.key, longestValue), what, v.namespace, v.policy.allowed()), longestProblem)
}

// mostViolations is how many are named for a pod.
const mostViolations = 3

// said returns the first violations, each with what becomes of it, and how many more there are.
func said(all []violation, fate string) []string {
	var words []string
	for _, v := range all[:min(len(all), mostViolations)] {
		words = append(words, v.String()+fate)
	}
	if more := len(all) - mostViolations; more > 0 {
		words = append(words, fmt.Sprintf("and %d annotations more%s", more, fate))
	}
	return words
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

// ask asks a mesh about the pod without the annotations that it may not have. Policies do not concern a pod that is outside
// the mesh either way, but they do one that only a forbidden annotation takes out of it.
func (r *request) ask(mesh Mesh) Decision {
	asked := mesh.Decide(r.pod)
	if len(r.found) == 0 {
		return asked
	}
	d := mesh.Decide(r.allowed)
	if asked.Action == Skip && d.Action == Skip {
		return asked
	}
	var refused, ignored []violation
	for _, v := range r.found {
		if v.ignored() {
			ignored = append(ignored, v)
		} else {
			refused = append(refused, v)
		}
	}
	words := said(refused, "")
	if d.Action == Skip {
		words = append(words, said(ignored, "; it is not ignored, because the pod would not belong to the mesh without it")...)
	}
	if len(words) > 0 {
		detail := shortened(strings.Join(words, "; "), longestDetail)
		return asked.rejected(ReasonForbidden, detail)
	}
	notes := said(ignored, "; it is ignored")
	d.Account.first(notes)
	return d.noting(notes)
}

// noting returns the decision with notes before those of its plan.
func (d Decision) noting(notes []string) Decision {
	return d.planning(func(p *Plan) { p.Notes = slices.Concat(notes, p.Notes) })
}

// planning returns the decision with something more said of its plan.
func (d Decision) planning(say func(*Plan)) Decision {
	planner := d.Planner
	if planner == nil {
		return d
	}
	d.Planner = func(network Network) (Plan, error) {
		p, err := planner(network)
		if err == nil {
			say(&p)
		}
		return p, err
	}
	return d
}

// violations returns the annotations that the node does not allow, by key. What is longer than a pod's whole budget is not
// read, and not allowed.
func (n Node) violations(pod Pod) []violation {
	if len(n.Annotations) == 0 {
		return nil
	}
	most := n.Budget.orStandard().Bytes
	var all []violation
	for key, value := range pod.Annotations {
		policy, found := n.annotationPolicy(key, pod.Namespace)
		if !found {
			continue
		}
		v := violation{key: key, policy: policy, namespace: pod.Namespace}
		if len(value) > most {
			v.tooLong = len(value)
			all = append(all, v)
		} else if item, ok := v.policy.forbidden(value); ok {
			v.item = item
			all = append(all, v)
		}
	}
	slices.SortFunc(all, func(a, b violation) int { return strings.Compare(a.key, b.key) })
	return all
}

// annotationPolicy returns the policy by which not every value of an annotation is allowed.
func (n Node) annotationPolicy(key, namespace string) (p AnnotationPolicy, found bool) {
	i := slices.IndexFunc(n.Annotations, func(p AnnotationPolicy) bool { return p.matches(key, namespace) })
	if i < 0 || n.Annotations[i].Otherwise == Permit {
		return AnnotationPolicy{}, false
	}
	return n.Annotations[i], true
}

// matches reports whether the policy is the one for an annotation of a pod in a namespace.
func (p AnnotationPolicy) matches(key, namespace string) bool {
	return matches(p.Annotation, key) && (len(p.Namespaces) == 0 || MatchesAny(p.Namespaces, namespace))
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// MatchesAny reports whether one of the patterns of path.Match matches a name.
func MatchesAny(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool { return matches(pattern, name) })
}

// forbidden returns the first item of a value that is not allowed. An empty value is one empty item.
func (p AnnotationPolicy) forbidden(value string) (item string, found bool) {
	for item := range strings.SplitSeq(value, ",") {
		item = strings.TrimSpace(item)
		asked := allowance(item)
		if !slices.ContainsFunc(p.Allow, asked.within) {
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
		words[i] = strconv.Quote(entry.Word)
	}
	return strings.Join(words, ", ")
}

// Allowance is an item or an entry of the allowed: a word, and the ports or the prefix that it stands for.
type Allowance struct {
	Word   string
	Ports  PortRange
	IsPort bool
	Prefix netip.Prefix // the zero one is none
}

// Allow reads ports, ranges of ports, CIDRs and words.
func Allow(words ...string) []Allowance {
	all := make([]Allowance, len(words))
	for i, word := range words {
		all[i] = allowance(word)
	}
	return all
}

func allowance(word string) Allowance {
	a := Allowance{Word: word}
	if a.Ports, a.IsPort = ParsePortRange(word); !a.IsPort && strings.Contains(word, "/") {
		a.Prefix, _ = netip.ParsePrefix(word)
	}
	return a
}

// within reports whether an item is an entry, or a port or CIDR within it. A range of ports is in none but itself.
func (a Allowance) within(entry Allowance) bool {
	switch {
	case a.Word == entry.Word:
		return true
	case a.IsPort:
		return !strings.Contains(a.Word, "-") && entry.IsPort && entry.Ports.Contains(a.Ports.First)
	}
	return a.Prefix.IsValid() && entry.Prefix.IsValid() && entry.Prefix.Bits() <= a.Prefix.Bits() && entry.Prefix.Contains(a.Prefix.Addr())
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
