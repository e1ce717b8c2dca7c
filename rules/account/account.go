// SPDX-License-Identifier: Apache-2.0

// Package account is what meshes share to explain their decisions: what was looked at, where each value comes from, and
// what of a pod's traffic goes around its proxy.
package account

import (
	"fmt"
	"net/netip"
	"reflect"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
)

// Steps notes what is looked at. Every decision is made with one; nil, for a decision that nobody wants explained, notes
// nothing and costs nothing. Texts come in parts, so that they are joined only where they are kept.
type Steps struct{ all []string }

// LookupsBehind is said where lookups are kept apart by zones.
const LookupsBehind = "lookups are captured: those of containers within the pod, as docker has them, may get no answer, since answers from port 53 " +
	"are tracked apart, as by the mesh's own rules"

// Add notes what was looked at.
func (s *Steps) Add(parts ...string) {
	if s != nil {
		s.all = append(s.all, strings.Join(parts, ""))
	}
}

// Decided notes the decision, which is the last step.
func (s *Steps) Decided(d rules.Decision) {
	s.Add(string(d.Action), " (", string(d.Reason), "): ", d.Detail)
}

// All returns the steps.
func (s *Steps) All() []string { return s.all }

// Sources say where the values of an intent come from, each by the name of a setting.
type Sources struct {
	Given map[string]string // what in the pod gave it
	Keys  map[string]string // the key of the node's configuration
	Empty map[string]string // the word for an empty list, or for no value; "none" where there is no other
}

// Settings lists the fields of an intent as its JSON names them; those of a field that has fields of its own stand
// alone, as "inbound.port".
func Settings(intent any, from Sources) []rules.Setting {
	var all []rules.Setting
	from.list(&all, "", reflect.ValueOf(intent))
	return all
}

func (s Sources) list(all *[]rules.Setting, within string, v reflect.Value) {
	for i := range v.NumField() {
		field := v.Type().Field(i)
		if !field.IsExported() {
			continue
		}
		name := within + field.Tag.Get("json")
		if _, whole := v.Field(i).Interface().(fmt.Stringer); v.Field(i).Kind() == reflect.Struct && !whole {
			s.list(all, name+".", v.Field(i))
			continue
		}
		*all = append(*all, rules.Setting{Name: name, Value: s.spell(name, v.Field(i)), Source: s.Given[name], Key: s.Keys[name]})
	}
}

// spell returns a value as text.
func (s Sources) spell(name string, v reflect.Value) string {
	word, listed := s.Empty[name]
	if !listed {
		word = "none"
	}
	switch addr, isAddr := v.Interface().(netip.Addr); {
	case v.Kind() == reflect.Slice && v.Len() == 0, listed && v.IsZero(), isAddr && !addr.IsValid():
		return word
	case v.Kind() != reflect.Slice:
		return fmt.Sprint(v.Interface())
	}
	values := make([]any, v.Len())
	for i := range values {
		values[i] = v.Index(i).Interface()
	}
	return List(values)
}

// List prints values with commas between them.
func List[T any](values []T) string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = fmt.Sprint(value)
	}
	return strings.Join(words, ", ")
}
