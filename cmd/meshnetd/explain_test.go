// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func TestExplain(t *testing.T) {
	for _, tt := range []struct {
		name, pod, config string
		code              int
	}{
		{"meshed", "meshed.yaml", "default.toml", 0},
		{"around", "around.yaml", "default.toml", 0},
		{"block", "around.yaml", "block.toml", 0},
		{"outside", "outside.yaml", "default.toml", 0},
		{"refused", "refused.yaml", "default.toml", exitRefused},
		{"policy-ignored", "policy.yaml", "policy-ignored.toml", exitRefused},
		{"policy-forbidden", "policy.yaml", "policy-forbidden.toml", exitRefused},
	} {
		for format, flags := range map[string][]string{"text": nil, "json": {"--json"}} {
			t.Run(tt.name+" "+format, func(t *testing.T) {
				code, out, err := execute(t, "", append([]string{"explain", "-f", testdata(tt.pod), "--config", testdata(tt.config)}, flags...)...)
				if code != tt.code || err != nil && err.Error() != "" {
					t.Errorf("exit %d, want %d: %v", code, tt.code, err)
				}
				golden.Check(t, "explain-"+tt.name+"."+format+".golden", out)
			})
		}
	}
}

// The daemon's explanation is what is printed, whatever it is.
func TestExplainAskedOfADaemon(t *testing.T) {
	why := status.Explanation{Namespace: "shop", Name: "cart", Action: "redirect", Reason: "injected", Detail: "quotes\x1b[31m", Steps: []string{"one"},
		Settings: []status.Setting{{Name: "tproxy", Value: "true", Source: "annotation a"}}, Notes: []string{"kept"},
		Rules:  []status.Rule{{Family: 4, Table: "nat", Chain: "OUTPUT", Rule: "-j ISTIO_OUTPUT", Why: "reason"}},
		Routes: []status.Route{{Family: 4, Mark: 1337, Table: 133}}, NotCaptured: []status.Gap{{What: "UDP", Trace: []string{"udp", "[::1]:53"}}}}
	socket := daemonWith(t, pod("shop", "cart", "89abaa", told{why: why}))
	code, out, err := execute(t, "", "explain", "shop/cart", "--socket", socket, "--config", testdata("default.toml"))
	if code != 0 {
		t.Errorf("exit %d: %v", code, err)
	}
	if diff := cmp.Diff("pod shop/cart\nmesh: -\ndecision: redirect (injected: quotes [31m)\nnote: kept\n\nhow it was decided\n   1. one\n\n"+
		"settings, and where they come from\n  tproxy  true  annotation a\n\n"+
		"what does not go through the proxy; `meshnetd trace` with the arguments below each shows it\n  - UDP\n      udp '[::1]:53'\n\n"+
		"iptables, table nat\n  -A OUTPUT -j ISTIO_OUTPUT\n      reason\n\nroutes and addresses\n  ip rule add fwmark 1337 lookup 133\n"+
		"  ip route add local 0.0.0.0/0 dev lo table 133\n", out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	_, out, _ = execute(t, "", "explain", "89ab", "--json", "--socket", socket, "--config", testdata("default.toml"))
	var got status.Explanation
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatal(err)
	}
	want := why.Complete()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// What is wrong is one sentence with what to do, on standard error, and a code.
func TestExplainAndTraceBadInput(t *testing.T) {
	socket := daemonWith(t,
		pod("default", "web", "4567aa", told{}), pod("shop", "cart-7d4b9-x2x4z", "89abaa", told{}),
		pod("shop", "twice", "cdefaa", told{}), pod("shop", "twice", "cdefbb", told{}))
	packet := []string{"tcp", "203.0.113.10:443"}
	for _, tt := range []struct {
		args string
		code int
		want []string
	}{
		{"shop/wep", exitFailed, []string{"no pod shop/wep of the mesh runs on this node", "`meshnetd status` lists"}},
		{"shop/web", exitFailed, []string{"did you mean default/web?"}},
		{"shop/cart", exitFailed, []string{"did you mean shop/cart-7d4b9-x2x4z?"}},
		{"shop/twic", exitFailed, []string{"did you mean shop/twice?"}},
		{"far/nothing-like-it", exitFailed, []string{"lists those that do); a pod outside the mesh"}},
		{"web", exitFailed, []string{"a pod is named NAMESPACE/POD", "did you mean default/web?"}},
		{"shop/twice", exitFailed, []string{"not one sandbox but 2; name one by its id: cdefaa (shop/twice, protected), cdefbb"}},
		{"cdef", exitFailed, []string{"not one sandbox but 2"}},
		{"shop/web --socket " + filepath.Join(t.TempDir(), "none"), exitFailed, []string{"meshnetd is not running", "systemctl status meshnetd", "--socket"}},
		{"shop/wep --config testdata/bad.toml", exitFailed, []string{"no pod shop/wep of the mesh runs"}}, // the daemon leaves it alone
		{"default/web --config testdata/none.toml", exitBadConfig, []string{"none.toml"}},
		{"default/web --nothing", exitBadConfig, []string{"unknown flag"}},
		{"-f testdata/none.yaml", exitFailed, []string{"testdata/none.yaml"}},
	} {
		for _, command := range []string{"explain", "trace"} {
			args := append([]string{command, "--config", testdata("default.toml")}, strings.Fields(tt.args)...)
			if !strings.Contains(tt.args, "-f ") && !strings.Contains(tt.args, "--socket") {
				args = append(args, "--socket", socket)
			}
			if command == "trace" {
				args = append(args, packet...)
			}
			if strings.Contains(tt.args, "--config") {
				args = slices.Delete(args, 1, 3)
			}
			code, out, err := execute(t, "", args...)
			if code != tt.code || out != "" || err == nil {
				t.Errorf("%v: exit %d, %v, %q", args, code, err, out)
				continue
			}
			for _, want := range tt.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("%v: %q is not in %q", args, want, err)
				}
			}
		}
	}
	for args, want := range map[string]string{"": errWhichPod.Error(), "a/b -f x": errWhichPod.Error(), "a b": "accepts at most 1 arg", "-f x --socket y": "--socket is the daemon's"} {
		if code, out, err := execute(t, "", append([]string{"explain"}, strings.Fields(args)...)...); code != exitBadConfig || out != "" || !strings.Contains(err.Error(), want) {
			t.Errorf("explain %s: exit %d, %v, %q", args, code, err, out)
		}
	}
}

