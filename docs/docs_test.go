// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// Who reads an event in the log finds it here, and finds no other. The table of ids has exactly the program's events: a
// test beside it says so.
func TestEveryEvent(t *testing.T) {
	var described []string
	page := read(t, "troubleshooting.md")
	for _, section := range strings.Split(page, "\n### ")[1:] {
		event, text, _ := strings.Cut(section, "\n")
		text, _, _ = strings.Cut(text, "\n## ")
		if len(strings.TrimSpace(text)) < 40 {
			t.Errorf("%s: nothing is said of it", event)
		}
		described = append(described, event)
	}
	slices.Sort(described)
	if diff := cmp.Diff(events(t), described); diff != "" {
		t.Errorf("(-program +page):\n%s", diff)
	}
}

// events returns the keys of the journal's table, sorted.
func events(t *testing.T) []string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), filepath.Join("..", "systemd", "journal", "events.go"), nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	ast.Inspect(file, func(n ast.Node) bool {
		if pair, ok := n.(*ast.KeyValueExpr); ok {
			event, err := strconv.Unquote(pair.Key.(*ast.BasicLit).Value)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, event)
		}
		return true
	})
	if len(all) < 25 {
		t.Fatalf("only %d events in the table: %v", len(all), all)
	}
	slices.Sort(all)
	return all
}

// What a page points at is there, also within a page.
func TestLinks(t *testing.T) {
	link := regexp.MustCompile(`\]\(([^)]+)\)`)
	for _, page := range written(t) {
		for _, found := range link.FindAllStringSubmatch(read(t, page), -1) {
			file, anchor, _ := strings.Cut(found[1], "#")
			if strings.Contains(file, "://") {
				continue
			}
			to := page
			if file != "" {
				to = filepath.Join(filepath.Dir(page), file)
			}
			if _, err := os.Stat(to); err != nil {
				t.Errorf("%s: %v", page, err)
			} else if anchor != "" && !slices.Contains(anchors(read(t, to)), anchor) {
				t.Errorf("%s: %s has no part %s", page, to, anchor)
			}
		}
	}
}

// written returns every page of the repository.
func written(t *testing.T) []string {
	t.Helper()
	var all []string
	for _, pattern := range []string{"../*.md", "*.md", "upstream/*.md", "../packaging/*.md"} {
		pages, err := filepath.Glob(pattern)
		if err != nil || len(pages) == 0 {
			t.Fatalf("%d pages %s, %v", len(pages), pattern, err)
		}
		all = append(all, pages...)
	}
	return all
}

// anchors returns by which names the headings of a page can be pointed at.
func anchors(page string) []string {
	var all []string
	for _, heading := range regexp.MustCompile(`(?m)^#+ (.*)$`).FindAllStringSubmatch(page, -1) {
		name := regexp.MustCompile(`[^a-z0-9_ -]`).ReplaceAllString(strings.ToLower(heading[1]), "")
		all = append(all, strings.ReplaceAll(name, " ", "-"))
	}
	return all
}

// The sentences by which an author or an operator finds the page are the program's own.
func TestSentences(t *testing.T) {
	page := read(t, "troubleshooting.md")
	for _, said := range []struct{ sentence, file string }{
		{"meshnetd is being stopped on this node", "../nriplugin"},
		{"is not a port", "../rules"},
		{"not present", "../integration/packaging_test.go"},
		{`required plugins "meshnetd,meshnetd" not present`, "../integration/packaging_test.go"},
	} {
		if !strings.Contains(page, said.sentence) || !somewhere(t, said.file, said.sentence) {
			t.Errorf("%q is not on the page, or not in %s any more", said.sentence, said.file)
		}
	}
}

func somewhere(t *testing.T, dir, text string) bool {
	t.Helper()
	found := false
	err := filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && filepath.Ext(path) == ".go" {
			found = found || strings.Contains(read(t, path), text)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
