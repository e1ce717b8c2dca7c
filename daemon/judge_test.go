// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"os/exec"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/nftables"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// inside runs a program in the pod's network namespace.
func inside(t testing.TB, pod rules.Pod, input string, program ...string) string {
	t.Helper()
	cmd := exec.Command("nsenter", append([]string{"--net=" + pod.NetNS}, program...)...)
	cmd.Stdin = strings.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v: %s", program, err, out)
	}
	return string(out)
}

// istiosOwn is what Istio's CNI plugin writes for a pod with nativeNftables.
const istiosOwn = `table inet istio-proxy-nat {
	chain istio-redirect { meta l4proto tcp counter redirect to :15001; }
	chain istio-in-redirect { meta l4proto tcp counter redirect to :15006; }
	chain istio-inbound {
		tcp dport 15008 counter return
		meta l4proto tcp counter jump istio-in-redirect
	}
	chain istio-output {
		oifname "lo" ip saddr 127.0.0.6 counter return
		oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skuid 1337 counter jump istio-in-redirect
		oifname "lo" meta skuid != 1337 counter return
		meta skuid 1337 counter return
		oifname "lo" ip daddr != 127.0.0.1 tcp dport != 15008 meta skgid 1337 counter jump istio-in-redirect
		oifname "lo" meta skgid != 1337 counter return
		meta skgid 1337 counter return
		ip daddr 127.0.0.1 counter return
		counter jump istio-redirect
	}
	chain prerouting { type nat hook prerouting priority -100; policy accept; meta l4proto tcp counter jump istio-inbound; }
	chain output { type nat hook output priority -100; policy accept; counter jump istio-output; }
}
`

// capturing is a pod all of whose ports are captured.
func capturing(t *testing.T) rules.Pod {
	t.Helper()
	pod := inKernel(t, sandbox(t, "web"))
	pod.Annotations["traffic.sidecar.istio.io/includeInboundPorts"] = "*"
	return pod
}

func running(pod rules.Pod) rules.Pod {
	pod.Containers = []rules.Container{{Name: "app", Running: true}}
	return pod
}

// A running pod with rules that another program wrote, and that do what the plan says, is protected by them: whatever
// catch_up says they stay, until somebody asks for ours.
func TestRulesThatDoTheSame(t *testing.T) {
	nstest.Require(t, "nft")
	for _, catchUp := range []config.CatchUp{config.CatchUpStop, config.CatchUpReport, config.CatchUpApply} {
		t.Run(string(catchUp), func(t *testing.T) {
			ctx := limited(t, patience)
			pod := capturing(t)
			inside(t, pod, istiosOwn, "nft", "-f", "-")
			list := func() string { return inside(t, pod, "", "nft", "-s", "list", "ruleset") }
			before := list()
			e, r := newEnforcer(t, nftables.New(nftables.IPTables))
			e.with(func(p *policy.Policy) { p.CatchUp = catchUp })
			e.StopSandbox = func(context.Context, string) error { t.Error("stopped"); return nil }
			e.Synchronize(ctx, []rules.Pod{running(pod)})
			inside(t, pod, "add table ip other", "nft", "-f", "-") // so that it is looked at once more
			auditNow(t, e)
			inside(t, pod, "delete table ip other", "nft", "-f", "-")
			if o := e.Validate(ctx, pod, app); o.Error() != nil {
				t.Error(o.Error())
			}
			if known, _ := e.View().Sandbox("web"); known.State != lifecycle.StateOutdated || list() != before || !slices.Equal(r.events(), []string{outcome.EventOutdated}) {
				t.Errorf("%s, %v: %s\n%s", known.State, r.events(), known.Detail, list())
			}
			if o := e.Compare(ctx, "web"); o.Err != nil || len(o.Differences) == 0 || o.Effect.Answer != effect.More || len(o.Effect.Differences) == 0 {
				t.Errorf("compared: %s, %q, %v", o.Effect.Answer, o.Differences, o.Err)
			}
			again, r := newEnforcer(t, nftables.New(nftables.IPTables))
			again.with(func(p *policy.Policy) { p.ReplaceOutdated, p.CatchUp = true, catchUp })
			again.Synchronize(ctx, []rules.Pod{running(pod)})
			if known, _ := again.View().Sandbox("web"); known.State != lifecycle.StateProtected || !slices.Equal(r.events(), []string{outcome.EventProtected}) ||
				!strings.Contains(inside(t, pod, "", "iptables-nft-save"), "ISTIO_OUTPUT") {
				t.Errorf("asked to replace them: %s, %v: %s", known.State, r.events(), known.Detail)
			}
		})
	}
}

// What a pod with NET_ADMIN writes proves nothing: rules that look like meshnetd's for another pod, and the name that an
// earlier meshnetd gave to lo for them.
func TestForgedRules(t *testing.T) {
	ctx := limited(t, patience)
	pod := capturing(t)
	e, _ := newEnforcer(t, nftables.New(nftables.IPTables))
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	everything := pod
	everything.Annotations = map[string]string{"sidecar.istio.io/status": "{}", "traffic.sidecar.istio.io/excludeOutboundIPRanges": "0.0.0.0/0"}
	plan, err := istios.Decide(everything).Planner(rules.Network{Addresses: pod.IPs})
	if err != nil {
		t.Fatal(err)
	}
	forge := func() {
		t.Helper()
		writeAs(t, pod.NetNS, plan)
		inside(t, pod, "", "ip", "link", "set", "lo", "alias", "meshnetd:"+plan.Key())
	}
	for name, look := range map[string]func(*Enforcer){
		"audit":   func(e *Enforcer) { auditNow(t, e) },
		"restart": func(*Enforcer) {},
	} {
		forge()
		r := &recorder{}
		if name == "restart" {
			e, r = newEnforcer(t, nftables.New(nftables.IPTables))
			e.Synchronize(ctx, []rules.Pod{running(pod)})
		}
		look(e)
		known, _ := e.View().Sandbox("web")
		if saved := inside(t, pod, "", "iptables-nft-save"); known.State != lifecycle.StateProtected || strings.Contains(saved, "-d 0.0.0.0/0 -j RETURN") || strings.Contains(saved, "ISTIO_OUTPUT -j RETURN") {
			t.Errorf("%s: %s, %v\n%s", name, known.State, r.events(), saved)
		}
	}
}

