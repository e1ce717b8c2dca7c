// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"fmt"
	"os"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// most is what the hook of a dual-stack pod with Istio's default rules may take, whatever the machine: system calls, pieces of Go's
// heap and their kilobytes. It is a little more than was counted when a figure was written here.
var most = map[string]struct{ calls, pieces, kilobytes int }{
	backend.IPTables: {110, 335, 62},
	backend.NFTables: {110, 930, 120},
}

// What a hook costs is counted, not timed: a busy machine counts the same.
func TestCostOfAHook(t *testing.T) {
	if by := os.Getenv(played); by != "" {
		b, _, _ := counting(t, by)
		if err := b.play(by); err != nil {
			t.Fatal(err)
		}
		return
	}
	nstest.Require(t, "strace")
	for by, most := range most {
		t.Run(by, func(t *testing.T) {
			b, w, k := counting(t, by)
			costs, err := b.traced(by, "-test.run=^TestCostOfAHook$", fmt.Sprint("-test.short=", testing.Short()))
			if err != nil {
				t.Fatal(err)
			}
			var each float64
			for at, c := range costs {
				t.Logf("%4.1f calls: %s", c.calls, stageNames[at])
				each += c.calls
			}
			if each > float64(most.calls) {
				t.Errorf("%.0f system calls, want at most %d", each, most.calls)
			}
			peer := b.starts(w, k)
			if err := b.allocations(w, k, peer); err != nil {
				t.Fatal(err)
			}
			var kilobytes, pieces int
			if _, err := fmt.Sscanf(peer.Note, "%d kB in %d allocations", &kilobytes, &pieces); err != nil || pieces > most.pieces || kilobytes > most.kilobytes {
				t.Errorf("%s (%v), want at most %d kB in %d", peer.Note, err, most.kilobytes, most.pieces)
			}
			t.Logf("%.0f system calls, %s", each, peer.Note)
		})
	}
}

// counting is a bench, a backend of it, and the kind of pods that are started.
func counting(t *testing.T, by string) (*bench, writer, kind) {
	t.Helper()
	b := &bench{ctx: t.Context(), out: t.Output(), effort: 100}
	if testing.Short() {
		b.effort = 20
	}
	n, err := b.ready()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.close)
	i := slices.IndexFunc(n.backends, func(w writer) bool { return w.label == by })
	if n.backends[i].err != nil {
		t.Fatal(n.backends[i].err)
	}
	return b, n.backends[i], kinds()[0]
}
