// SPDX-License-Identifier: Apache-2.0

// Package mesh is the one shape that all meshes are declared in: whose pods are its own, what is read of them and from
// where, and which rules follow. How a decision is made and explained follows from the declaration.
package mesh

import (
	"errors"
	"reflect"
	"slices"
	"sync"
	"weak"

	"github.com/meshnetd/meshnetd/rules"
)

// Common is what the node's configuration says of every mesh.
type Common struct {
	ExcludeNamespaces []string
	Budget            rules.Budget
	WithoutIPv6       rules.WithoutIPv6 // of a pod whose proxy does not speak it
}

// Declaration says all that is known of a mesh. I is its intent: what it wants for one pod, every default filled in.
type Declaration[I any] struct {
	Name      string
	Table     string // of the node's configuration; "" is none of its own
	Footprint rules.Footprint
	Common    Common

	Keys        []string // labels and annotations that Belongs, Inputs and Read look at
	Selectors   []string // the same, of a mesh whose keys the node's configuration chooses
	Containers  []string // whose arguments, environment and user Read looks at
	Environment []string // the variables of those; no other one is there to be read

	Marked  func(rules.Pod) bool                   // by the mesh's injector; nil: it has none
	Belongs func(rules.Pod, *Steps) Verdict        // of pods on networks of their own, in namespaces that are not excluded
	Inputs  []Input                                // annotations that Read reads, which the budget is asked about before
	Read    func(*Reader, *I) error                // a Verdict as error is one; any other is a bad input
	Alone   func(r *Reader, whole, alone *I) error // what the sandbox asks for, and what its containers may add; nil: whole
	Proxy   func(rules.Pod, *I) rules.Proxy        // whose traffic the rules let pass
	Rules   func(*I) rules.Families
	Widest  func() []I // intents whose rules together are of every kind that any pod's plan can have
	From    string     // what gave the values that no Reader remembers; "" is the node's defaults
}

// Input is an annotation that is read, and how it is measured: rules.TextInput, rules.ListInput or the mesh's own way.
type Input struct {
	Key     string
	Measure func(kind, key, value string) rules.Input
}

// Texts are annotations that are no lists.
func Texts(keys ...string) []Input { return measured(rules.TextInput, keys) }

// Lists are annotations with commas between their items.
func Lists(keys ...string) []Input { return measured(rules.ListInput, keys) }

func measured(by func(kind, key, value string) rules.Input, keys []string) (all []Input) {
	for _, key := range keys {
		all = append(all, Input{key, by})
	}
	return all
}

// Verdict is what is to be done with a pod, and why.
type Verdict struct {
	Action rules.Action
	Reason rules.Reason
	Detail string
}

// Outside is the verdict on a pod that does not belong to the mesh.
func Outside(reason rules.Reason, detail string) Verdict { return Verdict{rules.Skip, reason, detail} }

// Injected is the verdict on a pod that the mesh's injector made one of its own.
func Injected(detail string) Verdict { return Verdict{rules.Enrol, rules.ReasonInjected, detail} }

// Error makes a verdict of what was read.
func (v Verdict) Error() string { return v.Detail }

// Declare returns the mesh of a declaration.
func Declare[I any](d Declaration[I]) rules.Mesh { return declared[I]{&d, new(kinds[I])} }

type declared[I any] struct {
	*Declaration[I]
	kinds *kinds[I]
}

// Name implements rules.Mesh.
func (m declared[I]) Name() string { return m.Declaration.Name }

// Footprint implements rules.Mesh.
func (m declared[I]) Footprint() rules.Footprint { return m.Declaration.Footprint }

// Reads implements rules.Mesh.
func (m declared[I]) Reads(key string) bool {
	return slices.Contains(m.Declaration.Keys, key) || slices.Contains(m.Selectors, key)
}

// Keys returns those that can be misspelt.
func (m declared[I]) Keys() []string { return m.Declaration.Keys }

// Refines implements rules.Mesh.
func (m declared[I]) Refines(container string) bool { return slices.Contains(m.Containers, container) }

// ReadsVariable implements rules.Mesh.
func (m declared[I]) ReadsVariable(container, name string) bool {
	return m.Refines(container) && slices.Contains(m.Environment, name)
}

// told returns the pod with what the mesh declares of its containers' environment. Whatever reads another variable finds none,
// since none is kept.
func (m declared[I]) told(pod rules.Pod) rules.Pod {
	more := func(c rules.Container) bool {
		for name := range c.Env {
			if !m.ReadsVariable(c.Name, name) {
				return true
			}
		}
		return false
	}
	if !slices.ContainsFunc(pod.Containers, more) {
		return pod
	}
	pod.Containers = slices.Clone(pod.Containers)
	for i, c := range pod.Containers {
		pod.Containers[i] = c.WithVariables(func(name string) bool { return m.ReadsVariable(c.Name, name) })
	}
	return pod
}

// Marked reports whether the mesh's injector marked a pod.
func (m declared[I]) Marked(pod rules.Pod) bool {
	return m.Declaration.Marked != nil && m.Declaration.Marked(pod)
}

// Widest implements rules.Mesh.
func (m declared[I]) Widest() (all []rules.Plan) {
	for _, in := range m.Declaration.Widest() {
		plan, _ := (&planner[I]{mesh: m.Declaration, intent: in}).plan(rules.Network{}) // without addresses it cannot fail
		all = append(all, plan)
	}
	return all
}

// planner plans for all pods with the same intent. The rules are made with the first plan.
type planner[I any] struct {
	mesh   *Declaration[I]
	intent any // an I
	once   sync.Once
	made   func(rules.Network) (rules.Plan, error)
}

