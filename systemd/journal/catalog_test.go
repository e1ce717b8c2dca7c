// SPDX-License-Identifier: Apache-2.0

//go:build linux

package journal

import (
	"go/ast"
	"go/parser"
	"go/token"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/integration/nstest"
)

const catalog = "../meshnetd.catalog"

// A new event needs an id and an entry in the catalog, and one that is gone must not leave them behind.
func TestEveryEventHasOneEntry(t *testing.T) {
	events := eventsOfTheProgram(t)
	if len(events) < 25 {
		t.Errorf("only %d events found in the program: %v", len(events), events)
	}
	if diff := cmp.Diff(events, slices.Sorted(maps.Keys(messageIDs))); diff != "" {
		t.Errorf("events of the program and of the table of ids (-program +table):\n%s", diff)
	}
	ids := map[string]string{}
	for event, id := range messageIDs {
		if !regexp.MustCompile(`^[0-9a-f]{32}$`).MatchString(id) {
			t.Errorf("%s: %q is no id", event, id)
		}
		if other, taken := ids[id]; taken {
			t.Errorf("%s and %s have one id", event, other)
		}
		ids[id] = event
	}
	for id, entry := range entries(t) {
		if ids[id] == "" {
			t.Errorf("the catalog's entry %s is for no event: %s", id, entry)
		}
		if !strings.Contains(entry, "\nDefined-By: meshnetd\n") || strings.Count(entry, "\nSubject: ") != 1 || len(strings.Split(entry, "\n")) < 5 {
			t.Errorf("%s: the entry is not whole: %q", ids[id], entry)
		}
		delete(ids, id)
	}
	for id, event := range ids {
		t.Errorf("the catalog has no entry for %s (%s)", event, id)
	}
}

// What an entry mentions must be what some line carries: a field that does not exist is shown as nothing.
func TestCatalogNamesFields(t *testing.T) {
	known := map[string]bool{Field("namespace"): true, Field("error"): true}
	files(t, func(file *ast.File) {
		ast.Inspect(file, func(n ast.Node) bool {
			if lit, ok := n.(*ast.BasicLit); ok && lit.Kind == token.STRING {
				if text, err := strconv.Unquote(lit.Value); err == nil && regexp.MustCompile(`^[a-z_]+$`).MatchString(text) {
					known[Field(text)] = true
				}
			}
			return true
		})
	})
	for id, entry := range entries(t) {
		for _, field := range regexp.MustCompile(`MESHNETD_[A-Z_]+`).FindAllString(entry, -1) {
			if !known[field] {
				t.Errorf("entry %s: no line carries %s", id, field)
			}
		}
	}
}

func TestSystemdTakesTheCatalog(t *testing.T) {
	journalctl, err := exec.LookPath("journalctl")
	if err != nil {
		nstest.Lack(t, "journalctl, of the package systemd")
	}
	root := t.TempDir()
	text, err := os.ReadFile(catalog)
	if err != nil {
		t.Fatal(err)
	}
	for _, dir := range []string{"usr/lib/systemd/catalog", "var/lib/systemd/catalog"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "usr/lib/systemd/catalog/meshnetd.catalog"), text, 0o644); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(t.Context(), journalctl, "--root="+root, "--update-catalog").CombinedOutput(); err != nil || len(out) > 0 {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.CommandContext(t.Context(), journalctl, "--root="+root, "--list-catalog").Output()
	if n := strings.Count(string(out), "\n"); err != nil || n != len(messageIDs) {
		t.Errorf("%v: systemd knows %d entries, want %d:\n%s", err, n, len(messageIDs), out)
	}
}

// A pod that was refused or skipped may be none that meshnetd knows by its name: it is explained from its manifest.
func TestEntriesOfPodsThatAreNotKnown(t *testing.T) {
	for _, event := range []string{"pod_blocked", "pod_skipped"} {
		if entry := entries(t)[messageIDs[event]]; !strings.Contains(entry, "meshnetd explain -f pod.yaml") || strings.Contains(entry, "meshnetd explain @") {
			t.Errorf("%s: %s", event, entry)
		}
	}
}

