// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package labtest runs labs in tests, builds the programs of this module that are run in them, and reads what the kernel holds.
package labtest

import (
	"context"
	"runtime/debug"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// Main is the TestMain of a package whose tests run labs, each on a machine of its own, the long ones first.
func Main(m *testing.M, long ...string) {
	debug.SetGCPercent(400) // a tenth of the tests' own time would go there
	if err := lab.OneRun(); err != nil {
		panic(err)
	}
	nstest.MainInParts(m, long...)
}

// patience is what a runtime waits for an answer: longer than by default, so that a machine with too much to do refuses
// nothing where that is not the subject.
const patience = 10 * time.Second

// Options returns how to run a runtime here, or skips the test where that cannot be, unless skipping is forbidden.
func Options(t *testing.T, runtime lab.Runtime) lab.Options {
	t.Helper()
	binaries, err := lab.FindBinaries()
	if err != nil {
		t.Fatal(err)
	}
	nstest.RequireRoot(t)
	opts := lab.Options{Runtime: runtime, Binaries: binaries, NRITimeout: patience, Log: t.Output()}
	if err := opts.Check(); err != nil {
		nstest.Lack(t, "a runtime: "+err.Error())
	}
	return opts
}

// Start runs a lab until the test ends.
func Start(t *testing.T, opts lab.Options) *lab.Lab {
	t.Helper()
	if opts.Standin == "" {
		opts.Standin = Standin(t) // of the time that the runtime is given, building it would take the most
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	l, err := lab.Start(ctx, opts)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := l.Close(); err != nil {
			t.Error(err)
		}
	})
	return l
}

// Racing builds meshnetd with the race detector.
func Racing(t *testing.T) string {
	t.Helper()
	return built(t)(lab.Build(t.Context(), "meshnetd-race", "./cmd/meshnetd", "-race"))
}

// Bounded builds meshnetd as operators run it: for tests that hold it to its bounds of time and memory, or to its words.
func Bounded(t *testing.T) string {
	t.Helper()
	return built(t)(lab.Build(t.Context(), "meshnetd-bounded", "./cmd/meshnetd"))
}

// Daemon builds the meshnetd of a runtime's tests: the race detector takes most of the time there, and once is enough.
func Daemon(t *testing.T, runtime lab.Runtime) string {
	t.Helper()
	if runtime == lab.Runtimes()[0] {
		return Racing(t)
	}
	return Bounded(t)
}

// Standin builds the stand-in.
func Standin(t *testing.T) string {
	t.Helper()
	return built(t)(lab.BuildStandin(t.Context()))
}

// Within returns a context of the test that ends by itself after a time.
func Within(t testing.TB, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func built(t *testing.T) func(path string, err error) string {
	return func(path string, err error) string {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
}
