// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

// Explained returns what the mesh explains of a pod: of the same decision as without an explanation, with every field
// of its intent.
func Explained(t testing.TB, mesh rules.Mesh, pod rules.Pod) rules.Decision {
	t.Helper()
	d, e := mesh.Decide(pod), mesh.Explain(pod)
	same := cmp.Exporter(func(reflect.Type) bool { return true })
	if diff := cmp.Diff([]any{d.Mesh, d.Action, d.Reason, d.Detail, d.Intent, d.Proxy}, []any{e.Mesh, e.Action, e.Reason, e.Detail, e.Intent, e.Proxy}, same); diff != "" {
		t.Fatalf("explained is another decision (-decided +explained):\n%s", diff)
	}
	if d.Account != nil || e.Account == nil {
		t.Fatalf("accounts %v and %v", d.Account, e.Account)
	}
	last := string(e.Action) + " (" + string(e.Reason) + "): " + e.Detail
	if steps := e.Account.Steps; len(steps) == 0 || steps[len(steps)-1] != last {
		t.Fatalf("%q does not end with %q", steps, last)
	}
	if e.Action != rules.Enrol {
		return e
	}
	text, err := json.Marshal(e.Intent)
	if err != nil {
		t.Fatal(err)
	}
	var fields map[string]any
	if err := json.Unmarshal(text, &fields); err != nil {
		t.Fatal(err)
	}
	want := map[string]bool{}
	name(want, "", fields)
	var names []string
	for _, s := range e.Account.Settings {
		names = append(names, s.Name)
		if s.Value == "" {
			t.Errorf("%s has no value", s.Name)
		}
	}
	if slices.Sort(names); !slices.Equal(names, slices.Sorted(maps.Keys(want))) {
		t.Fatalf("explains %v of %s", names, text)
	}
	return e
}

// name collects the names of an object's fields, those of an object within it with its own before them.
func name(names map[string]bool, within string, fields map[string]any) {
	for key, value := range fields {
		if object, ok := value.(map[string]any); ok {
			name(names, within+key+".", object)
			continue
		}
		names[within+key] = true
	}
}

// Sources holds for every setting of a pod: what its source names alone gives it its value. alone returns the pod with
// nothing but what a source names. It returns how often each source was asked.
func Sources(t testing.TB, mesh rules.Mesh, pod rules.Pod, alone func(pod rules.Pod, source string) rules.Pod) map[string]int {
	t.Helper()
	asked := map[string]int{}
	for i, s := range Explained(t, mesh, pod).Account.Settings {
		d := Explained(t, mesh, alone(pod, s.Source))
		if d.Action != rules.Enrol {
			t.Fatalf("%s: %s", s.Source, d.Detail)
		}
		if got := d.Account.Settings[i]; got != s {
			t.Fatalf("%+v, but alone %+v", s, got)
		}
		asked[s.Source]++
	}
	return asked
}

// Allocations returns how often a decision about a pod allocates at least: the race detector adds some at random.
func Allocations(mesh rules.Mesh, pod rules.Pod) float64 {
	least := math.Inf(1)
	for range 200 {
		least = min(least, testing.AllocsPerRun(1, func() { mesh.Decide(pod) }))
	}
	return least
}