// A rule that nobody can judge before the plan's: the running pod is left, and said to be unproven; before its next
// container the plan is written anew. A table of its own stays, and is said again.
func TestRulesThatNobodyCanTell(t *testing.T) {
	nstest.Require(t, "nft")
	const limit = "limit rate 1/second meta l4proto tcp accept"
	for where, unknown := range map[string]string{
		"in the plan's chain":   "insert rule ip nat OUTPUT " + limit,
		"in a table of its own": "add table ip other; add chain ip other o { type nat hook output priority -110; }; add rule ip other o limit rate 1/second meta l4proto tcp redirect to :9000",
	} {
		t.Run(where, func(t *testing.T) {
			ctx := limited(t, patience)
			pod := capturing(t)
			e, r := newEnforcer(t, nftables.New(nftables.IPTables))
			e.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpStop })
			e.StopSandbox = func(context.Context, string) error { t.Error("stopped"); return nil }
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
			inside(t, pod, unknown, "nft", "-f", "-")
			before := inside(t, pod, "", "nft", "-s", "list", "ruleset")
			for range 3 {
				auditNow(t, e)
			}
			known, _ := e.View().Sandbox("web")
			if got := r.events(); known.State != lifecycle.StateUnproven || !slices.Equal(got, []string{outcome.EventProtected, outcome.EventUnproven}) || inside(t, pod, "", "nft", "-s", "list", "ruleset") != before {
				t.Errorf("audited: %s, %v: %s", known.State, got, known.Detail)
			}
			if !strings.Contains(known.Detail, "cannot be told: ") || !strings.Contains(known.Detail, "tcp ") {
				t.Errorf("said: %s", known.Detail)
			}
			next, r := newEnforcer(t, nftables.New(nftables.IPTables))
			next.with(func(p *policy.Policy) { p.CatchUp = config.CatchUpStop })
			next.StopSandbox = e.StopSandbox
			next.Synchronize(ctx, []rules.Pod{running(pod)})
			if known, _ := next.View().Sandbox("web"); known.State != lifecycle.StateUnproven || !slices.Equal(r.events(), []string{outcome.EventUnproven}) {
				t.Errorf("taken over: %s, %v", known.State, r.events())
			}
			want := map[bool]lifecycle.State{true: lifecycle.StateProtected, false: lifecycle.StateUnproven}[where == "in the plan's chain"]
			o := next.Admit(ctx, pod, app)
			if known, _ := next.View().Sandbox("web"); o.Error() != nil || known.State != want {
				t.Errorf("a container: %s, %v", known.State, o.Error())
			}
			if o := next.Validate(ctx, pod, app); o.Error() != nil {
				t.Error(o.Error())
			}
			if o := next.Admit(ctx, pod, container("other", 1337)); o.Error() == nil {
				t.Error("a container that runs as the proxy was let through")
			}
		})
	}
}

// Somebody else's table that takes packets from the plan's rules is drift, and no container comes beside it.
func TestTableThatTakes(t *testing.T) {
	nstest.Require(t, "nft")
	ctx := limited(t, patience)
	pod := capturing(t)
	e, r := newEnforcer(t, nftables.New(nftables.IPTables))
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	inside(t, pod, "add table ip other; add chain ip other o { type nat hook output priority -110; }; add rule ip other o tcp dport 443 redirect to :9000", "nft", "-f", "-")
	for _, ask := range []func() outcome.Outcome{func() outcome.Outcome { return e.Validate(ctx, pod, app) }, func() outcome.Outcome { return e.Admit(ctx, pod, app) }} {
		o := ask()
		if err := o.Error(); err == nil || !strings.Contains(err.Error(), "takes less: tcp ") || !strings.Contains(err.Error(), "port 9000") {
			t.Errorf("%s: %v", o.Trigger, err)
		}
	}
	inside(t, pod, "delete table ip other", "nft", "-f", "-")
	if o := e.Admit(ctx, pod, app); o.Error() != nil || e.state("web") != lifecycle.StateProtected {
		t.Errorf("when it is gone: %s, %v, %v", e.state("web"), o.Error(), r.events())
	}
}

// Whole rules of an earlier configuration that take less than today's stay, and that is said.
func TestOutdatedRulesThatTakeLess(t *testing.T) {
	m := newMemory()
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	earlierDaemon(t, m, pod, func(d *istio.Defaults) { d.OutboundPort = 15101 })
	e, r := newEnforcer(t, m)
	e.Synchronize(ctx, []rules.Pod{running(pod)})
	if said := r.outcomes[0].Message(); e.state("web") != lifecycle.StateOutdated || !strings.Contains(said, "takes less: tcp ") || !strings.Contains(said, "15101") {
		t.Errorf("%s: %s", e.state("web"), said)
	}
	applied := m.applied
	e.Synchronize(ctx, []rules.Pod{running(pod)}) // when the runtime is back
	if e.state("web") != lifecycle.StateOutdated || m.applied != applied {
		t.Errorf("taken over again: %s, %v", e.state("web"), r.events())
	}
}
