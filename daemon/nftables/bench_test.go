// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"testing"

	"github.com/meshnetd/meshnetd/daemon/legacy"
	"github.com/meshnetd/meshnetd/integration/plans"
)

// What writing and looking costs, each step and its parts.
func BenchmarkSteps(b *testing.B) {
	plan := plans.DualStack(b)
	step := func(name string, s sandbox, inside bool, fn func() error) {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			loop := func() error {
				for b.Loop() {
					if err := fn(); err != nil {
						return err
					}
				}
				return nil
			}
			var err error
			if inside {
				err = s.ns.Do(loop)
			} else {
				err = loop()
			}
			if err != nil {
				b.Fatal(err)
			}
		})
	}
	empty, full := newSandbox(b), newSandbox(b)
	full.write(b, plan)
	tables := New(IPTables)
	step("enter", full, false, func() error { return full.ns.Do(func() error { return nil }) })
	step("dial", full, true, func() error { c, err := dialNetfilter(); c.close(); return err })
	step("legacy", full, true, func() error { _, err := legacy.Read(); return err })
	step("look/empty", empty, true, func() error { return look(func(state, []byte) error { return nil }) })
	step("look/full", full, true, func() error { return look(func(state, []byte) error { return nil }) })
	step("Fingerprint", full, false, func() error { _, _, err := Fingerprint(full.ns); return err })
	step("Generation", full, false, func() error { _, err := Generation(full.ns); return err })
	step("Apply/unchanged", full, false, func() error { _, err := tables.Apply(b.Context(), full.ns, plan); return err })
	step("Apply/write and remove", empty, false, func() error {
		if _, err := tables.Apply(b.Context(), empty.ns, plan); err != nil {
			return err
		}
		_, err := tables.Apply(b.Context(), empty.ns, plans.Nothing())
		return err
	})
	step("Verify", full, false, func() error { _, err := tables.Verify(b.Context(), full.ns, plan); return err })
	step("Key", full, false, func() error { _ = plan.Key(); return nil })
}
