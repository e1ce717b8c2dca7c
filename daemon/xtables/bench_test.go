// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// What a look at a namespace costs without a program.
func BenchmarkFingerprint(b *testing.B) {
	eachVariant(b, func(b *testing.B, tables *Tables) {
		s := newSandbox(b, tables)
		s.write(b, plans.DualStack(b))
		for b.Loop() {
			s.fingerprint(b)
		}
	})
}

// What it costs with one.
func BenchmarkSave(b *testing.B) {
	eachVariant(b, func(b *testing.B, tables *Tables) {
		s := newSandbox(b, tables)
		s.write(b, plans.DualStack(b))
		for b.Loop() {
			err := tables.eachFamily(rules.Plan{}, func(rs rules.Ruleset) error {
				_, err := tables.save(b.Context(), s.ns, rs.Family)
				return err
			})
			if err != nil {
				b.Fatal(err)
			}
		}
	})
}
