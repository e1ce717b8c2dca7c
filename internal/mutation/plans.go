// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/internal/recorded"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// subject is a plan of one family.
type subject struct {
	name   string
	plan   rules.Plan
	family rules.Family
	ips    []netip.Addr
}

func (s subject) rules() rules.Ruleset {
	if s.family == rules.IPv6 {
		return s.plan.V6
	}
	return s.plan.V4
}

// with returns the plan with other rules of the family.
func (s subject) with(rs rules.Ruleset) rules.Plan {
	if s.family == rules.IPv6 {
		s.plan.V6 = rs
	} else {
		s.plan.V4 = rs
	}
	return s.plan
}

// subjects returns the different rule sets of the other meshes' pods, of Istio's recorded cases and of its plans in testdata.
func subjects(testdata string) ([]subject, error) {
	cases, err := recorded.Cases()
	if err != nil {
		return nil, err
	}
	var all []subject
	seen := map[string]bool{}
	add := func(name string, plan rules.Plan, ips []netip.Addr) {
		for _, rs := range plan.Rulesets() {
			key := rs.Family.String() + rs.String() + fmt.Sprint(plan.Routes)
			if !rs.Empty() && !seen[key] {
				seen[key] = true
				all = append(all, subject{name, plan, rs.Family, ips})
			}
		}
	}
	for _, p := range slices.Concat(pods(), lockedPods()) {
		plan, err := planOf(p.by, p.pod)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", p.name, err)
		}
		add(p.name, plan, both)
	}
	for _, c := range cases {
		plan, err := planOf(istio.New(istio.Standard()), c.Pod())
		if err != nil {
			return nil, fmt.Errorf("recorded case %s: %w", c.Name, err)
		}
		add(c.Name, plan, both)
	}
	files, err := filepath.Glob(filepath.Join(testdata, "*.golden"))
	if err != nil || len(files) == 0 {
		return nil, fmt.Errorf("no plans in %s (run from the repository's root, or say -testdata): %w", testdata, err)
	}
	for _, file := range files {
		plan, err := goldenPlan(file)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", file, err)
		}
		add(filepath.Base(file), plan, both)
	}
	return all, nil
}

// both are the addresses that every pod has here: what a plan says of a family is asked of it.
var both = []netip.Addr{netip.MustParseAddr("10.244.1.7"), netip.MustParseAddr("fd00:10:244::7")}

// decider is a mesh, or a node of which more than the mesh decides.
type decider interface {
	Decide(pod rules.Pod) rules.Decision
}

func planOf(by decider, pod rules.Pod) (rules.Plan, error) {
	d := by.Decide(pod)
	if d.Action != rules.Enrol {
		return rules.Plan{}, fmt.Errorf("%s: %s", d.Action, d.Detail)
	}
	return d.Planner(rules.Network{Addresses: pod.IPs})
}

// goldenPlan reads the rules of a plan that is kept as text, and adds what goes with them: addresses on lo
// where IPv6 is redirected, and a route for the mark of each TPROXY.
func goldenPlan(file string) (rules.Plan, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return rules.Plan{}, err
	}
	plan := rules.Plan{Footprint: istio.New(istio.Defaults{}).Footprint()}
	for i, rs := range []*rules.Ruleset{&plan.V4, &plan.V6} {
		family := []rules.Family{rules.IPv4, rules.IPv6}[i]
		if *rs, err = rules.ParseSave(family, strings.NewReader(declared(section(string(text), family)))); err != nil {
			return rules.Plan{}, err
		}
		if _, ok := rs.Table("mangle").Chain("ISTIO_TPROXY"); ok {
			plan.Routes = append(plan.Routes, rules.PolicyRoute{Family: family, Mark: 1337, Table: 133})
		}
	}
	if _, ok := plan.V6.Table("nat").Chain("ISTIO_OUTPUT"); ok {
		plan.Loopback = plan.Footprint.Loopback
	}
	return plan, nil
}

// declared adds the built-in chains, which a plan does not declare.
func declared(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		out.WriteString(line)
		if strings.HasPrefix(line, "*") {
			for _, chain := range []string{"PREROUTING", "INPUT", "OUTPUT"} {
				fmt.Fprintf(&out, ":%s ACCEPT\n", chain)
			}
		}
	}
	return out.String()
}

// section returns the part of a golden file that is a family's. One without a heading is of IPv6 that is reset.
func section(text string, family rules.Family) string {
	four, six, headed := strings.Cut(text, "# ip6tables\n")
	if headed == (family == rules.IPv4) {
		return four
	}
	if !headed {
		return ""
	}
	return six
}
