// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

// foreign puts rules of somebody else into the namespace, of so many bytes together, as any program with NET_ADMIN in
// the pod can.
func (s sandbox) foreign(t testing.TB, family byte, table string, bytes int) {
	t.Helper()
	c := s.dial(t)
	for i := 0; bytes > 0; i++ {
		b := newBatch(nil)
		if i == 0 {
			b.newTable(family, table)
			b.newChain(family, table, "theirs", hook{"filter", unix.NF_INET_PRE_ROUTING, -400, accept})
		}
		for begin := len(b.messages); len(b.messages)-begin < 1<<20; {
			_ = b.newRule(family, table, "theirs", 0, nil, func(w *wire) error {
				list := w.nest(unix.NFTA_RULE_EXPRESSIONS)
				for range 60 {
					meta(w, unix.NFT_META_IIFNAME)
					compare(w, unix.NFT_CMP_EQ, []byte("nowhere"))
				}
				w.end(list)
				return nil
			})
		}
		bytes -= len(b.messages)
		err := c.transact(b)
		b.release()
		if err != nil {
			t.Fatal(err)
		}
	}
}

// elements puts so many into a set of a table that is called as ours.
func (s sandbox) elements(t testing.TB, count int) {
	t.Helper()
	c := s.dial(t)
	set := nativeSet{setKind: users, name: "users-1"}
	set.flags = 0
	b := newBatch(nil)
	b.newTable(nativeFamily, nativeTable)
	set.appendTo(b, 1)
	for n := 0; n < count; {
		set.elements = nil
		for range min(100_000, count-n) {
			set.elements = append(set.elements, setElement{key: binary.NativeEndian.AppendUint32(nil, uint32(n))})
			n++
		}
		set.fill(b)
		err := c.transact(b)
		b.release()
		if err != nil {
			t.Fatal(err)
		}
		b = newBatch(nil)
	}
	b.release()
}

// looks are all ways to look at a namespace.
func looks(t *testing.T, s sandbox) map[string]func() error {
	plan := plans.DualStack(t)
	all := map[string]func() error{
		"fingerprint": func() error { _, _, err := Tables{}.Fingerprint(t.Context(), s.ns); return err },
		"readable":    func() error { return Readable(t.Context(), s.ns) },
	}
	for _, d := range []Dialect{IPTables, Native} {
		all[string(d)+" apply"] = func() error { _, err := New(d).Apply(t.Context(), s.ns, plan); return err }
		all[string(d)+" verify"] = func() error { _, err := New(d).Verify(t.Context(), s.ns, plan); return err }
		all[string(d)+" own"] = func() error { _, _, err := New(d).Own(t.Context(), s.ns, plan.Footprint); return err }
	}
	return all
}

// unreadable expects that every look says so, having read little.
func unreadable(t *testing.T, s sandbox, why string) {
	t.Helper()
	for name, look := range looks(t, s) {
		var err error
		used := heap.Allocated(func() { err = look() })
		if !errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), why) || !strings.Contains(err.Error(), s.Path) {
			t.Errorf("%s: got %v, want to be told that there is too much (%s)", name, err, why)
		}
		if used > 10*uint64(standard.bytes) {
			t.Errorf("%s: %d bytes allocated", name, used)
		}
	}
	if generation, err := (Tables{}).Generation(t.Context(), s.ns); err != nil || generation == "" {
		t.Errorf("generation %q, %v", generation, err)
	}
}

// What somebody else has is no reason not to look, up to a bound; beyond it nothing is read on, and nothing is written.
func TestForeignRulesWithoutEnd(t *testing.T) {
	s := newSandbox(t)
	s.foreign(t, unix.NFPROTO_INET, "theirs", standard.bytes/4)
	plan := plans.DualStack(t)
	if !s.write(t, plan) {
		t.Fatal("nothing was written beside a few rules")
	}
	if diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
		t.Fatalf("%v, %v", diffs, err)
	}
	s.foreign(t, unix.NFPROTO_IPV4, "more", 64<<20)
	unreadable(t, s, fmt.Sprintf("more than %d bytes", standard.bytes))
	s.Run(t, "nft", "delete", "table", "ip", "more")
	if diffs, err := New(IPTables).Verify(t.Context(), s.ns, plan); err != nil || len(diffs) > 0 {
		t.Errorf("once they are out: %v, %v", diffs, err)
	}
}

// A table that is called as ours can hold any number of elements, and of sets.
func TestElementsWithoutEnd(t *testing.T) {
	s := newSandbox(t)
	s.elements(t, 400_000)
	unreadable(t, s, fmt.Sprintf("more than %d bytes of elements", standard.elements))
	// What is still read costs no more than it has to, and is put into few words.
	s = newSandbox(t)
	const some = 30_000
	s.elements(t, some)
	var diffs []rules.Difference
	used := heap.Allocated(func() {
		var err error
		if diffs, err = New(Native).Verify(t.Context(), s.ns, withLists(t, 10)); err != nil {
			t.Error(err)
		}
	})
	if len(diffs) == 0 || len(diffs) > 1000 {
		t.Errorf("%d differences", len(diffs))
	}
	if used > 32<<20 {
		t.Errorf("%d bytes allocated", used)
	}
	if changed := s.native(t, plans.DualStack(t)); !changed {
		t.Error("it was not replaced")
	}
}

func TestSetsWithoutEnd(t *testing.T) {
	s := newSandbox(t)
	c := s.dial(t)
	b := newBatch(nil)
	defer b.release()
	b.newTable(nativeFamily, nativeTable)
	for i := range standard.sets + 1 {
		nativeSet{setKind: users, name: fmt.Sprintf("users-%d", i)}.appendTo(b, uint32(i+1))
	}
	if err := c.transact(b); err != nil {
		t.Fatal(err)
	}
	unreadable(t, s, fmt.Sprintf("more than %d sets", standard.sets))
}

// The bound on objects, with a lower one: what each of them has beside its bytes counts too.
func TestObjectsWithoutEnd(t *testing.T) {
	s := newSandbox(t)
	s.write(t, plans.DualStack(t))
	c := s.dial(t)
	c.most.objects = 10
	if _, err := read(c); !errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), "more than 10 objects") {
		t.Errorf("got %v", err)
	}
	// The socket has more to say, which nobody takes for another answer.
	c.most = standard
	c.forget()
	if _, err := read(c); err != nil {
		t.Error(err)
	}
}
