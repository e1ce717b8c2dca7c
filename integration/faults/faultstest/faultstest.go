// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package faultstest plays faults in tests.
package faultstest

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// Open runs a private runtime, and what faults are played on, until the test ends. The program is built only where that can be.
func Open(t *testing.T, runtime lab.Runtime, meshnetd func(*testing.T) string) *faults.World {
	t.Helper()
	opts := faults.Options{Lab: labtest.Options(t, runtime)}
	opts.Lab.NRITimeout = 0 // the runtime's own, which is what a kubelet lives with
	opts.Meshnetd, opts.Lab.Standin = meshnetd(t), labtest.Standin(t)
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	w, err := faults.Open(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w
}

// Play plays the rows that are wanted; whatever goes wrong in them is the test's failure.
func Play(t *testing.T, w *faults.World, wanted func(int, faults.Row) bool) {
	t.Helper()
	var results []faults.Result
	for i, row := range w.Rows() {
		if row.Rare || !wanted(i, row) {
			continue
		}
		t.Run(row.Fault, func(t *testing.T) {
			r := w.Play(t.Context(), row)
			results = append(results, r)
			for _, problem := range r.Problems() {
				t.Error(problem)
			}
			if t.Failed() {
				t.Logf("the kubelet saw: %s\nerrors: %q\n%s", r.Saw, r.Errors, r.Log)
			}
		})
	}
	var table strings.Builder
	faults.Print(&table, results)
	t.Logf("\n%s", table.String())
}
