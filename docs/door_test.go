// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// mostReadme is what one reads before deciding whether to go on.
const mostReadme = 7000 // bytes

// The README is short, and its two commands are those of the Makefile; CI runs the second, and more.
func TestReadme(t *testing.T) {
	page := read(t, "../README.md")
	if len(page) > mostReadme {
		t.Errorf("%d bytes, of %d at most", len(page), mostReadme)
	}
	for _, target := range []string{"demo", "test"} {
		if !strings.Contains(page, "\n    make "+target+" ") || !strings.Contains(read(t, "../Makefile"), "\n"+target+":") {
			t.Errorf("make %s is not in the README, or not in the Makefile", target)
		}
	}
	ci := read(t, "../.ci/run")
	for lane, target := range map[string]string{"check": "check", "test": "test", "systemd": "test-systemd", "kube": "test-kube"} {
		if !regexp.MustCompile(`\bmake (-C \S+ )?`+target+`\n`).MatchString(ci) || !regexp.MustCompile(`\|\| set -- .*\b`+lane+`\b`).MatchString(ci) {
			t.Errorf("CI has no lane %s that runs make %s:\n%s", lane, target, ci)
		}
	}
	workflow := read(t, "../.github/workflows/ci.yml")
	for _, command := range []string{"run: make check\n", " make test\n"} {
		if !strings.Contains(workflow, command) {
			t.Errorf("the workflow does not run %q", command)
		}
	}
}

// The index leads to every page.
func TestIndex(t *testing.T) {
	index := read(t, "README.md")
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, page := range pages {
		if page != "README.md" && !strings.Contains(index, "]("+page+")") {
			t.Errorf("README.md does not name %s", page)
		}
	}
}

// What `make` is told to do on a page, and what meshnetd is, exists.
func TestTargets(t *testing.T) {
	makefile, commands := read(t, "../Makefile"), read(t, "commands.md")
	for _, page := range written(t) {
		text := read(t, page)
		for _, found := range regexp.MustCompile("(?:`|    )make ([a-z0-9-]+)").FindAllStringSubmatch(text, -1) {
			if !strings.Contains(makefile, "\n"+found[1]+":") {
				t.Errorf("%s: there is no make %s", page, found[1])
			}
		}
		for _, found := range regexp.MustCompile("(?:`|    )meshnetd ([a-z]+)").FindAllStringSubmatch(text, -1) {
			if found[1] != "is" && !strings.Contains(commands, "\n## meshnetd "+found[1]+"\n") { // "meshnetd is being stopped" is said
				t.Errorf("%s: there is no meshnetd %s", page, found[1])
			}
		}
	}
}

// What lanes name of a package is a test of it: most of them would not miss one that moved.
func TestLanes(t *testing.T) {
	makefile := read(t, "../Makefile")
	var labs []string
	for _, found := range regexp.MustCompile(`(?m)^LABS = (.*)$`).FindAllStringSubmatch(makefile, -1) {
		labs = append(strings.Fields(found[1]), "./integration/lab")
	}
	named := map[string][]string{} // what test names begin with, and the packages
	for _, found := range regexp.MustCompile(`(?m)^ON_[A-Z]+ = (.*)$|-run '\^Test\((.*?)\)'`).FindAllStringSubmatch(makefile, -1) {
		for name := range strings.SplitSeq(found[1]+found[2], "|") {
			if !strings.HasPrefix(name, "$(") {
				named["Test"+strings.TrimSuffix(name, "$")] = labs // make has two for one
			}
		}
	}
	for _, found := range regexp.MustCompile(`\btests\(.*?"([^"]+)", "\^\(?([\w|]+)`).FindAllStringSubmatch(read(t, "../integration/kernels/rows_test.go"), -1) {
		for name := range strings.SplitSeq(found[2], "|") {
			named[name+"$"] = []string{found[1]}
		}
	}
	if len(named) < 50 {
		t.Errorf("only %d tests are named: %v", len(named), named)
	}
	for name, packages := range named {
		begins := regexp.MustCompile(`(?m)^func ` + strings.Replace(name, "$", `\(`, 1))
		if !slices.ContainsFunc(packages, func(pkg string) bool {
			files, err := filepath.Glob(filepath.Join("..", pkg, "*_test.go"))
			if err != nil {
				t.Fatal(err)
			}
			return slices.ContainsFunc(files, func(file string) bool { return begins.MatchString(read(t, file)) })
		}) {
			t.Errorf("%s is none of %v", name, packages)
		}
	}
}

// No fact stands on two pages: a line that does would be changed on one of them only.
func TestNoFactTwice(t *testing.T) {
	const short = 60 // a line of a transcript or a table may say the same by chance
	seen := map[string]string{}
	for _, page := range written(t) {
		for line := range strings.Lines(read(t, page)) {
			line = strings.TrimSpace(line)
			if len(line) < short || strings.HasPrefix(line, "helm upgrade") || strings.HasPrefix(line, "kubectl label") {
				continue
			}
			if other := seen[line]; other != "" && other != page {
				t.Errorf("%s and %s say both: %s", other, page, line)
			}
			seen[line] = page
		}
	}
}

// A field of the journal is an attribute of the log, and a path of the socket is one that it serves.
func TestOperate(t *testing.T) {
	page := read(t, "operate.md")
	fields := regexp.MustCompile("`(?:MESHNETD)?_([A-Z_]+)`").FindAllStringSubmatch(page, -1)
	if len(fields) < 10 {
		t.Fatalf("only %d fields: %v", len(fields), fields)
	}
	for _, field := range fields {
		if key := strings.ToLower(field[1]); key != "namespace" && !somewhere(t, "../daemon", `"`+key+`"`) && !somewhere(t, "../nriplugin", `"`+key+`"`) {
			t.Errorf("%s: nothing is logged under %q", field[0], key)
		}
	}
	for _, path := range []string{"GET /v1/status", "/v1/sandboxes/ID/plan", "/explain", "GET /v1/sandboxes/ID/verify", "/repair", "POST /v1/reload"} {
		if !strings.Contains(page, path) || !somewhere(t, "../status", path[strings.LastIndex(path, "/"):]) {
			t.Errorf("%s is not on the page, or not served", path)
		}
	}
}
