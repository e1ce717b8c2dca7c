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

// Explain returns what Decide does, with an account: what each mesh that does not decide says, in a line, and then
// the steps of the one that does.
func (n Node) Explain(pod Pod) Decision {
	origin, misspelt := n.Origin, n.Misspelt(pod)
	n.Meshes = slices.Clone(n.Meshes)
	for i, mesh := range n.Meshes {
		n.Meshes[i] = explaining{mesh}
	}
	d := n.Decide(pod)
	if d.Account == nil { // of a node without meshes
		return d
	}
	d.Account.first(misspelt)
	for i, step := range d.Account.Steps {
		d.Account.Steps[i] = shortened(step, longestDetail)
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
func (e explaining) Decide(pod Pod) Decision { return e.Explain(pod) }

// step is the decision in a line.
func (d Decision) step() string { return string(d.Action) + " (" + string(d.Reason) + "): " + d.Detail }

// rejected is the decision that the pod must not run, whatever was decided before.
func (d Decision) rejected(reason Reason, detail string) Decision {
	d = Decision{Mesh: d.Mesh, Action: Reject, Reason: reason, Detail: detail, Intent: d.Intent, Account: d.Account, Marked: d.Marked}
	d.Account.step(d.step())
	return d
}

// accounted adds the account to a decision that was made from the answers of several meshes: what the others said, then
// the steps of the mesh that decides. decides is its index, or negative for none.
func accounted(answers []Decision, decides int, d Decision) Decision {
	if len(answers) < 2 || answers[0].Account == nil {
		return d
	}
	var others []string
	for i, answer := range answers {
		if i != decides {
			others = append(others, answer.Mesh+": "+answer.step())
		}
	}
	if decides < 0 {
		d.Account = &Account{Steps: []string{d.step()}}
	}
	d.Account.first(others)
	return d
}

// step adds a step, if an account was asked for.
func (a *Account) step(text string) {
	if a != nil {
		a.Steps = append(a.Steps, text)
	}
}

// first inserts steps before the others.
func (a *Account) first(steps []string) {
	if a != nil {
		a.Steps = slices.Concat(steps, a.Steps)
	}
}
