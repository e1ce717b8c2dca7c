// SPDX-License-Identifier: Apache-2.0

// Command report reads what `go test -json` prints, and prints what a person wants to know of it: each package when
// it is done, what failed with its output, the slowest tests, and how many tests did not run for want of what.
package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
)

func main() {
	strict := flag.Bool("strict", false, "fail where a test did not run for want of ids, of the kernel or of programs")
	flag.Parse()
	r := newReport(os.Stdout)
	err := r.read(os.Stdin)
	r.finish()
	if err != nil {
		fmt.Fprintln(os.Stderr, "report:", err)
	}
	if err != nil || r.failed || *strict && len(r.lacking) > 0 {
		os.Exit(1)
	}
}

// event is a line of `go test -json`, see `go doc test2json`.
type event struct {
	Action, Package, Test, Output, ImportPath string
	Elapsed                                   float64
}

type report struct {
	out     io.Writer
	output  map[[2]string]*strings.Builder // of tests and packages that run
	slowest []event
	lacking map[string][]string // tests by what they need and do not have
	later   int                 // tests that need a runtime, or more than a user can have
	failed  bool
	tests   int
}

func newReport(out io.Writer) *report {
	return &report{out: out, output: map[[2]string]*strings.Builder{}, lacking: map[string][]string{}}
}

func (r *report) read(in io.Reader) error {
	lines := bufio.NewScanner(in)
	for lines.Buffer(nil, 1<<24); lines.Scan(); {
		var e event
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			fmt.Fprintln(r.out, lines.Text()) // not of a test
			continue
		}
		r.see(e)
	}
	return lines.Err()
}

func (r *report) see(e event) {
	key := [2]string{e.Package, e.Test}
	switch e.Action {
	case "output":
		if r.output[key] == nil {
			r.output[key] = &strings.Builder{}
		}
		r.output[key].WriteString(e.Output)
	case "build-output":
		fmt.Fprint(r.out, e.Output)
	case "build-fail":
		r.failed = true
	case "pass", "fail", "skip":
		text := ""
		if b := r.output[key]; b != nil {
			text = b.String()
		}
		delete(r.output, key)
		if e.Test == "" {
			r.endPackage(e, text)
		} else {
			r.endTest(e, text)
		}
	}
}

func (r *report) endPackage(e event, text string) {
	switch name := short(e.Package); e.Action {
	case "pass":
		fmt.Fprintf(r.out, "ok    %6.1f s  %s\n", e.Elapsed, name)
	case "fail":
		r.failed = true
		fmt.Fprintf(r.out, "FAIL  %6.1f s  %s\n%s", e.Elapsed, name, text)
	}
}

func (r *report) endTest(e event, text string) {
	r.tests++
	if !strings.Contains(e.Test, "/") {
		r.slowest = append(r.slowest, e)
	}
	name := short(e.Package) + "." + e.Test
	switch e.Action {
	case "fail":
		fmt.Fprintf(r.out, "FAIL  %6.1f s  %s\n%s", e.Elapsed, name, text)
	case "skip":
		_, need, found := strings.Cut(text, ": needs ")
		need, _, _ = strings.Cut(need, "\n")
		switch {
		case !found:
			need = "something that it does not say"
		case strings.HasPrefix(need, "a runtime"), strings.HasPrefix(need, "root of the whole system"):
			r.later++
			return
		}
		r.lacking[need] = append(r.lacking[need], name)
	}
}

func (r *report) finish() {
	for key, text := range r.output { // of what never ended
		fmt.Fprintf(r.out, "did not end: %s %s\n%s", short(key[0]), key[1], text)
		r.failed = true
	}
	slices.SortFunc(r.slowest, func(a, b event) int { return cmp.Compare(b.Elapsed, a.Elapsed) })
	fmt.Fprintln(r.out, "\nThe slowest tests:")
	for _, e := range r.slowest[:min(10, len(r.slowest))] {
		fmt.Fprintf(r.out, "  %6.1f s  %s.%s\n", e.Elapsed, short(e.Package), e.Test)
	}
	lacking := 0
	for _, need := range slices.Sorted(maps.Keys(r.lacking)) {
		lacking += len(r.lacking[need])
		fmt.Fprintf(r.out, "Need %s: %s\n", need, strings.Join(r.lacking[need], ", "))
	}
	fmt.Fprintf(r.out, "%d tests and subtests; %d did not run for want of ids, of the kernel or of programs", r.tests, lacking)
	if r.later > 0 {
		fmt.Fprintf(r.out, "; %d need a runtime or the system's root: make test", r.later)
	}
	fmt.Fprintln(r.out)
}

func short(pkg string) string {
	return cmp.Or(strings.TrimPrefix(pkg, "github.com/meshnetd/meshnetd/"), pkg)
}