// entries returns the catalog's entries by id.
func entries(t *testing.T) map[string]string {
	t.Helper()
	text, err := os.ReadFile(catalog)
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]string{}
	for _, part := range strings.Split("\n"+string(text), "\n-- ")[1:] {
		id, entry, _ := strings.Cut(part, "\n")
		if _, twice := all[id]; twice {
			t.Errorf("two entries %s", id)
		}
		all[id] = "\n" + entry
	}
	return all
}

// files calls f with each file of the program that can log.
func files(t *testing.T, f func(*ast.File)) {
	t.Helper()
	for _, dir := range []string{"cmd", "cri", "daemon", "doctor", "kubelet", "metrics", "nriplugin", "status", "systemd"} {
		err := filepath.WalkDir(filepath.Join("../..", dir), func(path string, _ fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			file, err := parser.ParseFile(token.NewFileSet(), path, nil, parser.SkipObjectResolution)
			if err == nil {
				f(file)
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
}

// eventsOfTheProgram reads the code for what follows the key "event" in a call: a word, a constant, the parameter
// "event" of a function that is called with a word, or what an outcome calls itself.
func eventsOfTheProgram(t *testing.T) []string {
	t.Helper()
	found := map[string]bool{}
	files(t, func(file *ast.File) {
		takes := map[string]int{} // functions with a parameter "event", and its place
		ast.Inspect(file, func(n ast.Node) bool {
			switch n := n.(type) {
			case *ast.FuncDecl:
				place(takes, n.Name.Name, n.Type)
			case *ast.AssignStmt:
				if f, ok := n.Rhs[0].(*ast.FuncLit); ok {
					place(takes, nameOf(n.Lhs[0]), f.Type)
				}
			case *ast.ValueSpec:
				for i, name := range n.Names {
					if (strings.HasPrefix(name.Name, "Event") || name.Name == "event") && i < len(n.Values) {
						word(found, n.Values[i])
					}
				}
			}
			return true
		})
		ast.Inspect(file, func(n ast.Node) bool {
			call, ok := n.(*ast.CallExpr)
			if !ok {
				return true
			}
			if i, ok := takes[nameOf(call.Fun)]; ok && !word(found, call.Args[i]) && !followed(call.Args[i]) {
				t.Errorf("%s is called with an event that this test does not find", nameOf(call.Fun))
			}
			for i, arg := range call.Args {
				if lit, ok := arg.(*ast.BasicLit); !ok || lit.Value != `"event"` || i+1 >= len(call.Args) {
					continue
				}
				if !word(found, call.Args[i+1]) && !followed(call.Args[i+1]) {
					t.Errorf("an event that this test does not find follows %q in a call", "event")
				}
			}
			return true
		})
	})
	return slices.Sorted(maps.Keys(found))
}

// nameOf returns the last word of what is called or assigned to.
func nameOf(e ast.Expr) string {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name
	case *ast.SelectorExpr:
		return e.Sel.Name
	}
	return ""
}

func place(takes map[string]int, name string, f *ast.FuncType) {
	i := 0
	for _, p := range f.Params.List {
		for _, n := range p.Names {
			if n.Name == "event" {
				takes[name] = i
			}
			i++
		}
	}
}

// word adds the event where it is a word of the code.
func word(found map[string]bool, e ast.Expr) bool {
	lit, ok := e.(*ast.BasicLit)
	if !ok || lit.Kind != token.STRING {
		return false
	}
	text, err := strconv.Unquote(lit.Value)
	found[text] = true
	return err == nil
}

// followed reports whether the event is found elsewhere: as a constant, or as the parameter "event".
func followed(e ast.Expr) bool {
	switch e := e.(type) {
	case *ast.Ident:
		return e.Name == "event" || strings.HasPrefix(e.Name, "Event")
	case *ast.SelectorExpr: // a constant of another package, or of a line that was made of an outcome
		return followed(e.Sel)
	case *ast.CallExpr:
		return followed(e.Fun)
	}
	return false
}
