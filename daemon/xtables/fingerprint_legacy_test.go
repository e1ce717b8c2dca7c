// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"bytes"
	"encoding/binary"
	"path/filepath"
	"slices"
	"testing"
)

func TestLegacyCountersAreCleared(t *testing.T) {
	for _, b := range []blobs{blobs4, blobs6} {
		entry := func(length int) []byte {
			e := bytes.Repeat([]byte{0xff}, length)
			binary.NativeEndian.PutUint16(e[b.next:], uint16(length))
			return e
		}
		table := append(entry(b.entry+40), entry(b.entry)...)
		want := slices.Clone(table)
		clear(want[b.counter : b.counter+16])
		clear(want[b.entry+40+b.counter : b.entry+40+b.counter+16])
		if err := b.clearCounters(table); err != nil || !bytes.Equal(table, want) {
			t.Errorf("family %d: %v, other bytes changed too, or not all", b.family, err)
		}
		loop, beyond := entry(b.entry), entry(b.entry)
		binary.NativeEndian.PutUint16(loop[b.next:], 0)
		binary.NativeEndian.PutUint16(beyond[b.next:], uint16(b.entry+8))
		for _, bad := range [][]byte{loop, beyond, entry(b.entry)[:b.entry-1]} {
			if err := b.clearCounters(bad); err == nil {
				t.Errorf("family %d: a broken table is taken for one", b.family)
			}
		}
	}
}

// A kernel without the legacy tables lists none; a list that cannot be read is not taken for an empty one.
func TestLegacyNames(t *testing.T) {
	if names, err := (blobs{names: filepath.Join(t.TempDir(), "none")}).tables(); err != nil || len(names) != 0 {
		t.Errorf("got %q, %v", names, err)
	}
	noFamily := blobs{family: 9999, names: filepath.Join(t.TempDir(), "none")}
	if err := noFamily.addTo(newDigest()); err != nil {
		t.Errorf("a kernel without the family: %v", err)
	}
	if _, err := (blobs{names: t.TempDir()}).tables(); err == nil {
		t.Error("a directory is taken for a list")
	}
}

// A table of which only a policy says something counts; with all policies ACCEPT it is as good as none.
func TestLegacyPolicies(t *testing.T) {
	tables, err := Find(t.Context(), Legacy, isolate(t))
	if err != nil {
		t.Fatal(err)
	}
	s := newSandbox(t, tables)
	empty := s.fingerprint(t)
	seen := map[string]string{}
	for _, program := range []string{"IPT", "IP6T"} {
		for _, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
			s.shell(t, program+" -t mangle -P "+chain+" DROP")
			sum := s.fingerprint(t)
			if other, ok := seen[sum]; ok || sum == empty {
				t.Errorf("the policy of %s in %s is not seen, or taken for that of %q", chain, program, other)
			}
			seen[sum] = chain
			s.shell(t, program+" -t mangle -P "+chain+" ACCEPT")
			if s.fingerprint(t) != empty {
				t.Errorf("an empty table of %s counts", program)
			}
		}
	}
}
