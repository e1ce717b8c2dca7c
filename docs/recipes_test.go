// SPDX-License-Identifier: Apache-2.0

package docs

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

var (
	place  = regexp.MustCompile("`((?:rules|config|daemon|nriplugin|cmd|systemd|metrics|integration|internal|packaging|docs|status)/[A-Za-z0-9_./-]*)`(?: `([A-Za-z]+)`)?")
	recipe = regexp.MustCompile(`(?m)^### An? (.*)$`)
)

// Who follows a recipe finds each file and each name where it says.
func TestRecipes(t *testing.T) {
	_, recipes, _ := strings.Cut(read(t, "../CONTRIBUTING.md"), "\n## Recipes\n")
	recipes, _, _ = strings.Cut(recipes, "\n## ")
	if names := recipe.FindAllString(recipes, -1); len(names) < 6 {
		t.Fatalf("recipes for %v only", names)
	}
	places := place.FindAllStringSubmatch(recipes, -1)
	if len(places) < 30 {
		t.Fatalf("only %d places", len(places))
	}
	for _, found := range places {
		file, name := filepath.Join("..", found[1]), found[2]
		if _, err := os.Stat(file); err != nil {
			t.Error(err)
		} else if name != "" && !regexp.MustCompile(`(?m)^(?:func(?: \([^)]*\))?|type|var|const|	type) `+name+`\b|^	`+name+` +(?:interface|struct)`).MatchString(read(t, file)) {
			t.Errorf("%s declares no %s", found[1], name)
		}
	}
}

// The rooms of ARCHITECTURE.md are the packages that there are. Those below integration and internal are tests.
func TestRooms(t *testing.T) {
	_, rooms, _ := strings.Cut(read(t, "../ARCHITECTURE.md"), "\n## The rooms\n\n```\n")
	rooms, _, _ = strings.Cut(rooms, "```")
	err := fs.WalkDir(os.DirFS(".."), ".", func(path string, entry fs.DirEntry, err error) error {
		switch {
		case err != nil:
			return err
		case !entry.IsDir():
			if filepath.Ext(path) == ".go" && !strings.HasSuffix(path, "_test.go") && !strings.Contains(rooms, filepath.Base(filepath.Dir(path))+"/") {
				t.Errorf("%s is in no room", path)
			}
			return nil
		}
		switch path {
		case ".git", "build", "integration", "internal", "packaging", "docs":
			return fs.SkipDir
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range regexp.MustCompile(`[a-z0-9-]+/[a-z/]*`).FindAllString(rooms, -1) {
		if !exists(room) {
			t.Errorf("there is no %s", room)
		}
	}
}

// exists looks for a room at the top, or below one that has rooms.
func exists(room string) bool {
	for _, house := range []string{".", "rules", "daemon", "doctor", "status", "systemd"} {
		if info, err := os.Stat(filepath.Join("..", house, room)); err == nil && info.IsDir() {
			return true
		}
	}
	return false
}
