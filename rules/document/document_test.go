// SPDX-License-Identifier: Apache-2.0

package document_test

import (
	"maps"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules/document"
)

func TestTexts(t *testing.T) {
	for text, tt := range map[string]struct {
		want    map[string]string
		problem string
	}{
		"m: {A: x, B: \"2\"}\nother: [1]": {map[string]string{"A": "x", "B": "2"}, ""},
		"m:\n  A: true\n  B: 7\n":         {map[string]string{"A": "true", "B": "7"}, ""},
		`{"m":{"A":"x"}}`:                 {map[string]string{"A": "x"}, ""},
		"m:":                              {nil, ""},
		"other: 1":                        {nil, ""},
		"{}":                              {nil, ""},
		"null":                            {nil, ""},
		"m: [A]":                          {nil, "m (line 1) is not an object"},
		"- m":                             {nil, "the whole (line 1) is not an object"},
		"m: {A: [x]}":                     {nil, "m.A (line 1) is not a text"},
		"x: &x y\nm: {A: *x}":             {nil, "m.A (line 2) is not a text"},
		"m: {":                            {nil, "not YAML"},
		"":                                {nil, "not YAML"},
		"m: {A: x}\n---\nm: {A: y}":       {nil, "something follows"},
		"%TAG ! x\n---\nm: {}":            {nil, "begins with %"},
	} {
		got, problem := document.Texts(text, "m")
		if tt.problem == "" && (problem != "" || !maps.Equal(got, tt.want)) || tt.problem != "" && !strings.Contains(problem, tt.problem) {
			t.Errorf("%q: %q, %q", text, got, problem)
		}
	}
}

func FuzzTexts(f *testing.F) {
	f.Add("proxyMetadata: {A: x}")
	f.Add("a: &a [*a]\nproxyMetadata: *a")
	f.Add("%TAG ! x\n---\nproxyMetadata:\n  A: !!binary eA==")
	f.Fuzz(func(t *testing.T, text string) {
		all, problem := document.Texts(text, "proxyMetadata")
		if problem == "" && all == nil {
			t.Error("neither texts nor a problem")
		}
		for name, value := range all {
			if len(name)+len(value) > 3*len(text) { // what is no UTF-8 becomes longer
				t.Errorf("%d bytes of %d", len(name)+len(value), len(text))
			}
		}
	})
}
