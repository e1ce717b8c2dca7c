// SPDX-License-Identifier: Apache-2.0

package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// A release is what the changelog says: its first version, and the notes of that section alone.
func TestRelease(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "packaging"), 0o755); err != nil {
		t.Fatal(err)
	}
	script, err := os.ReadFile("release.sh")
	if err != nil {
		t.Fatal(err)
	}
	program := filepath.Join(dir, "packaging", "release.sh")
	if err := os.WriteFile(program, script, 0o755); err != nil {
		t.Fatal(err)
	}
	run := func(changelog, what string) (string, error) {
		if err := os.WriteFile(filepath.Join(dir, "CHANGELOG.md"), []byte(changelog), 0o644); err != nil {
			t.Fatal(err)
		}
		out, err := exec.Command(program, what).Output()
		return string(out), err
	}
	const changelog = "# Changelog\n\n## Unreleased\n\n- later\n\n## 0.2.0 (2026-03-01)\n\n- new\n- newer\n\n## 0.1.0\n\n- old\n"
	for what, want := range map[string]string{"version": "0.2.0\n", "notes": "- new\n- newer\n\n"} {
		if got, err := run(changelog, what); err != nil || got != want {
			t.Errorf("%s: %q, %v; want %q", what, got, err, want)
		}
	}
	if got, err := run("# Changelog\n\n## Unreleased\n\n- later\n", "version"); err == nil {
		t.Errorf("without a version: %q", got)
	}
}

// The chart's version is that of the release, so that what is installed from the tree says so too.
func TestChartVersion(t *testing.T) {
	out, err := exec.Command("./release.sh", "version").Output()
	if err != nil {
		t.Fatal(err)
	}
	chart, err := os.ReadFile("helm/meshnetd/Chart.yaml")
	if err != nil {
		t.Fatal(err)
	}
	version := regexp.MustCompile(`(?m)^version: (.*)$`).FindSubmatch(chart)
	if version == nil || string(version[1]) != strings.TrimSpace(string(out)) {
		t.Errorf("the chart is %s, the changelog %s", version, out)
	}
}
