// SPDX-License-Identifier: Apache-2.0

//go:build linux

package netns

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/integration/nstest"
)

// place is where a call ran.
type place struct {
	thread int
	in     ID
}

func placeOf(t *testing.T) place {
	t.Helper()
	id, err := identify("/proc/thread-self/ns/net")
	if err != nil {
		t.Error(err)
	}
	return place{unix.Gettid(), id}
}

// Do within Do stays on its thread; whoever else calls Do meanwhile gets one of his own, which is in the
// namespace as well. Afterwards nothing is taken for being inside.
func TestDoWithinDo(t *testing.T) {
	ns := openNew(t)
	for range 2 {
		var outer, inner, other, after place
		err := ns.Do(func() error {
			outer = placeOf(t)
			if err := ns.Do(func() error { inner = placeOf(t); return nil }); err != nil {
				return err
			}
			done := make(chan error)
			go func() { done <- ns.Do(func() error { other = placeOf(t); return nil }) }()
			return <-done
		})
		if err != nil {
			t.Fatal(err)
		}
		if inner != outer || outer.in != ns.ID() {
			t.Errorf("inside %v, within that %v", outer, inner)
		}
		if other.in != ns.ID() || other.thread == outer.thread {
			t.Errorf("somebody else was at %v, while %v was taken", other, outer)
		}
		if ns.inside.Load() != 0 {
			t.Error("a thread is still taken for being inside")
		}
		if err := ns.Do(func() error { after = placeOf(t); return nil }); err != nil || after.in != ns.ID() {
			t.Errorf("afterwards at %v, %v", after, err)
		}
	}
}

// A panic within Do within Do is an error of the inner one, and everybody comes home.
func TestPanicWithinDo(t *testing.T) {
	ns := openNew(t)
	err := ns.Do(func() error {
		inner := ns.Do(func() error { panic("inside") })
		var p *recovered.Panic
		if !errors.As(inner, &p) {
			t.Errorf("got %v", inner)
		}
		if id := placeOf(t).in; id != ns.ID() {
			t.Errorf("then in %v", id)
		}
		panic("outside")
	})
	var p *recovered.Panic
	if !errors.As(err, &p) || ns.inside.Load() != 0 {
		t.Errorf("got %v, and thread %d is taken for being inside", err, ns.inside.Load())
	}
}

// A namespace within another: each Do is in its own.
func TestDoInAnotherNamespace(t *testing.T) {
	a, b := openNew(t), openNew(t)
	err := a.Do(func() error {
		if err := b.Do(func() error {
			if id := placeOf(t).in; id != b.ID() {
				t.Errorf("in %v instead of %v", id, b.ID())
			}
			return a.Do(func() error {
				if id := placeOf(t).in; id != a.ID() {
					t.Errorf("in %v instead of %v", id, a.ID())
				}
				return nil
			})
		}); err != nil {
			return err
		}
		if id := placeOf(t).in; id != a.ID() {
			t.Errorf("back in %v instead of %v", id, a.ID())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestOwnUsers(t *testing.T) {
	for own, pod := range map[bool]*nstest.Namespace{true: nstest.NewUsers(t), false: nstest.New(t)} {
		ns, err := Open(pod.Path, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer ns.Close()
		if got := ns.OwnUsers(); got != own {
			t.Errorf("users of its own: %t, want %t", got, own)
		}
	}
}
