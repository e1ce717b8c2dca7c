// SPDX-License-Identifier: Apache-2.0

//go:build linux

package routing

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/internal/heap"
	"github.com/meshnetd/meshnetd/rules"
)

// in opens a Handle in the namespace and calls fn with it.
func in(t *testing.T, s *nstest.Namespace, fn func(h *Handle) error) error {
	t.Helper()
	ns, err := netns.Open(s.Path, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer ns.Close()
	return ns.Do(func() error {
		h := Open()
		defer h.Close()
		return fn(h)
	})
}

// of returns so many lines for ip -batch.
func of(count int, line func(i int) string) string {
	var text strings.Builder
	for i := range count {
		text.WriteString(line(i) + "\n")
	}
	return text.String()
}

// What is read of a list has a bound, and what is not asked for does not count.
func TestListsWithoutEnd(t *testing.T) {
	nstest.Require(t, "ip")
	route := rules.PolicyRoute{Family: rules.IPv4, Mark: 1337, Table: 133}
	plan := rules.Plan{Routes: []rules.PolicyRoute{route}}
	address := func(i int) string { return fmt.Sprintf("10.%d.%d.%d", i>>16, i>>8&255, i&255) }
	for what, tt := range map[string]struct {
		fill  string
		rules int
		want  string // "" is that it is read
	}{
		"routes of others": {of(mostObjects+1, func(i int) string { return "route add blackhole " + address(i) + " table 7" }), 0, ""},
		"routes":           {of(mostObjects+1, func(i int) string { return "route add blackhole " + address(i) + " table 133" }), 0, "route list table 133"},
		"policy rules":     {"", mostObjects + 1, "rule list"},
	} {
		t.Run(what, func(t *testing.T) {
			s := nstest.New(t)
			s.RunInput(t, tt.fill, "ip", "-batch", "-")
			if err := in(t, s, func(h *Handle) (err error) { // ip would have the kernel compare each rule with all the others
				for i := 0; i < tt.rules && err == nil; i++ {
					err = h.asker.change(unix.RTM_NEWRULE, unix.NLM_F_CREATE, policyRule(rules.PolicyRoute{Family: rules.IPv4, Mark: 7, Table: 7}))
				}
				return err
			}); err != nil {
				t.Fatal(err)
			}
			var diffs []string
			var err error
			verify := func() { err = in(t, s, func(h *Handle) (err error) { diffs, err = h.Verify(plan); return err }) }
			if used := heap.Allocated(verify); used > 32<<20 {
				t.Errorf("%d bytes allocated", used)
			}
			if tt.want == "" && (err != nil || len(diffs) != 2) {
				t.Errorf("got %q, %v", diffs, err)
			}
			if tt.want != "" && (!errors.Is(err, ErrTooMuch) || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("got %q, %v", diffs, err)
			}
		})
	}
}

// Only a rule that says nothing else than ours is ours, and only a route for everything.
func TestWhatIsOurs(t *testing.T) {
	nstest.Require(t, "ip")
	for _, f := range []rules.Family{rules.IPv4, rules.IPv6} {
		route := rules.PolicyRoute{Family: f, Mark: 0x539, Table: 1330}
		plan := rules.Plan{Routes: []rules.PolicyRoute{route}}
		flag, some := "-4", "10.0.0.0/8"
		if f == rules.IPv6 {
			flag, some = "-6", "fd00::/64"
		}
		s := nstest.New(t)
		verify := func() (diffs []string) {
			if err := in(t, s, func(h *Handle) (err error) { diffs, err = h.Verify(plan); return err }); err != nil {
				t.Fatal(err)
			}
			return diffs
		}
		for i, more := range []string{"from " + some, "to " + some, "iif lo", "oif lo", "tos 0x10", "uidrange 1-2", "ipproto tcp", "sport 1-2", "dport 1",
			"suppress_prefixlength 3", "not"} {
			s.Run(t, "ip", append([]string{flag, "rule", "add", "pref", fmt.Sprint(100 + i)}, strings.Fields(more+" fwmark 0x539 lookup 1330")...)...)
		}
		for _, other := range []string{"fwmark 0x539/0xfff lookup 1330", "fwmark 0x539 lookup 1331", "fwmark 0x53a lookup 1330", "fwmark 0x539 blackhole"} {
			s.Run(t, "ip", append([]string{flag, "rule", "add"}, strings.Fields(other)...)...)
		}
		for _, other := range []string{"local " + some + " dev lo table 1330", "local default dev lo table 1331", "blackhole default metric 7 table 1330"} {
			s.Run(t, "ip", append([]string{flag, "route", "add"}, strings.Fields(other)...)...)
		}
		if diffs := verify(); len(diffs) != 2 || !strings.HasPrefix(diffs[0], "missing") || !strings.HasPrefix(diffs[1], "missing") {
			t.Errorf("%s: others' are taken for ours: %q", f, diffs)
		}
		if err := in(t, s, func(h *Handle) error { _, err := h.Apply(plan); return err }); err != nil {
			t.Fatal(err)
		}
		if diffs := verify(); len(diffs) != 0 {
			t.Errorf("%s: ours are not: %q", f, diffs)
		}
		s.Run(t, "ip", flag, "rule", "add", "pref", "7", "fwmark", "0x539", "lookup", "1330", "protocol", "99")
		if diffs := verify(); len(diffs) != 1 || !strings.Contains(diffs[0], "2 times") {
			t.Errorf("%s: twice: %q", f, diffs)
		}
	}
}
