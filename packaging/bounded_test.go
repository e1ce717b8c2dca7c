// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

type fields = map[string]any

// sized is a pod with one container of these fields, as the API server gives it to a policy.
func sized(container fields) fields {
	p := pod("Pod", nil, nil)
	p["spec"] = fields{"containers": []any{container}}
	return p
}

func env(variables ...fields) []any {
	var all []any
	for _, v := range variables {
		all = append(all, v)
	}
	return all
}

func literal(name, value string) fields { return fields{"name": name, "value": value} }

func reference(name, from string, what fields) fields {
	return fields{"name": name, "valueFrom": fields{from: what}}
}

func many(n int, make func(i int) fields) []any {
	var all []any
	for i := range n {
		all = append(all, make(i))
	}
	return all
}

func TestBoundedPods(t *testing.T) {
	const (
		text, references, annotated, expanded, annotation = 0, 1, 2, 3, 4 // the validations
		limit                                             = 256 << 10
	)
	large := strings.Repeat("x", limit)
	quarter := large[:limit/4+1]
	configMap := func(i int) fields {
		return reference(fmt.Sprint("C", i), "configMapKeyRef", fields{"name": "c", "key": "k"})
	}
	fromAnnotation := func(i int) fields {
		return reference(fmt.Sprint("A", i), "fieldRef", fields{"fieldPath": "metadata.annotations['k']"})
	}
	p := compile(t, readPolicy(t, "admission/bounded-pods.yaml"))
	for name, c := range map[string]struct {
		container fields
		denied    []int
	}{
		"nothing":                {fields{"name": "app"}, nil},
		"as large as may be":     {fields{"env": env(literal("A", large[1:]))}, nil},
		"environment":            {fields{"env": env(literal("A", large))}, []int{text}},
		"bytes, not characters":  {fields{"env": env(literal("A", strings.Repeat("ä", limit/2)))}, []int{text}},
		"names":                  {fields{"env": env(literal(large+"A", ""))}, []int{text}},
		"arguments":              {fields{"args": []any{large, "x"}}, []int{text}},
		"command":                {fields{"command": []any{large, "x"}}, []int{text}},
		"each a part":            {fields{"env": env(literal("A", quarter)), "args": []any{quarter}, "command": []any{quarter}, "volumeMounts": []any{fields{"mountPath": quarter, "subPath": "x"}}}, []int{text}},
		"a hook":                 {fields{"lifecycle": fields{"preStop": fields{"exec": fields{"command": []any{large, "x"}}}}}, []int{text}},
		"a hook of another kind": {fields{"lifecycle": fields{"preStop": fields{"sleep": fields{"seconds": 1}}}}, nil},
		"references":             {fields{"envFrom": many(50, func(int) fields { return fields{} }), "env": many(50, configMap)}, nil},
		"too many references":    {fields{"envFrom": many(50, func(int) fields { return fields{} }), "env": many(51, configMap)}, []int{references}},
		"annotations as values":  {fields{"env": many(2, fromAnnotation)}, nil},
		"too many of those":      {fields{"env": many(3, fromAnnotation)}, []int{annotated}},
		"the pod's name, often": {fields{"env": many(100, func(i int) fields {
			return reference(fmt.Sprint("N", i), "fieldRef", fields{"fieldPath": "metadata.name"})
		})}, nil},
		"expansions":               {fields{"env": env(literal("A", large[:256])), "args": []any{strings.Repeat("$(A)", 16)}}, nil},
		"too many expansions":      {fields{"env": env(literal("A", "a")), "args": []any{strings.Repeat("$(A)", 17)}}, []int{expanded}},
		"of a large value":         {fields{"env": env(literal("A", large[:257])), "args": []any{"$(A)"}}, []int{expanded}},
		"of an annotation":         {fields{"env": env(fromAnnotation(0)), "args": []any{"$(A0)"}}, []int{expanded}},
		"of a ConfigMap, not seen": {fields{"env": env(configMap(0)), "args": []any{"$(C0)"}}, nil},
		"in the environment":       {fields{"env": env(literal("A", large[:257]), literal("B", "$(A)"))}, []int{expanded}},
		"large, and not expanded":  {fields{"env": env(literal("A", large[:257]), literal("B", "$(C)"))}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			if got := p.denied(t, fields{"object": sized(c.container), "oldObject": nil}); !slices.Equal(got, c.denied) {
				t.Errorf("denied by %v, want %v", got, c.denied)
			}
			init := sized(fields{})
			init["spec"].(fields)["initContainers"] = []any{c.container}
			if got := p.denied(t, fields{"object": init, "oldObject": nil}); !slices.Equal(got, c.denied) {
				t.Errorf("an init container: denied by %v, want %v", got, c.denied)
			}
			// What is there may be updated; what is added later is looked at.
			if got := p.denied(t, fields{"object": sized(c.container), "oldObject": sized(c.container)}); len(got) > 0 {
				t.Errorf("an update: denied by %v", got)
			}
			c.container["name"] = "debug"
			ephemeral := sized(fields{})
			ephemeral["spec"].(fields)["ephemeralContainers"] = []any{c.container}
			if got := p.denied(t, fields{"object": ephemeral, "oldObject": sized(fields{})}); !slices.Equal(got, c.denied) {
				t.Errorf("an ephemeral container: denied by %v, want %v", got, c.denied)
			}
			if got := p.denied(t, fields{"object": ephemeral, "oldObject": ephemeral}); len(got) > 0 {
				t.Errorf("an update with an ephemeral container: denied by %v", got)
			}
		})
	}
	whole, more := annotations{"k": strings.Repeat("x", 64<<10-1)}, annotations{"k": strings.Repeat("x", 64<<10)}
	for name, c := range map[string]struct {
		before any
		after  fields
		denied []int
	}{
		"annotations":                        {nil, pod("Pod", nil, whole), nil},
		"too large":                          {nil, pod("Pod", nil, more), []int{annotation}},
		"too large before":                   {pod("Pod", nil, more.with("a", "b")), pod("Pod", nil, more), nil},
		"too large, and changed":             {pod("Pod", nil, more), pod("Pod", nil, more.with("a", "b")), []int{annotation}},
		"too large by an update":             {pod("Pod", nil, nil), pod("Pod", nil, more), []int{annotation}},
		"too large by a binding":             {nil, pod("Binding", nil, more), []int{annotation}},
		"an ordinary binding":                {nil, pod("Binding", nil, nil), nil},
		"an update of a pod without any":     {pod("Pod", nil, nil), pod("Pod", nil, nil), nil},
		"an update that takes all of it off": {pod("Pod", nil, more), pod("Pod", nil, nil), nil},
	} {
		if got := p.denied(t, fields{"object": c.after, "oldObject": c.before}); !slices.Equal(got, c.denied) {
			t.Errorf("%s: denied by %v, want %v", name, got, c.denied)
		}
	}
}
