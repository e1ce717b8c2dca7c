// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/kube"
)

var record = flag.Bool("record", false, "write the tables of docs/migrate.md, with today's date")

// compare compares a table of docs/migrate.md with what was seen, or writes it there.
func compare(t *testing.T, name, seen string) {
	t.Helper()
	t.Logf("seen:\n%s", seen)
	if t.Failed() {
		return
	}
	page := filepath.Join(kube.Root(t), "docs", "migrate.md")
	text, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, found := strings.Cut(string(text), "<!-- seen: "+name+" -->\n")
	was, after, ended := strings.Cut(rest, "<!-- end -->")
	if !found || !ended {
		t.Fatalf("docs/migrate.md has no place for the table %s", name)
	}
	_, table, _ := strings.Cut(was, "\n\n")
	if *record {
		said := fmt.Sprintf("Seen on %s by `make test-istio`:\n\n%s\n", time.Now().UTC().Format(time.DateOnly), seen)
		if err := os.WriteFile(page, []byte(before+"<!-- seen: "+name+" -->\n"+said+"<!-- end -->"+after), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	if strings.TrimSpace(table) != strings.TrimSpace(seen) {
		t.Errorf("docs/migrate.md says\n%s\nand this run saw\n%s", table, seen)
	}
}
