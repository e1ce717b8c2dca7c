// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"io/fs"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// The threat model names what shows that something holds: a test, or a row of the attackers' matrix. It exists.
func TestWhatSecurityIsShownBy(t *testing.T) {
	var tests, rows strings.Builder
	if err := filepath.WalkDir("..", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() && d.Name() == "build" {
			return fs.SkipDir
		}
		switch name := d.Name(); {
		case strings.HasPrefix(name, "rows_attack_"):
			rows.WriteString(read(t, path))
		case strings.HasSuffix(name, "_test.go"):
			tests.WriteString(read(t, path))
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	_, holds, _ := strings.Cut(read(t, "../SECURITY.md"), "## What holds")
	holds, _, _ = strings.Cut(holds, "## What does not hold")
	named := regexp.MustCompile("`((?:Test|Fuzz)\\w+)`").FindAllStringSubmatch(holds, -1)
	if len(named) < 20 {
		t.Errorf("%d tests are named", len(named))
	}
	for _, name := range named {
		if !strings.Contains(tests.String(), "func "+name[1]+"(") {
			t.Errorf("no test is called %s", name[1])
		}
	}
	for _, line := range strings.Split(holds, "\n") {
		_, after, ok := strings.Cut(line, "row")
		if !ok || !strings.HasPrefix(line, "| ") {
			continue
		}
		for _, row := range regexp.MustCompile(`"([^"]+)"`).FindAllStringSubmatch(after, -1) {
			if !strings.Contains(rows.String(), `Fault: "`+row[1]+`"`) {
				t.Errorf("no row of attackers is %q", row[1])
			}
		}
	}
}
