// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestMain(m *testing.M) {
	labtest.Main(m, "TestFaults", "TestOtherFaults", "TestFaultsBeside", "TestOtherFaultsBeside", "TestSoak")
}

// Whatever breaks, and whenever it does: nothing goes around the mesh where that is promised, and every pod
// comes up once the fault is gone. Neither helps who breaks it on purpose. Half of the faults are played in a world of their
// own, which takes half the time.
func TestFaults(t *testing.T)            { playEach(t, lab.Runtimes()[:1], half(0)) }
func TestOtherFaults(t *testing.T)       { playEach(t, lab.Runtimes()[:1], half(1)) }
func TestFaultsBeside(t *testing.T)      { playEach(t, lab.Runtimes()[1:], half(0)) }
func TestOtherFaultsBeside(t *testing.T) { playEach(t, lab.Runtimes()[1:], half(1)) }

func TestAttacks(t *testing.T)       { playAttacks(t, lab.Runtimes()[:1]) }
func TestAttacksBeside(t *testing.T) { playAttacks(t, lab.Runtimes()[1:]) }

// half is every second fault, and the one that shows that the world's capture sees.
func half(which int) func(int, faults.Row) bool {
	return func(i int, row faults.Row) bool { return !row.Attacker && (row.Outside || i%2 == which) }
}

func playEach(t *testing.T, runtimes []lab.Runtime, wanted func(int, faults.Row) bool) {
	for _, runtime := range runtimes {
		t.Run(string(runtime), func(t *testing.T) {
			play(t, openWorld(t, runtime, labtest.Daemon), wanted)
		})
	}
}

func playAttacks(t *testing.T, runtimes []lab.Runtime) {
	for _, runtime := range runtimes {
		t.Run(string(runtime), func(t *testing.T) {
			w := openWorld(t, runtime, func(t *testing.T, _ lab.Runtime) string { return labtest.Bounded(t) })
			play(t, w, func(_ int, row faults.Row) bool { return row.Attacker })
		})
	}
}

func play(t *testing.T, w *faults.World, wanted func(int, faults.Row) bool) {
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

// The short form of `make soak`.
func TestSoak(t *testing.T) {
	w := openWorld(t, lab.Runtimes()[0], labtest.Daemon)
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

// openWorld runs a private runtime, and what faults are played on, until the test ends.
func openWorld(t *testing.T, runtime lab.Runtime, program func(*testing.T, lab.Runtime) string) *faults.World {
	t.Helper()
	opts := faults.Options{Lab: labtest.Options(t, runtime)}
	opts.Lab.NRITimeout = 0 // the runtime's own, which is what a kubelet lives with
	opts.Meshnetd, opts.Lab.Standin = program(t, runtime), labtest.Standin(t)
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
