// SPDX-License-Identifier: Apache-2.0

package meshtest

import (
	"fmt"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/rules"
)

// Widest holds for every plan: whoever can write the mesh's widest ones can write it. A rule's kind is its table with each of its
// matches and its target.
func Widest(t testing.TB, mesh rules.Mesh, plan rules.Plan) {
	t.Helper()
	can := map[string]bool{}
	for _, widest := range mesh.Widest() {
		kinds(widest, func(kind string, _ rules.Rule) { can[kind] = true })
	}
	kinds(plan, func(kind string, r rules.Rule) {
		if !can[kind] {
			t.Fatalf("%s: no widest plan has %s of %s", mesh.Name(), kind, r)
		}
	})
}

func kinds(plan rules.Plan, yield func(kind string, r rules.Rule)) {
	for _, rs := range plan.Rulesets() {
		for _, table := range rs.Tables {
			for _, c := range table.Chains {
				for _, r := range c.Rules {
					yield(fmt.Sprintf("%s %s %T", rs.Family, table.Name, r.Target), r)
					for _, m := range r.Match {
						yield(fmt.Sprintf("%s %s %T %t", rs.Family, table.Name, m, strings.Contains(fmt.Sprintf("%+v", m), "Not:true")), r)
					}
				}
			}
		}
	}
}
