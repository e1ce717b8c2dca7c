// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// Tables of iptables-legacy that can take packets away are differences, with a packet; any move the generation.
func TestLegacyTablesCount(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	plan := plans.DualStack(t)
	for command, want := range map[string]string{
		"iptables-legacy -t nat -A OUTPUT -p tcp -j REDIRECT --to-port 1": "iptables nat: also in iptables-legacy, unexpected: cannot be told, as tcp ",
		"ip6tables-legacy -t raw -A OUTPUT -p tcp -j CT --notrack":        "ip6tables raw: also in iptables-legacy, unexpected: takes less, as tcp ",
		"iptables-legacy -t nat -A OUTPUT -p tcp -j RETURN":               "",
		"ip6tables-legacy -t mangle -A OUTPUT -p tcp -j RETURN":           "",
		"iptables-legacy -t filter -A OUTPUT -p tcp -j DROP":              "",
		"iptables-legacy -t nat -L":                                       "",
	} {
		t.Run(command, func(t *testing.T) {
			s := newSandbox(t)
			s.write(t, plan)
			tables := New(IPTables)
			before, err := tables.Generation(t.Context(), s.ns)
			if err != nil {
				t.Fatal(err)
			}
			fingerprint := s.fingerprint(t)
			s.Run(t, "sh", "-c", command)
			diffs, err := tables.Verify(t.Context(), s.ns, plan)
			if err != nil || len(diffs) > 0 != (want != "") || want != "" && !strings.Contains(diffs[0].String(), want) {
				t.Errorf("got %v, %v", diffs, err)
			}
			holds := strings.Contains(command, "-A")
			if after, err := tables.Generation(t.Context(), s.ns); err != nil || (after != before) != holds {
				t.Errorf("generation %s, then %s, %v", before, after, err)
			}
			if (s.fingerprint(t) != fingerprint) != holds {
				t.Error("the fingerprint does not tell")
			}
		})
	}
}

// What a mesh's init container, or meshnetd by another backend, left in tables of iptables-legacy is taken out once the plan's own
// rules stand. What is somebody else's stays, and is a difference where it may take from the plan.
func TestLegacyTablesOfTheMesh(t *testing.T) {
	nstest.Require(t, "iptables-legacy")
	plan := plans.DualStack(t)
	for _, dialect := range []Dialect{IPTables, Native} {
		for beside, whole := range map[string]bool{"": true, "iptables-legacy -t nat -A OUTPUT -p tcp -j REDIRECT --to-port 1": false,
			"iptables-legacy -t nat -A OUTPUT -p udp -j REDIRECT --to-port 1": true} {
			s, tables := newSandbox(t), New(dialect)
			for _, program := range []string{"iptables-legacy", "ip6tables-legacy"} {
				s.RunInput(t, "*nat\n:ISTIO_OUTPUT -\n-A OUTPUT -p tcp -j ISTIO_OUTPUT\n-A ISTIO_OUTPUT -j RETURN\nCOMMIT\n", program+"-restore")
			}
			s.Run(t, "sh", "-c", beside)
			for i, wantChanged := range []bool{true, false} {
				changed, err := tables.Apply(t.Context(), s.ns, plan)
				if err != nil || changed != wantChanged {
					t.Errorf("%s, beside %q, time %d: changed %v, %v", dialect, beside, i+1, changed, err)
				}
			}
			diffs, err := tables.Verify(t.Context(), s.ns, plan)
			if err != nil || (len(diffs) == 0) != (whole || dialect == Native) { // the native table is asked first
				t.Errorf("%s, beside %q: %v, %v", dialect, beside, diffs, err)
			}
		}
	}
}

// Reading does not move the generation; any change of nf_tables does, and so it never comes back.
func TestGeneration(t *testing.T) {
	s := newSandbox(t)
	tables := New(IPTables)
	seen := map[string]bool{}
	for i := range 20 {
		g, err := tables.Generation(t.Context(), s.ns)
		if err != nil || seen[g] {
			t.Fatalf("%d: %s again, or %v", i, g, err)
		}
		seen[g] = true
		s.fingerprint(t)
		if _, err := tables.Verify(t.Context(), s.ns, plans.DualStack(t)); err != nil {
			t.Fatal(err)
		}
		again, err := tables.Generation(t.Context(), s.ns)
		if err != nil || again != g {
			t.Errorf("reading moved it: %s, %s, %v", g, again, err)
		}
		s.write(t, []rules.Plan{plans.DualStack(t), plans.Nothing()}[i%2])
	}
}
