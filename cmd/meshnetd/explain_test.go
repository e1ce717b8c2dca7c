// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/integration/plans"
	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
	"github.com/meshnetd/meshnetd/rules/istio/generate"
	"github.com/meshnetd/meshnetd/rules/istio/recorded"
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

// The commands that are said to show what is not captured do show it: for each, the words make the very packet,
// and what is printed ends outside of the proxy.
func TestGapsAreShownByTheirCommands(t *testing.T) {
	shown := 0
	cases, err := recorded.Cases()
	if err != nil {
		t.Fatal(err)
	}
	for _, c := range cases {
		v := view{Pod: c.Pod(), Decision: rules.Node{Meshes: []rules.Mesh{istio.Mesh{Defaults: istio.Standard()}}, RuntimeHandlers: []string{""}}.Explain(c.Pod())}.planned(rules.Network{Addresses: c.Pod().IPs})
		shown += shownByCommands(t, c.Name, v, assumed(c.Pod().IPs))
	}
	for seed := range uint64(500) {
		s := generate.Draw(rand.New(rand.NewPCG(seed, 11)))
		v := view{Pod: s.Pod, Decision: rules.Node{Meshes: []rules.Mesh{s.Mesh}, RuntimeHandlers: []string{""}, Policies: []rules.CapturePolicy{{MayLoosen: true}}}.Explain(s.Pod)}.planned(rules.Network{Addresses: s.Pod.IPs})
		shown += shownByCommands(t, "drawn", v, s.Interfaces)
	}
	if shown < 4000 {
		t.Errorf("only %d gaps", shown)
	}
}

// shownByCommands returns how many gaps of a pod are shown by their commands.
func shownByCommands(t *testing.T, name string, v view, interfaces []rules.Interface) (shown int) {
	t.Helper()
	x := explain(v, interfaces)
	gaps := v.Decision.Intent.(rules.GapReporter).Gaps(v.Plan, interfaces)
	for i, told := range x.NotCaptured {
		if told.Trace == nil {
			p := gaps[i].Packet
			// Of what arrives by an interface without an address of its family, no words tell whose it is.
			if unknown := p.Direction == rules.Inbound && !addressed(interfaces, *p); p.State != rules.StateEstablished && !unknown {
				t.Errorf("%s: %q has no command", name, told.What)
			}
			continue
		}
		q, err := parseTrace(told.Trace)
		if err != nil {
			t.Fatalf("%s: %q: %v: %v", name, told.What, told.Trace, err)
		}
		got, _, err := q.packet(interfaces)
		if err != nil {
			t.Fatalf("%s: %q: %v: %v", name, told.What, told.Trace, err)
		}
		want := *gaps[i].Packet
		want.State = rules.StateNew
		got.Out, want.Out = outOf(got), outOf(want)
		if got != want {
			t.Fatalf("%s: %q: %v is %+v, want %+v", name, told.What, told.Trace, got, want)
		}
		w, err := q.answer(scene{pod: name, plan: v.Plan, interfaces: interfaces})
		if err != nil || w.End.Kind != string(rules.Leaves) && w.End.Kind != string(rules.Delivered) {
			t.Fatalf("%s: %q: %v ends %v, %v", name, told.What, told.Trace, w.End, err)
		}
		shown++
	}
	return shown
}

// outOf is the interface that a sent packet is asked about where it leaves the pod; an inbound one has none.
func outOf(p rules.Packet) string {
	if p.Direction == rules.Inbound {
		return ""
	}
	return p.Out
}

// parseTrace takes the arguments of `meshnetd trace -f POD` apart, as the command does.
func parseTrace(args []string) (question, error) {
	c := traceCommand()
	if err := c.ParseFlags(args); err != nil {
		return question{}, err
	}
	var q question
	for name, target := range map[string]*string{"uid": &q.uid, "gid": &q.gid, "iface": &q.iface, "src": &q.source} {
		*target = c.Flag(name).Value.String()
	}
	q.in = c.Flag("in").Value.String() == "true"
	_, err := q.words(c.Flags().Args(), "pod.yaml")
	return q, err
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
	now := status.Explanation{Key: plan.Key(), Rules: describe(plan).Rules, Notes: []string{"other"}}
	if diff := cmp.Diff(now, holding(daemon.Sandbox{State: daemon.StateProtected, Plan: plan}, now)); diff != "" {
		t.Errorf("one that holds its plan (-want +got):\n%s", diff)
	}
	for _, tt := range []struct {
		sb   daemon.Sandbox
		want string
	}{
		{daemon.Sandbox{State: daemon.StateProtected, Detail: "d"}, "the pod's rules are other ones than what would be decided now"},
		{daemon.Sandbox{State: daemon.StateOutdated, Plan: plan}, "the pod keeps the rules of another version or configuration (pod_outdated); " +
			"the settings, and what is not captured, are those of today's"},
		{daemon.Sandbox{State: daemon.StateUnprotected, Plan: plan, Detail: "flushed"}, "the pod runs without its rules: nothing of what follows is in force: flushed"},
		{daemon.Sandbox{State: daemon.StatePending}, "the pod was there before meshnetd and has not been looked at yet: nothing is known of its rules"},
		{daemon.Sandbox{State: daemon.StateFailing, Plan: plan}, "the pod's rules could not be written or read when they were last looked at; it is tried again with each audit"},
		{daemon.Sandbox{State: daemon.StateExempt}, "a container showed that the pod has no sidecar to redirect to: it has no rules"},
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
		if got := distance(tt.a, tt.b); got != tt.want {
			t.Errorf("%q and %q are %d apart, want %d", tt.a, tt.b, got, tt.want)
		}
	}
}
