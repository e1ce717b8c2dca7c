// SPDX-License-Identifier: Apache-2.0

package sample

import (
	"slices"
	"testing"
)

// A seed draws the same each time, and another one something else: each has its turn.
func TestOf(t *testing.T) {
	all := []string{"a", "b", "c", "d", "e"}
	if !testing.Short() {
		if got := Of(t, 2, all); !slices.Equal(got, all) {
			t.Errorf("a whole run tries %v", got)
		}
		return
	}
	seen := map[string]bool{}
	for _, seed := range []string{"1", "2", "3", "4", "5", "6", "7", "8"} {
		t.Setenv("MESHNETD_SEED", seed)
		some := Of(t, 2, all)
		if len(some) != 2 || !slices.IsSorted(some) || !slices.Equal(some, Of(t, 2, all)) {
			t.Errorf("seed %s draws %v", seed, some)
		}
		for _, one := range some {
			seen[one] = true
		}
	}
	if len(seen) != len(all) {
		t.Errorf("only %v are ever drawn", seen)
	}
	if got := Of(t, 5, all); !slices.Equal(got, all) {
		t.Errorf("of no more than asked for, %v", got)
	}
}
