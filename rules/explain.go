// SPDX-License-Identifier: Apache-2.0

package rules

import "slices"

// Account is how a decision came to be. Only a decision that was asked for by Explain has one.
type Account struct {
	Steps    []string  // what was looked at, in order; the last one decided
	Settings []Setting // of an enrolled pod, in the order of the mesh's intent
}

// Setting is one value of the mesh's intent for a pod.
type Setting struct {
	Name   string // as in the intent's JSON
	Value  string
	Source string // such as "annotation traffic.sidecar.istio.io/excludeOutboundPorts"
	Key    string // of the node's configuration, which says it where pods do not; "" is none
}

// BuiltIn is the source of a value that nobody set.
const BuiltIn = "built-in default"

// Gap is traffic of a pod that does not go through its proxy, although the pod belongs to the mesh.
type Gap struct {
	What   string  // a sentence
	Packet *Packet // the first of such a connection; nil where no packet of TCP or UDP shows it
	Covers func(Packet) bool
}

// Explainer is a mesh that can account for its decisions.
type Explainer interface {
	// Explain returns what Decide does, with an account.
	Explain(Pod) Decision
}

// Explain returns what Decide does, with an account where the mesh can give one.
func (n Node) Explain(pod Pod) Decision {
	origin := n.Origin
	n.Mesh = explaining{n.Mesh}
	d := n.Decide(pod)
	if d.Account == nil {
		return d
	}
	for i := range d.Account.Settings {
		s := &d.Account.Settings[i]
		switch place := origin[s.Key]; {
		case s.Source != "":
		case s.Key != "" && place != "":
			s.Source = place + " " + s.Key
		default:
			s.Source = BuiltIn
		}
	}
	return d
}

// explaining is a mesh that accounts for each decision.
type explaining struct{ Mesh }

// Decide implements Mesh.
func (e explaining) Decide(pod Pod) Decision {
	if mesh, ok := e.Mesh.(Explainer); ok {
		return mesh.Explain(pod)
	}
	return e.Mesh.Decide(pod)
}

// step adds one, where anybody asked for it.
func (a *Account) step(text string) {
	if a != nil {
		a.Steps = append(a.Steps, text)
	}
}

// first puts steps before the others.
func (a *Account) first(steps []string) {
	if a != nil {
		a.Steps = slices.Concat(steps, a.Steps)
	}
}
