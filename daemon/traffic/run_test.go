// SPDX-License-Identifier: Apache-2.0

//go:build linux

package traffic

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/conntrack"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

func inNamespace(t *testing.T, fn func() error) {
	t.Helper()
	nstest.Require(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	if err := ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// A socket is its owner's whoever runs the thread, and the thread is its own again.
func TestAs(t *testing.T) {
	inNamespace(t, func() error {
		before, err := threadIDs()
		if err != nil {
			return err
		}
		wrong := errors.New("wrong")
		err = as(1337, 1338, func() error {
			if have, err := threadIDs(); err != nil || have != (ids{1337, 1338}) {
				t.Errorf("within: %v, %v", have, err)
			}
			if unix.Geteuid() != 0 {
				t.Error("has lost more than the file system's ids")
			}
			return wrong
		})
		if !errors.Is(err, wrong) {
			t.Errorf("got %v", err)
		}
		if after, err := threadIDs(); err != nil || after != before {
			t.Errorf("afterwards: %v, %v", after, err)
		}
		called := false
		err = as(1<<32-1, 0, func() error { called = true; return nil })
		if err == nil || !strings.Contains(err.Error(), "CAP_SETUID") || called {
			t.Errorf("an id that nobody can have: %v, called %v", err, called)
		}
		if after, err := threadIDs(); err != nil || after != before {
			t.Errorf("after that: %v, %v", after, err)
		}
		return nil
	})
}

func TestCountsHere(t *testing.T) {
	nstest.Require(t)
	if counting, err := counts(); err != nil || !counting {
		t.Errorf("%v, %v: this kernel does not show what a listener is given", counting, err)
	}
}

// A connection that is not there is none, and deleting it is no error.
func TestTrackNothing(t *testing.T) {
	inNamespace(t, func() error {
		p := rules.Packet{Protocol: rules.UDP, Source: netip.MustParseAddrPort("[fd00::1]:1"), Destination: netip.MustParseAddrPort("[fd00::2]:2")}
		if e, err := conntrack.Find(p, []uint16{0, 1, 2}); err != nil || e != nil {
			t.Errorf("%v, %v", e, err)
		}
		return conntrack.Forget(p, 2)
	})
}

// Why nothing can arrive is said once, and what can be sent is sent all the same.
func TestNothingArrives(t *testing.T) {
	plan := planFor(t, false)
	inNamespace(t, func() error {
		r := &run{scene: house(t), plan: plan, tracer: effect.NewTracer(plan, house(t).interfaces), users: users{same: true}, arrives: errors.New("too old")}
		said := 0
		for _, p := range probes(plan, house(t)) {
			c, fresh := r.check(p)
			if p.packet.Direction == rules.Inbound && fresh {
				said++
				if c.Verdict != Unproven || c.Note != "too old" || !strings.HasPrefix(c.String(), "not provable  into the pod; too old") {
					t.Errorf("says %s", c)
				}
			}
			if p.err == nil && p.packet.Direction == rules.Outbound && !fresh {
				t.Errorf("nothing is said of %s", p.packet)
			}
		}
		if said != 1 {
			t.Errorf("said %d times", said)
		}
		return nil
	})
}

func TestRunEndsWithItsContext(t *testing.T) {
	nstest.Require(t)
	ns, err := netns.New()
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if checks, err := Run(ctx, ns, planFor(t, false)); !errors.Is(err, context.Canceled) || len(checks) > 0 {
		t.Errorf("%v, %d checks", err, len(checks))
	}
}

func TestUsers(t *testing.T) {
	file := filepath.Join(t.TempDir(), "uid_map")
	if err := os.WriteFile(file, []byte("         0     100000       1000\n      1337     200000          1\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	u := users{uid: readMap(file), gid: readMap(file)}
	for _, tt := range []struct{ in, out uint32 }{{0, 100000}, {999, 100999}, {1337, 200000}} {
		if uid, gid, err := u.outside(tt.in, tt.in); err != nil || uid != tt.out || gid != tt.out {
			t.Errorf("%d: %d, %d, %v", tt.in, uid, gid, err)
		}
	}
	for _, id := range []uint32{1000, 1336, 1338} {
		if _, _, err := u.outside(id, 0); err == nil {
			t.Errorf("user %d exists", id)
		}
		if _, _, err := u.outside(0, id); err == nil {
			t.Errorf("group %d exists", id)
		}
	}
	if _, _, err := (users{}).outside(0, 0); !errors.Is(err, errNoUsers) {
		t.Errorf("without a process: %v", err)
	}
	if readMap(file+"-not") != nil {
		t.Error("reads what is not there")
	}
}

func TestSummary(t *testing.T) {
	checks := []Check{{Verdict: Right}, {Verdict: Right}, {Verdict: Wrong}}
	if got := Summary(checks); got != "3 checks: 2 as the rules say, 1 wrong" {
		t.Error(got)
	}
	if got := Summary(append(checks, Check{Verdict: Unproven})); got != "4 checks: 2 as the rules say, 1 wrong, 1 not provable" {
		t.Error(got)
	}
}
