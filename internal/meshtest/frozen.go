// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"encoding/json"
	"os"
	"slices"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// FrozenGaps holds the gaps that are found against testdata/gaps.json: pods with what once was said of them by hand, and a packet
// that shows it. Each packet is of a gap still.
func FrozenGaps[D any](t *testing.T, mesh func(defaults D) rules.Mesh) {
	t.Helper()
	text, err := os.ReadFile("testdata/gaps.json")
	if err != nil {
		t.Fatal(err)
	}
	var cases []struct {
		Defaults   D
		Pod        rules.Pod
		Interfaces []rules.Interface
		Gaps       []struct {
			What   string
			Packet rules.Packet
		}
	}
	if err := json.Unmarshal(text, &cases); err != nil || len(cases) == 0 {
		t.Fatalf("%d cases, %v", len(cases), err)
	}
	for _, c := range cases {
		m := mesh(c.Defaults)
		d := m.Decide(c.Pod)
		found := gaps.Of(Plan(t, m, c.Pod), c.Interfaces, d.Proxy)
		for _, frozen := range c.Gaps {
			i := slices.IndexFunc(found, func(gap rules.Gap) bool { return gap.Covers(frozen.Packet) })
			if i < 0 {
				t.Errorf("nothing says any more: %s\n%s", frozen.What, frozen.Packet)
				continue
			}
			t.Logf("%s\n -> %s", frozen.What, found[i].What)
		}
	}
}
