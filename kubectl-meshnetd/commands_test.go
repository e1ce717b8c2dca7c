// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
)

// Each command has an example, says how it ends, and is in the docs.
func TestCommands(t *testing.T) {
	page, err := os.ReadFile("../docs/operate.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range root().Commands() {
		if c.Name() == "help" || c.Name() == "completion" {
			continue
		}
		if !strings.Contains(c.Example, "kubectl meshnetd "+c.Name()) || !strings.Contains(c.Long, "Exit ") {
			t.Errorf("%s: %s\n%s", c.Name(), c.Long, c.Example)
		}
		if !strings.Contains(string(page), "kubectl meshnetd "+c.Name()) && !strings.Contains(string(page), "`"+c.Name()) {
			t.Errorf("operate.md has no %s", c.Name())
		}
	}
}

// At a tab kubectl runs __complete: it gets the namespace's pods, and the words for workloads.
func TestComplete(t *testing.T) {
	f := &fake{pods: func(string, int) ([]string, bool) {
		return []string{meshed("web-1", "a", ""), meshed("cart-1", "a", "")}, false
	}}
	var out, errs bytes.Buffer
	flags := f.serve(t)
	if code := run(t.Context(), append(append([]string{"__complete"}, flags...), "explain", "w"), &out, &errs); code != 0 {
		t.Fatalf("exit %d: %s", code, errs.String())
	}
	if got := out.String(); !strings.Contains(got, "web-1\n") || strings.Contains(got, "cart-1") || !strings.Contains(got, "deployment/\n") {
		t.Errorf("offers %q", got)
	}
	f.nodes = []string{"worker-1", "worker-2", "other"}
	for want, args := range map[string][]string{
		"worker-1\nworker-2\n:": {"doctor", "--node", "w"},
		"wide\njson\nyaml\n:":   {"status", "-o", ""},
		"c\n:":                  {"status", "--context", ""},
	} {
		out.Reset()
		if code := run(t.Context(), append(append([]string{"__complete"}, flags...), args...), &out, &errs); code != 0 || !strings.HasPrefix(out.String(), want) {
			t.Errorf("%v: exit %d, offers %q", args, code, out.String())
		}
	}
}
