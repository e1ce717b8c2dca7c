// SPDX-License-Identifier: Apache-2.0

// Package sample draws what a short run of the tests tries of a long enumeration. A whole run tries all of it.
package sample

import (
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"testing"
)

// Of returns all, or in a short run n of them in their order, drawn by a seed that the test logs and MESHNETD_SEED sets.
func Of[T any](t testing.TB, n int, all []T) []T {
	t.Helper()
	if !testing.Short() || len(all) <= n {
		return all
	}
	seed := Seed(t)
	t.Logf("MESHNETD_SEED=%d: %d of %d", seed, n, len(all))
	drawn := rand.New(rand.NewPCG(seed, 0)).Perm(len(all))[:n]
	slices.Sort(drawn)
	some := make([]T, n)
	for i, at := range drawn {
		some[i] = all[at]
	}
	return some
}

// Seed is what a test draws by: another one each time, or MESHNETD_SEED's. The test says it where it fails.
func Seed(t testing.TB) uint64 {
	t.Helper()
	if seed := Count(t, "MESHNETD_SEED", 0); seed > 0 {
		return uint64(seed)
	}
	return rand.Uint64() >> 16
}

// Seeds is Of the seeds below all.
func Seeds(t testing.TB, n int, all uint64) []uint64 {
	t.Helper()
	seeds := make([]uint64, all)
	for i := range seeds {
		seeds[i] = uint64(i)
	}
	return Of(t, n, seeds)
}

// Count is the number in a variable of the environment, such as MESHNETD_PAIRS=100000 for a long run, or the usual one: in a
// short run a quarter of that.
func Count(t testing.TB, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	switch {
	case text != "":
		n, err := strconv.Atoi(text)
		if err != nil || n < 0 {
			t.Fatalf("%s=%s is no number", variable, text)
		}
		return n
	case testing.Short():
		return usual / 4
	}
	return usual
}