// The rules are those that the sandbox holds; where they are not what would be decided now, that is said first.
func TestExplainWhatIsHeld(t *testing.T) {
	plan := plans.DualStack(t)
	now := status.Explanation{Key: plan.Key(), Rules: explain.Describe(plan).Rules, Notes: []string{"other"}}
	if diff := cmp.Diff(now, holding(memory.Sandbox{State: lifecycle.StateProtected, Plan: plan}, now)); diff != "" {
		t.Errorf("one that holds its plan (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		sb   memory.Sandbox
		want string
	}{
		{memory.Sandbox{State: lifecycle.StateProtected, Detail: "d"}, "the pod's rules are other ones than what would be decided now"},
		{memory.Sandbox{State: lifecycle.StateOutdated, Plan: plan}, "the pod keeps other rules than it would get today (pod_outdated); " +
			"the settings, and what is not captured, are those of today's"},
		{memory.Sandbox{State: lifecycle.StateUnproven, Plan: plan, Detail: "why"}, "nobody can tell what becomes of the pod's packets (pod_unproven): why"},
		{memory.Sandbox{State: lifecycle.StateUnprotected, Plan: plan, Detail: "flushed"}, "the pod runs without its rules: nothing of what follows is in force: flushed"},
		{memory.Sandbox{State: lifecycle.StatePending}, "the pod was there before meshnetd and has not been looked at yet: nothing is known of its rules"},
		{memory.Sandbox{State: lifecycle.StateFailing, Plan: plan}, "the pod's rules could not be written or read when they were last looked at; it is tried again with each audit"},
		{memory.Sandbox{State: lifecycle.StateExempt}, "a container showed that the pod has no sidecar to redirect to: it has no rules"},
	} {
		got := holding(tt.sb, now)
		if got.Key != tt.sb.Plan.Key() || len(got.Rules) != tt.sb.Plan.Rules() || !slices.Equal(got.Notes, []string{tt.want, "other"}) {
			t.Errorf("%s: %s, %d rules, %q", tt.sb.State, got.Key, len(got.Rules), got.Notes)
		}
	}
}

func TestDistance(t *testing.T) {
	for _, tt := range []struct {
		a, b string
		want int
	}{{"", "", 0}, {"", "abc", 3}, {"abc", "", 3}, {"kitten", "sitting", 3}, {"web", "wep", 1}, {"web", "webb", 1}, {"ab", "ba", 2}} {
		if got := rules.Distance(tt.a, tt.b, 99); got != tt.want {
			t.Errorf("%q and %q are %d apart, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
