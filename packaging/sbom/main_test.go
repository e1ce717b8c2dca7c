// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"testing"
	"time"
)

// The test's own program is what is described: it is made of modules, too.
func TestDescribesThisProgram(t *testing.T) {
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("SOURCE_DATE_EPOCH", "1700000000")
	var out, again bytes.Buffer
	if err := run(self, &out); err != nil {
		t.Fatal(err)
	}
	if err := run(self, &again); err != nil || !bytes.Equal(out.Bytes(), again.Bytes()) {
		t.Errorf("the second text is another one, or %v", err)
	}
	var d document
	if err := json.Unmarshal(out.Bytes(), &d); err != nil {
		t.Fatal(err)
	}
	if d.Version != "SPDX-2.3" || d.Creation.Created != "2023-11-14T22:13:20Z" || !strings.HasPrefix(d.Namespace, "https://") {
		t.Errorf("got %+v", d)
	}
	if sums := d.Packages[0].Checksums; len(sums) != 1 || len(sums[0].Value) != 64 {
		t.Errorf("checksums of the program: %v", sums)
	}
}

// Each module is named with its version, as what is linked into the program; one that is replaced by what replaces it.
func TestNamesEachModule(t *testing.T) {
	info := &debug.BuildInfo{GoVersion: "go1.26.8", Main: debug.Module{Path: "example.org/program"}, Deps: []*debug.Module{
		{Path: "example.org/one", Version: "v1.2.3", Sum: "h1:abc="},
		{Path: "example.org/two", Version: "v2.0.0", Replace: &debug.Module{Path: "example.org/fork", Version: "v2.0.1"}},
	}}
	d := describe(info, [32]byte{}, time.Unix(0, 0))
	var got []string
	for _, p := range d.Packages {
		got = append(got, p.Name+" "+p.Version+" "+p.ExternalRefs[0].Locator+" "+p.Comment)
	}
	want := []string{
		"example.org/program (devel) pkg:golang/example.org/program@(devel) The checksum is the program's. Built with ",
		"std 1.26.8 pkg:golang/std@1.26.8 ",
		"example.org/one v1.2.3 pkg:golang/example.org/one@v1.2.3 go.sum: h1:abc=",
		"example.org/fork v2.0.1 pkg:golang/example.org/fork@v2.0.1 ",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	for i, p := range d.Packages[1:] {
		if r := d.Relationships[i+1]; r.From != d.Packages[0].ID || r.Kind != "STATIC_LINK" || r.To != p.ID {
			t.Errorf("%s is not linked into the program: %+v", p.Name, r)
		}
	}
}

func TestBadInput(t *testing.T) {
	if err := run("main.go", &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "main.go") {
		t.Errorf("a text file: %v", err)
	}
	self, _ := os.Executable()
	t.Setenv("SOURCE_DATE_EPOCH", "yesterday")
	if err := run(self, &bytes.Buffer{}); err == nil || !strings.Contains(err.Error(), "SOURCE_DATE_EPOCH") {
		t.Errorf("a bad time: %v", err)
	}
}
