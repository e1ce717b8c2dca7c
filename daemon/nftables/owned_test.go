// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// owner is a process in the pod that made a table for itself.
type owner struct {
	sandbox
	*netfilter
}

func newOwner(t *testing.T, s sandbox) owner {
	t.Helper()
	o := owner{sandbox: s}
	if err := s.ns.Do(func() (err error) { o.netfilter, err = dialNetfilter(); return err }); err != nil {
		t.Fatal(err)
	}
	return o
}

// takes makes a table its own, and has it hold what the plan says, if there is one.
func (o owner) takes(t *testing.T, family byte, name string, flags uint32, d Dialect, plan rules.Plan) {
	t.Helper()
	commands := []command{table(unix.NFT_MSG_NEWTABLE, 0, family, name), table(unix.NFT_MSG_DELTABLE, 0, family, name),
		table(unix.NFT_MSG_NEWTABLE, create, family, name, num(unix.NFTA_TABLE_FLAGS, flags))}
	if err := o.do(commands...); err != nil {
		t.Fatal(err)
	}
	o.forget()
	want, err := New(d).wanted(plan)
	if err != nil || plan.Rules() == 0 {
		return
	}
	if d == Native { // which apply would make anew, as it is empty
		b := newBatch(nil)
		defer b.release()
		if err = want.native.fill(b, nil); err == nil {
			err = o.transact(b)
		}
	} else {
		_, err = want.apply(o.netfilter)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// A table goes with the process that owns it, and no generation shows that: until then its rules are there or not, and nothing
// that was verified beside them holds until the generation moves.
func TestTablesThatGoUnseen(t *testing.T) {
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for what, tt := range map[string]struct {
		dialect Dialect
		family  byte
		table   string
		flags   uint32
		differs string
		during  effect.Answer
		after   effect.Answer
	}{
		"the plan's":            {IPTables, unix.NFPROTO_IPV4, "nat", flagOwner, "iptables nat: the table belongs to a process (flags owner)", effect.CannotTell, effect.Less},
		"the plan's, of IPv6":   {IPTables, unix.NFPROTO_IPV6, "nat", flagOwner, "ip6tables nat: the table belongs to a process (flags owner)", effect.CannotTell, effect.Less},
		"meshnetd's":            {Native, unix.NFPROTO_INET, nativeTable, flagOwner, "inet meshnetd: changed: the table belongs to a process (flags owner)", effect.CannotTell, effect.Less},
		"one that stays":        {IPTables, unix.NFPROTO_IPV4, "nat", flagOwner | flagPersist, "", effect.Equal, effect.Equal},
		"one that says nothing": {IPTables, unix.NFPROTO_IPV4, "other", flagOwner, "", effect.Equal, effect.Equal},
	} {
		t.Run(what, func(t *testing.T) {
			s, tables := newSandbox(t), New(tt.dialect)
			have := rules.Plan{Routes: plan.Routes, Loopback: plan.Loopback}
			if _, err := tables.Apply(t.Context(), s.ns, plan); err != nil {
				t.Fatal(err)
			}
			o := newOwner(t, s)
			o.takes(t, tt.family, tt.table, tt.flags, tt.dialect, plan)
			_, verified, err := tables.Fingerprint(t.Context(), s.ns)
			if err != nil || (verified == "") != (tt.flags == flagOwner) {
				t.Errorf("verified at %q, %v", verified, err)
			}
			diffs, err := tables.Verify(t.Context(), s.ns, plan)
			if err != nil || (len(diffs) == 0) != (tt.differs == "") || len(diffs) > 0 && !strings.HasPrefix(diffs[0].String(), tt.differs) {
				t.Errorf("differs by %v, %v", diffs, err)
			}
			answer := func() effect.Result {
				t.Helper()
				r, err := tables.Effect(t.Context(), s.ns, plan, have, interfaces)
				if err != nil {
					t.Fatal(err)
				}
				return r
			}
			if r := answer(); r.Answer != tt.during || r.Alone != (tt.flags != flagOwner) {
				t.Errorf("alone %v, %s", r.Alone, r.Answer)
			}
			if tt.table != "other" {
				if _, err := tables.Apply(t.Context(), s.ns, plans.Nothing()); err == nil || !strings.Contains(err.Error(), "operation not permitted (a table with flags owner") {
					t.Errorf("to change it: %v", err)
				}
			}
			o.close()
			if r := answer(); r.Answer != tt.after {
				t.Errorf("after its end: %s", r.Answer)
			}
		})
	}
}

// A policy of such a table may hold or not, too.
func TestPoliciesThatGoUnseen(t *testing.T) {
	s, plan := newSandbox(t), plans.DualStack(t)
	s.write(t, plan)
	o := newOwner(t, s)
	defer o.close()
	o.takes(t, unix.NFPROTO_INET, "other", flagOwner, IPTables, rules.Plan{})
	const outHook = 3
	if err := o.do(chain(create, unix.NFPROTO_INET, "other", "c", hooked(outHook, -400, drop))); err != nil {
		t.Fatal(err)
	}
	if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); r.Alone || r.Answer > effect.More {
		t.Errorf("where all is dropped, or nothing: alone %v, %s", r.Alone, r.Answer)
	}
	less := plan
	less.V4 = rules.Ruleset{Family: rules.IPv4}
	s.write(t, less)
	if r := s.effect(t, plan, generate.Interfaces(plan, addresses)); r.Answer < effect.CannotTell {
		t.Errorf("where the plan's rules are missing, and all is dropped as long as a process lives: %s", r.Answer)
	}
}
