// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/faults"
	"github.com/meshnetd/meshnetd/integration/faults/faultstest"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

func TestMain(m *testing.M) { labtest.Main(m) }

// Whatever breaks, and whenever it does: nothing goes around the mesh where that is promised, and every pod comes up once
// the fault is gone. A third of the faults is played in a world of its own, so that several are at once.
func TestFaults(t *testing.T)            { playEach(t, lab.Runtimes()[:1], third(0)) }
func TestOtherFaults(t *testing.T)       { playEach(t, lab.Runtimes()[:1], third(1)) }
func TestMoreFaults(t *testing.T)        { playEach(t, lab.Runtimes()[:1], third(2)) }
func TestFaultsBeside(t *testing.T)      { playEach(t, lab.Runtimes()[1:], third(0)) }
func TestOtherFaultsBeside(t *testing.T) { playEach(t, lab.Runtimes()[1:], third(1)) }
func TestMoreFaultsBeside(t *testing.T)  { playEach(t, lab.Runtimes()[1:], third(2)) }

// third is every third fault, and the one that shows that the world's capture sees.
func third(which int) func(int, faults.Row) bool {
	return func(i int, row faults.Row) bool { return !row.Attacker && (row.Outside || i%3 == which) }
}

func playEach(t *testing.T, runtimes []lab.Runtime, wanted func(int, faults.Row) bool) {
	for _, runtime := range runtimes {
		t.Run(string(runtime), func(t *testing.T) {
			program := func(t *testing.T) string { return labtest.Daemon(t, runtime) }
			faultstest.Play(t, faultstest.Open(t, runtime, program), wanted)
		})
	}
}
