// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nftables

import (
	"testing"

	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/generate"
	"github.com/meshnetd/meshnetd/rules"
)

// What a plan's own rules do need not be asked where nothing else is there; whatever is there, the answer is that of the
// model.
func TestEffectOfAPlanAlone(t *testing.T) {
	nstest.Require(t, "nft")
	plan := plans.DualStack(t)
	interfaces := generate.Interfaces(plan, addresses)
	for _, dialect := range []Dialect{IPTables, Native} {
		for what, tt := range map[string]struct {
			change string
			alone  bool
		}{
			"alone":                   {"add table inet other", true},
			"a chain without a rule":  {"add chain ip nat other", true},
			"a rule of somebody else": {"add table inet other; add chain inet other c; add rule inet other c accept", false},
			"a policy of drop":        {"add table inet other; add chain inet other c { type filter hook input priority 0; policy drop; }", false},
		} {
			s := newSandbox(t)
			if _, err := New(dialect).Apply(t.Context(), s.ns, plan); err != nil {
				t.Fatal(err)
			}
			s.RunInput(t, "add table ip nat\n"+tt.change, "nft", "-f", "-")
			have := rules.Plan{Routes: plan.Routes, Loopback: plan.Loopback}
			r, err := New(dialect).Effect(t.Context(), s.ns, plan, have, interfaces)
			if err != nil || r.Alone != tt.alone || (r.Work == 0) != tt.alone {
				t.Errorf("%s, %s: alone %v, work %d, %v", dialect, what, r.Alone, r.Work, err)
			}
			if have.Loopback = nil; len(plan.Loopback) > 0 {
				if r, err := New(dialect).Effect(t.Context(), s.ns, plan, have, interfaces); err != nil || r.Alone {
					t.Errorf("%s, %s, without its address: alone %v, %v", dialect, what, r.Alone, err)
				}
			}
			other := plan
			other.V6 = rules.Ruleset{}
			if r, err := New(dialect).Effect(t.Context(), s.ns, other, have, interfaces); err != nil || r.Alone {
				t.Errorf("%s, %s, another plan: alone %v, %v", dialect, what, r.Alone, err)
			}
		}
	}
}
