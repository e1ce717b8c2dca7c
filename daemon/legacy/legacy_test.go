// SPDX-License-Identifier: Apache-2.0

//go:build linux

package legacy

import (
	"bytes"
	"encoding/binary"
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

func TestCountersAreCleared(t *testing.T) {
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
func TestNames(t *testing.T) {
	if names, err := (blobs{names: filepath.Join(t.TempDir(), "none")}).tables(); err != nil || len(names) != 0 {
		t.Errorf("got %q, %v", names, err)
	}
	noFamily := blobs{family: 9999, names: filepath.Join(t.TempDir(), "none")}
	if _, err := noFamily.appendTo(nil, new(int)); err != nil {
		t.Errorf("a kernel without the family: %v", err)
	}
	if _, err := (blobs{names: t.TempDir()}).tables(); err == nil {
		t.Error("a directory is taken for a list")
	}
}

// A table of which only a policy says something counts; with all policies ACCEPT it is as good as none, and
// so are counters.
func TestPolicies(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	s := nstest.New(t)
	ns, err := netns.Open(s.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	read := func() (text string, tables []Table) {
		err := ns.Do(func() error {
			b, err := Read()
			text = string(b)
			if err == nil {
				var all []Contents
				all, err = Parse(b)
				for _, c := range all {
					tables = append(tables, c.Table)
				}
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return text, tables
	}
	if empty, tables := read(); empty != "" || len(tables) > 0 {
		t.Fatalf("a new namespace holds %v (%q)", tables, empty)
	}
	seen := map[string]string{}
	for program, family := range map[string]rules.Family{"iptables-legacy": rules.IPv4, "ip6tables-legacy": rules.IPv6} {
		for _, chain := range []string{"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"} {
			s.Run(t, program, "-t", "mangle", "-P", chain, "DROP")
			text, tables := read()
			if other, ok := seen[text]; ok || text == "" {
				t.Errorf("the policy of %s in %s is not seen, or taken for that of %q", chain, program, other)
			}
			if !slices.Equal(tables, []Table{{family, "mangle"}}) {
				t.Errorf("the tables are %v", tables)
			}
			seen[text] = chain
			s.Run(t, program, "-t", "mangle", "-P", chain, "ACCEPT")
			if text, tables := read(); text != "" || len(tables) > 0 {
				t.Errorf("an empty table of %s counts", program)
			}
		}
	}
}

// Tables that are larger than what is read are not, and nothing of their size is allocated.
func TestRulesWithoutEnd(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	s := nstest.New(t)
	ns, err := netns.Open(s.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(ns.Close)
	fill := func(table string, bytes int) {
		const rule = 112 + 40 // struct ipt_entry, and a verdict
		s.RunInput(t, "*"+table+"\n"+strings.Repeat("-A OUTPUT -s 10.0.0.1 -j ACCEPT\n", bytes/rule)+"COMMIT\n", "iptables-legacy-restore", "--noflush")
	}
	look := func() error {
		return ns.Do(func() error {
			_, err := Read()
			return err
		})
	}
	fill("mangle", most*2/3)
	if err := look(); err != nil {
		t.Fatal(err)
	}
	fill("nat", most*2/3)
	if err := look(); !errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), "legacy table nat") {
		t.Errorf("got %v of two tables that are too much together", err)
	}
	fill("raw", 4*most)
	if used := heap.Allocated(func() { err = look() }); !errors.Is(err, ErrTooMuch) || used > 3*most {
		t.Errorf("got %v for %d bytes", err, used)
	}
}
