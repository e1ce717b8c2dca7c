// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"bytes"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/rules"
)

// The native dialect: one table of family inet that is all ours.
const (
	nativeFamily = unix.NFPROTO_INET
	nativeTable  = "meshnetd"
)

// hasTable tells whether there is a table of that family and name.
func (s state) hasTable(family byte, table string) bool {
	for _, t := range s.tables {
		if t.family == family && name(t.table) == table {
			return true
		}
	}
	return false
}

func (s state) hasNative() bool { return s.hasTable(nativeFamily, nativeTable) }

// native is what the own table holds for a plan; the zero native is no table.
type native struct{}

func compile(plan rules.Plan) (native, error) { return native{}, nil }

// appendTo makes the table.
func (n native) appendTo(b *batch) error { return nil }

// differences compares the table with what the kernel holds.
func (n native) differences(s state) []rules.Difference {
	if s.hasNative() {
		return []rules.Difference{{Table: nativeTable, Kind: "unexpected"}}
	}
	return nil
}

// nativePlan reads the plan that the table was made from.
func (s state) nativePlan() (v4, v6 rules.Ruleset, err error) {
	v4.Family, v6.Family = rules.IPv4, rules.IPv6
	return v4, v6, nil
}

// readSets reads the sets of the native table and what they hold.
func readSets(k kernel) (sets, elements []object, err error) { return nil, nil, nil }

var _ = bytes.Equal
