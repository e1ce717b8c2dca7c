// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
)

// line is one of the package "a".
func line(action, test, output string, elapsed float64) string {
	return fmt.Sprintf(`{"Action":%q,"Package":"github.com/meshnetd/meshnetd/a","Test":%q,"Output":%q,"Elapsed":%f}`, action, test, output, elapsed)
}

func TestReport(t *testing.T) {
	skipped := func(test, why string) []string {
		return []string{line("output", test, "    x_test.go:7: "+why+"\n", 0), line("skip", test, "", 0)}
	}
	for _, tt := range []struct {
		name           string
		lines          []string
		want           []string
		failed, lacked bool
	}{
		{"good", []string{line("pass", "TestFast", "", 0.1), line("pass", "TestSlow", "", 9), line("pass", "", "", 10)},
			[]string{"ok      10.0 s  a\n", "The slowest tests:\n     9.0 s  a.TestSlow\n     0.1 s  a.TestFast\n", "2 tests and subtests; 0 did not run"}, false, false},
		{"failed", []string{line("output", "TestBad", "    x_test.go:1: got 2\n", 0), line("fail", "TestBad", "", 1), line("fail", "", "", 1)},
			[]string{"a.TestBad\n    x_test.go:1: got 2\n"}, true, false},
		{"does not build", []string{`{"ImportPath":"b","Action":"build-output","Output":"b.go:1: syntax error\n"}`, `{"ImportPath":"b","Action":"build-fail"}`},
			[]string{"b.go:1: syntax error\n"}, true, false},
		{"killed", []string{line("output", "TestCut", "=== RUN   TestCut\n", 0)}, []string{"did not end: a TestCut"}, true, false},
		{"later", slices.Concat(skipped("TestOne", "needs a runtime: containerd is missing"), skipped("TestTwo", "needs root of the whole system (make test)")),
			[]string{"0 did not run for want of ids, of the kernel or of programs; 2 need a runtime or the system's root"}, false, false},
		{"ids", slices.Concat(skipped("TestOne", "needs ids"), skipped("TestTwo", "needs ids")), []string{"Need ids: a.TestOne, a.TestTwo\n", "2 did not run"}, false, true},
		{"no reason", skipped("TestOne", "not today"), []string{"1 did not run"}, false, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out strings.Builder
			r := newReport(&out)
			if err := r.read(strings.NewReader(strings.Join(tt.lines, "\n"))); err != nil {
				t.Fatal(err)
			}
			r.finish()
			for _, want := range tt.want {
				if !strings.Contains(out.String(), want) {
					t.Errorf("got\n%s\nwant %q", out.String(), want)
				}
			}
			if r.failed != tt.failed || len(r.lacking) > 0 != tt.lacked {
				t.Errorf("failed %t, lacking %v", r.failed, r.lacking)
			}
		})
	}
}