func (p *planner[I]) plan(network rules.Network) (rules.Plan, error) {
	p.once.Do(func() {
		in := p.intent.(I)
		p.made = p.mesh.Rules(&in).Planner(p.mesh.Footprint)
	})
	return p.made(network)
}

// kinds are the last kinds of pods, each as long as one of its pods is there: most pods of a node are of a few kinds, and share
// their rules.
type kinds[I any] struct {
	mu   sync.Mutex
	last [8]weak.Pointer[planner[I]]
	made int
}

// planner returns that of the pods with the same intent.
func (k *kinds[I]) planner(mesh *Declaration[I], intent any) *planner[I] {
	k.mu.Lock()
	defer k.mu.Unlock()
	for _, kind := range k.last {
		if p := kind.Value(); p != nil && reflect.DeepEqual(p.intent, intent) {
			return p
		}
	}
	p := &planner[I]{mesh: mesh, intent: intent}
	k.last[k.made%len(k.last)] = weak.Make(p)
	k.made++
	return p
}

// Decide implements rules.Mesh.
func (m declared[I]) Decide(pod rules.Pod) rules.Decision {
	pod = m.told(pod)
	v := m.belongs(pod, nil)
	if v.Action != rules.Enrol {
		return m.decided(v, nil)
	}
	one := &struct { // in one piece of memory
		Reader
		intent I
	}{Reader: Reader{Pod: pod, budget: m.Common.Budget}}
	return m.read(v, &one.Reader, &one.intent)
}

// Explain implements rules.Explainer.
func (m declared[I]) Explain(pod rules.Pod) (d rules.Decision) {
	pod = m.told(pod)
	r, in := &Reader{Pod: pod, Steps: &Steps{}, budget: m.Common.Budget, given: map[any]string{}}, new(I)
	if v := m.belongs(pod, r.Steps); v.Action == rules.Enrol {
		d = m.read(v, r, in)
	} else {
		d = m.decided(v, r.Steps)
	}
	d.Account = &rules.Account{Steps: r.all}
	if d.Action == rules.Enrol {
		d.Account.Settings = settings(reflect.ValueOf(in).Elem(), "", r.given)
		for i := range d.Account.Settings {
			if s := &d.Account.Settings[i]; s.Source == "" {
				s.Source = m.From
			}
		}
	}
	return d
}

// decided makes a decision of a verdict, which is the last step.
func (m declared[I]) decided(v Verdict, s *Steps) rules.Decision {
	s.Add(string(v.Action), " (", string(v.Reason), "): ", v.Detail)
	return rules.Decision{Mesh: m.Declaration.Name, Action: v.Action, Reason: v.Reason, Detail: v.Detail}
}

// belongs asks whether a pod is one of the mesh's, without reading what it wants.
func (m declared[I]) belongs(pod rules.Pod, s *Steps) Verdict {
	if pod.HostNetwork {
		return Outside(rules.ReasonHostNetwork, "the pod shares the node's network namespace")
	}
	s.Add("the pod is not known to share the node's network namespace")
	if slices.Contains(m.Common.ExcludeNamespaces, pod.Namespace) {
		return Outside(rules.ReasonNamespaceExcluded, "namespace "+pod.Namespace+" is excluded by the node's configuration")
	}
	if m.Table == "" {
		s.Add("namespace ", pod.Namespace, " is not one of exclude_namespaces")
	} else {
		s.Add("namespace ", pod.Namespace, " is not one of exclude_namespaces or ", m.Table, ".exclude_namespaces")
	}
	return m.Belongs(pod, s)
}

// read reads what a pod wants that belongs to the mesh, as v says unless that cannot be.
func (m declared[I]) read(v Verdict, r *Reader, in *I) rules.Decision {
	var room [16]rules.Input
	inputs := room[:0]
	for _, in := range m.Inputs {
		inputs = append(inputs, in.Measure("annotation", in.Key, r.Pod.Annotations[in.Key]))
	}
	err := r.Within(inputs)
	if err == nil {
		err = m.Read(r, in)
	}
	if err != nil {
		if !errors.As(err, &v) {
			v = Verdict{rules.Reject, rules.ReasonBadInput, err.Error()}
		}
		return m.decided(v, r.Steps)
	}
	d := m.decided(v, r.Steps)
	p := m.kinds.planner(m.Declaration, *in)
	d.Intent, d.Planner, d.Proxy = p.intent, p.plan, m.Proxy(r.Pod, in)
	if m.Alone != nil && len(r.Pod.Containers) > 0 {
		d.SandboxPlanner = m.before(r.Pod, in)
	}
	return d
}

// before plans for the pod as if its containers were not known, plus what they add. It keeps no more of the pod than the intent has.
func (m declared[I]) before(pod rules.Pod, whole *I) func(rules.Network) (rules.Plan, error) {
	pod.Containers, pod.Complete = nil, false
	var alone I
	if err := m.Alone(&Reader{Pod: pod}, whole, &alone); err != nil {
		return func(rules.Network) (rules.Plan, error) { return rules.Plan{}, err }
	}
	return m.kinds.planner(m.Declaration, alone).plan
}

// Sidecar is the verdict by a pod's containers, as far as they are known: one has to be the proxy, and none sets the pod up.
func Sidecar(pod rules.Pod, s *Steps, proxy, init string) Verdict {
	if pod.Container(init) != nil {
		return Outside(rules.ReasonInitContainer, "init container "+init+" sets the pod up")
	}
	s.Add("no init container ", init, " that would set the pod up")
	switch {
	case !pod.Complete:
		s.Add("the pod's containers are not all known: it is taken for one with a proxy, as the annotation says")
	case pod.Container(proxy) == nil:
		return Outside(rules.ReasonNoProxy, "the pod has no container "+proxy)
	default:
		s.Add("container ", proxy, " is there")
	}
	return Verdict{Action: rules.Enrol}
}
