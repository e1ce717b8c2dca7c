// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// figures are what differs from run to run: the timeline's and the decision's microseconds.
var figures = regexp.MustCompile(`(?m)^ +\d+ µs|decided in \d+`)

// pages returns the module's directory and the texts of the pages that match a pattern there.
func pages(t *testing.T, patterns ...string) (root, text string) {
	t.Helper()
	root, err := lab.FindRoot()
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range patterns {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil || len(files) == 0 {
			t.Fatalf("%d pages %s, %v", len(files), pattern, err)
		}
		for _, file := range files {
			content, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			text += string(content)
		}
	}
	return root, text
}

// Every transcript of the README and the pages is what its command prints today.
func TestTranscripts(t *testing.T) {
	root, text := pages(t, "*.md", "docs/*.md")
	blocks := regexp.MustCompile("(?s)```console\n\\$ ([^\n]+)\n(.*?)```").FindAllStringSubmatch(text, -1)
	if len(blocks) < 3 {
		t.Fatalf("%d transcripts found", len(blocks))
	}
	for _, block := range blocks {
		command, want := block[1], block[2]
		t.Run(command, func(t *testing.T) {
			got := transcript(t, root, strings.Fields(command))
			if diff := cmp.Diff(figures.ReplaceAllString(want, ""), figures.ReplaceAllString(got, "")); diff != "" {
				t.Errorf("(-page +today):\n%s", diff)
			}
		})
	}
}

// transcript runs a command of a page and returns its standard output.
func transcript(t *testing.T, root string, words []string) string {
	t.Helper()
	meshnetd := labtest.Bounded(t)
	cmd := exec.Command(meshnetd, words[1:]...)
	if words[0] == "make" {
		cmd = demo(t, meshnetd)
	}
	cmd.Dir, cmd.Stderr = root, t.Output()
	out, err := cmd.Output()
	var failed *exec.ExitError // a transcript may be one of a refusal
	if err != nil && !errors.As(err, &failed) {
		t.Fatal(err)
	}
	return string(out)
}

// demo is what `make demo` runs once everything is built.
func demo(t *testing.T, meshnetd string) *exec.Cmd {
	t.Helper()
	l := labtest.DualStack(t, lab.Containerd24) // checks what is needed, and that two labs get along
	program, err := lab.Build(t.Context(), "demo", "./integration/demo")
	if err != nil {
		t.Fatal(err)
	}
	path := labtest.Standin(t)
	return exec.Command(program, "-runtimes", l.Binaries(), "-meshnetd", meshnetd, "-standin", path)
}

// The page has a row for each fault and each attack, and no packet in it where none is allowed: counts differ from run
// to run, these do not.
func TestFaultsPage(t *testing.T) {
	_, text := pages(t, "docs/guarantee.md")
	rows := map[string][]string{}
	for line := range strings.SplitSeq(text, "\n") {
		if cells := strings.Split(line, " | "); len(cells) == 7 && strings.HasPrefix(line, "| ") {
			rows[strings.TrimPrefix(cells[0], "| ")] = cells
		}
	}
	for _, row := range faults.Rows() {
		cells, ok := rows[row.Fault]
		switch {
		case !ok:
			t.Errorf("no row for %q", row.Fault)
		case !row.Outside && !row.Hole && cells[2] != "0":
			t.Errorf("%q: %s packets around the mesh with the guaranteed runtime", row.Fault, cells[2])
		case !row.Outside && !row.Hole && row.Everywhere && !row.Validators && cells[5] != "0":
			t.Errorf("%q: %s packets around the mesh with the best-effort runtime", row.Fault, cells[5])
		}
		delete(rows, row.Fault)
	}
	for fault := range rows {
		if fault != "fault" && fault != "attack" && !strings.HasPrefix(fault, "---") {
			t.Errorf("%q is no fault that is played", fault)
		}
	}
}
