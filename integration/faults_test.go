// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
)

// Whatever breaks, and whenever it does: nothing goes around the mesh where that is promised, and every pod
// comes up once the fault is gone.
func TestFaults(t *testing.T) {
	for _, version := range lab.Versions() {
		t.Run(string(version), func(t *testing.T) {
			w := openWorld(t, version)
			var results []faults.Result
			for _, row := range w.Rows() {
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
		})
	}
}

// The short form of `make soak`.
func TestSoak(t *testing.T) {
	w := openWorld(t, lab.Containerd24)
	soak := faults.Soak{Pods: 60, AtOnce: 4, Seed: uint64(time.Now().UnixNano())}
	r, err := w.Soak(t.Context(), soak)
	if err != nil {
		t.Error(err)
	}
	for _, problem := range r.Problems() {
		t.Error(problem)
	}
	var text strings.Builder
	r.Print(&text)
	t.Log("\n" + text.String())
}

// openWorld runs a private containerd, and what faults are played on, until the test ends.
func openWorld(t *testing.T, version lab.Version) *faults.World {
	t.Helper()
	opts := faults.Options{Lab: labOptions(t, version)}
	var err error
	if opts.Meshnetd, err = binary(); err != nil {
		t.Fatal(err)
	}
	if opts.Lab.Standin, err = standin(); err != nil {
		t.Fatal(err)
	}
	w, err := faults.Open(within(t, time.Minute), opts)
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
