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
// comes up once the fault is gone. Neither helps who breaks it on purpose.
func TestFaults(t *testing.T)        { playEach(t, lab.Runtimes()[:1], false) }
func TestFaultsBeside(t *testing.T)  { playEach(t, lab.Runtimes()[1:], false) }
func TestAttacks(t *testing.T)       { playEach(t, lab.Runtimes()[:1], true) }
func TestAttacksBeside(t *testing.T) { playEach(t, lab.Runtimes()[1:], true) }

func playEach(t *testing.T, runtimes []lab.Runtime, attackers bool) {
	for _, runtime := range runtimes {
		t.Run(string(runtime), func(t *testing.T) { play(t, runtime, attackers) })
	}
}

func play(t *testing.T, runtime lab.Runtime, attackers bool) {
	t.Helper()
	program := daemonFor(runtime)
	if attackers {
		program = bounded
	}
	w := openWorld(t, runtime, program)
	var results []faults.Result
	for _, row := range w.Rows() {
		if row.Attacker != attackers || row.Rare {
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
	w := openWorld(t, lab.Runtimes()[0], binary)
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
func openWorld(t *testing.T, runtime lab.Runtime, program func() (string, error)) *faults.World {
	t.Helper()
	opts := faults.Options{Lab: labOptions(t, runtime)}
	opts.Lab.NRITimeout = 0 // the runtime's own, which is what a kubelet lives with
	var err error
	if opts.Meshnetd, err = program(); err != nil {
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
