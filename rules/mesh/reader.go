// SPDX-License-Identifier: Apache-2.0

package mesh

import (
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Steps notes what is looked at. Every decision is made with one; nil, for a decision that nobody wants explained, notes
// nothing and costs nothing. Texts come in parts, so that they are joined only where they are kept.
type Steps struct{ all []string }

// Add notes what was looked at.
func (s *Steps) Add(parts ...string) {
	if s != nil {
		s.all = append(s.all, strings.Join(parts, ""))
	}
}

// LookupsBehind is said where lookups are kept apart by zones.
const LookupsBehind = "lookups are captured: those of containers within the pod, as docker has them, may get no answer, since answers from port 53 " +
	"are tracked apart, as by the mesh's own rules"

// Reader reads what a pod says, and remembers what gave each value where somebody asks for that.
type Reader struct {
	Pod rules.Pod
	*Steps
	budget rules.Budget
	given  map[any]string // by the pointer to the value, within the intent
	err    error
}

// Within asks whether the budget has room for what is to be read.
func (r *Reader) Within(inputs []rules.Input) error {
	if problem := r.budget.Exceeded(inputs...); problem != "" {
		return Verdict{rules.Reject, rules.ReasonOverBudget, problem}
	}
	return nil
}

// Gave remembers what gave a value of the intent; a later one counts.
func (r *Reader) Gave(into any, place ...string) {
	if r.given != nil {
		r.given[into] = strings.Join(place, "")
	}
}

// Gives remembers an annotation as what gave values of the intent.
func (r *Reader) Gives(key string, into ...any) {
	for _, value := range into {
		r.Gave(value, "annotation ", key)
	}
}

// Fail keeps the first problem, which is one of an annotation.
func (r *Reader) Fail(key, value, problem string) { r.FailAt("annotation "+key, value, problem) }

// FailAt is Fail for what stands elsewhere.
func (r *Reader) FailAt(place, value, problem string) {
	if r.err == nil {
		r.err = &rules.InputError{Place: place, Value: value, Problem: problem}
	}
}

// Err returns the first problem.
func (r *Reader) Err() error { return r.err }

// Understood returns the first problem, or notes that there is none.
func (r *Reader) Understood(step ...string) error {
	if r.err == nil {
		r.Add(step...)
	}
	return r.err
}

// Configured reads the annotation that says all of what is to be redirected; absent is the problem where it is not there.
func (r *Reader) Configured(key, absent string, read func(r *Reader, text string) (problem string)) error {
	text, problem := r.Pod.Annotations[key], absent
	if text != "" {
		problem = read(r, text)
	}
	if problem != "" {
		r.Fail(key, text, problem)
	}
	return r.Understood("annotation ", key, " says what is to be redirected, and contradicts nothing")
}

// Read sets a value that an annotation gives, if it is there.
func Read[T any](r *Reader, key string, into *T, parse func(string) (T, string)) {
	text, there := r.Pod.Annotations[key]
	if !there {
		return
	}
	value, problem := parse(text)
	if problem != "" {
		r.Fail(key, text, problem)
		return
	}
	*into = value
	r.Gives(key, into)
}
