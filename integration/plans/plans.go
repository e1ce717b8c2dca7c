// SPDX-License-Identifier: Apache-2.0

// Package plans makes plans for tests of what writes them.
package plans

import (
	"net/netip"
	"testing"

	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// Of returns the plan of a pod.
func Of(t testing.TB, defaults istio.Defaults, pod rules.Pod) rules.Plan {
	t.Helper()
	d := istio.New(defaults).Decide(pod)
	if d.Action != rules.Enrol {
		t.Fatalf("%s: %s", pod.Name, d.Detail)
	}
	plan, err := d.Planner(rules.Network{Addresses: pod.IPs})
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

// Recorded returns the cases of which Istio's own tool was recorded.
func Recorded(t testing.TB) []recorded.Case {
	t.Helper()
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	return cases
}

// DualStack is the plan of a pod that says nothing, in a mesh with both families.
func DualStack(t testing.TB) rules.Plan {
	t.Helper()
	defaults := istio.Standard()
	defaults.DualStack = true
	pod := Recorded(t)[0].Pod()
	pod.Containers = nil
	pod.IPs = []netip.Addr{netip.MustParseAddr("10.0.0.7"), netip.MustParseAddr("fd00::7")}
	return Of(t, defaults, pod)
}

// Nothing is the plan that takes ours out.
func Nothing() rules.Plan { return rules.Plan{Footprint: istio.New(istio.Defaults{}).Footprint()} }
