// SPDX-License-Identifier: Apache-2.0

package explain

import (
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/rules"
)

// A plan comes over the socket as it was.
func TestPlanOverTheSocket(t *testing.T) {
	for _, c := range plans.Recorded(t) {
		d := Node(config.Default()).Decide(c.Pod())
		if d.Action != rules.Enrol {
			continue
		}
		plan, err := d.Planner(rules.Network{Addresses: c.Pod().IPs})
		if err != nil {
			t.Fatal(err)
		}
		back, err := PlanOf(Describe(plan))
		if err != nil {
			t.Errorf("%s: %v", c.Name, err)
		}
		plan.Notes, plan.Footprint = nil, rules.Footprint{}
		if plan.Key() != back.Key() || plan.V4.String() != back.V4.String() || plan.V6.String() != back.V6.String() {
			t.Errorf("%s is another plan", c.Name)
		}
		if len(plan.V4.Tables) > 0 && back.V4.Tables[0].Chains[0].Rules[0].Why == "" {
			t.Errorf("%s: the reasons are lost", c.Name)
		}
	}
	broken := Describe(plans.DualStack(t))
	broken.Loopback = []string{"x"}
	if _, err := PlanOf(broken); err == nil || !strings.Contains(err.Error(), "the daemon's plan") {
		t.Errorf("got %v", err)
	}
}
