// SPDX-License-Identifier: Apache-2.0

package gaps_test

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/internal/meshtest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/gaps"
)

// Of more rules than can be followed it is said so, in place of what they leave out; of a thousand it is told.
func TestManyRules(t *testing.T) {
	for count, told := range map[int]bool{1000: true, 5000: false} {
		var b rules.Builder
		for i := range count {
			to := netip.MustParsePrefix(fmt.Sprintf("%d.%d.%d.0/24", 20+i%50, i/4%256, i*7%256))
			b.Append("nat", "OUTPUT", "range "+to.String()+" is left out", rules.Return, rules.Destination(to))
		}
		b.Append("nat", "OUTPUT", "the rest", rules.Redirect{Port: 15001}, rules.Protocol(rules.TCP))
		all := gaps.Of(rules.Plan{V4: b.Ruleset(rules.IPv4)}, meshtest.Interfaces(), rules.Proxy{UID: 1337, GID: 1337})
		beyond := slices.ContainsFunc(all, func(g rules.Gap) bool { return strings.Contains(g.What, "cannot be told") })
		if beyond == told || (len(all) > count) != told {
			t.Errorf("of %d rules: %d gaps, cannot be told: %v", count, len(all), beyond)
		}
	}
}
