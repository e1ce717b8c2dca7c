// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package attacks has who breaks meshnetd on purpose, and who kills it at random moments.
package attacks

import (
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/faults/faultstest"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m, "TestSoak") }

// Nothing goes around the mesh where that is promised, whoever helps it.
func TestAttacks(t *testing.T)       { playAttacks(t, lab.Runtimes()[:1]) }
func TestAttacksBeside(t *testing.T) { playAttacks(t, lab.Runtimes()[1:]) }

func playAttacks(t *testing.T, runtimes []lab.Runtime) {
	for _, runtime := range runtimes {
		t.Run(string(runtime), func(t *testing.T) {
			w := faultstest.Open(t, runtime, labtest.Bounded)
			faultstest.Play(t, w, func(_ int, row faults.Row) bool { return row.Attacker })
		})
	}
}

// The short form of `make soak`.
func TestSoak(t *testing.T) {
	w := faultstest.Open(t, lab.Runtimes()[0], labtest.Racing)
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
