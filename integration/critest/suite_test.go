// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"testing"
)

func TestReportIsRead(t *testing.T) {
	for _, test := range []struct{ name, specs, want string }{
		{"out of focus", `{"LeafNodeText":"a","State":"skipped","NumAttempts":0},{"LeafNodeText":"b","State":"passed","NumAttempts":1}`,
			"map[b:passed]"},
		{"skipped by itself", `{"LeafNodeText":"a","State":"skipped","NumAttempts":1},{"LeafNodeText":"b","State":"passed","NumAttempts":1}`,
			"map[a:skipped b:passed]"},
		{"before the suite", `{"LeafNodeType":"BeforeSuite","State":"failed"},{"LeafNodeText":"b","State":"passed","NumAttempts":1}`,
			"map[:failed b:passed]"},
		{"below a context", `{"ContainerHierarchyTexts":["NRI","pods"],"LeafNodeText":"b","State":"passed","NumAttempts":1}`,
			"map[NRI pods b:passed]"},
		{"nothing passed", `{"LeafNodeText":"a","State":"failed","NumAttempts":1}`, "map[]"},
		{"no specs", ``, "map[]"},
	} {
		read, err := parse([]byte(`[{"SpecReports":[` + test.specs + `]}]`))
		if got := fmt.Sprint(map[string]string(read)); got != test.want || (err == nil) != (len(read) > 0) {
			t.Errorf("%s: read %v (%v), want %s", test.name, got, err, test.want)
		}
	}
}

func TestWorse(t *testing.T) {
	without := outcomes{"a": "passed", "b": "failed", "c": "skipped"}
	for _, test := range []struct {
		with outcomes
		want string
	}{
		{outcomes{"a": "passed", "b": "failed", "c": "skipped"}, "[]"},
		{outcomes{"a": "passed", "b": "passed", "c": "passed"}, "[]"},
		{outcomes{"a": "skipped", "b": "timedout", "c": "passed"}, "[]"},
		{outcomes{"a": "panicked", "b": "failed", "c": "failed"}, "[a c]"},
		{outcomes{"b": "failed", "c": "skipped"}, "[a]"},
	} {
		if got := fmt.Sprint(test.with.worse(without)); got != test.want {
			t.Errorf("%v is worse in %s, want %s", test.with, got, test.want)
		}
	}
}
