// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// stale is a Kubelet whose remembered word of every pod is this one, whatever it answers.
type stale struct {
	*specs
	remembered rules.Pod
}

func (s stale) Known(string) (rules.Pod, bool) { return s.remembered, true }

func (s stale) Pod(ctx context.Context, uid, container string) (rules.Pod, bool) {
	if s.remembered.Unreadable == "" && (container == "" || s.remembered.Container(container) != nil) {
		return s.remembered, true
	}
	return s.specs.Pod(ctx, uid, container)
}

// debugger is a container that is added to a pod that runs.
func debugger(powers rules.Powers) rules.Container {
	c := given(as("debugger", 0, "sh"), powers)
	c.Phase = rules.PhaseDebug
	return c
}

// asks are all that a runtime asks about a container.
func asks(e *Enforcer, pod rules.Pod, c rules.Container) map[string]func(context.Context) outcome.Outcome {
	return map[string]func(context.Context) outcome.Outcome{
		"created":   func(ctx context.Context) outcome.Outcome { return e.Admit(ctx, pod, c) },
		"validated": func(ctx context.Context) outcome.Outcome { return e.Validate(ctx, pod, c) },
		"started":   func(ctx context.Context) outcome.Outcome { return e.Start(ctx, pod, c.Name, "") },
	}
}

// A container that the remembered word of its pod does not have was given what nobody knows: it is asked for.
func TestContainerThatIsNotToldOf(t *testing.T) {
	const untold = "what container debugger is given cannot be known yet, since the kubelet tells of its pod and not of it"
	old := given(app, rules.Powers{DropsNetRaw: true})
	for _, tt := range []struct {
		name   string
		answer []rules.Container // nil is none
		policy func(*policy.Policy)
		want   string
	}{
		{"it is given something", []rules.Container{old, debugger(rules.Powers{Privileged: true})}, refusePowers, "container debugger (privileged)"},
		{"it keeps NET_RAW", []rules.Container{old, debugger(rules.Powers{})}, refuseRaw, "container debugger (net_raw)"},
		{"it drops that", []rules.Container{old, debugger(rules.Powers{DropsNetRaw: true})}, refuseRaw, ""},
		{"not in the answer either", []rules.Container{old}, refusePowers, untold},
		{"there is no answer", nil, refuseRaw, untold},
		{"there is no answer, and nothing is refused", nil, func(*policy.Policy) {}, ""},
	} {
		for _, running := range []bool{false, true} {
			e, _, pod, known := withSpec(t, newMemory(), tt.answer...)
			remembered := known.pods[0]
			remembered.Containers = []rules.Container{old}
			if tt.answer == nil {
				known.pods = nil
			}
			e.with(tt.policy)
			e.Kubelet = stale{known, remembered}
			e.Synchronize(limited(t, patience), []rules.Pod{runs(pod, running)})
			for when, ask := range asks(e, pod, told(debugger(rules.Powers{}))) {
				asked := known.asked
				o, want := ask(limited(t, patience)), tt.want
				if want == untold && when == "started" { // once it is created the kubelet would not try again
					want = ""
				}
				if (o.Error() != nil) != (want != "") || want != "" && !strings.Contains(o.Error().Error(), want) ||
					want == untold && !strings.Contains(o.Error().Error(), "It is tried again, and starts once the kubelet tells of it") {
					t.Errorf("%s, the pod runs: %t, %s: %v", tt.name, running, when, o.Error())
				}
				if known.asked-asked > 1 {
					t.Errorf("%s, %s: asked %d times", tt.name, when, known.asked-asked)
				}
			}
			refuses(t, e, pod, app, "")
		}
	}
}

// Where the runtime tells no user, that of such a container is asked for, too.
func TestUserOfAContainerThatIsNotToldOf(t *testing.T) {
	untold := rules.Container{Name: "debugger", Args: []string{"sh"}}
	for _, tt := range []struct {
		name   string
		answer []rules.Container
		want   string
	}{
		{"the proxy's", []rules.Container{app, as("debugger", 1337, "sh")}, "container debugger runs as user 1337"},
		{"another", []rules.Container{app, as("debugger", 1000, "sh")}, ""},
		{"not in the answer", []rules.Container{app}, "as whom container debugger runs cannot be known: this runtime does not tell it, and the kubelet"},
	} {
		e, r, pod, known := withSpec(t, newMemory(), app)
		remembered := known.pods[0]
		e.Kubelet = stale{known, remembered}
		e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
		known.pods[0].Containers, known.asked = tt.answer, 0
		o := e.Admit(limited(t, patience), pod, untold)
		if (o.Error() != nil) != (tt.want != "") || tt.want != "" && !strings.Contains(o.Error().Error(), tt.want) || known.asked != 1 {
			t.Errorf("%s: %v, asked %d times", tt.name, o.Error(), known.asked)
		}
		unseen := pod
		unseen.SandboxID, unseen.NetNS, known.asked = "unseen", newNetNS(t), 0
		if o := e.Admit(limited(t, patience), unseen, untold); (o.Error() != nil) != (tt.want != "") || tt.want != "" && !strings.Contains(o.Error().Error(), tt.want) || known.asked != 1 {
			t.Errorf("%s, in a sandbox that nobody has seen: %v, asked %d times", tt.name, o.Error(), known.asked)
		}
		e.with(func(p *policy.Policy) { p.ProxyIdentity = config.IdentityOff })
		if o := e.Admit(limited(t, patience), pod, untold); o.Error() != nil || known.asked != 1 {
			t.Errorf("%s, and nobody minds: %v, asked %d times, %q", tt.name, o.Error(), known.asked, events(r))
		}
	}
}

// What is kept of a pod only in part is whole whenever the kubelet answers, and its absence is no fault of the pod's own.
func TestPodThatIsNotKept(t *testing.T) {
	const larger = "the node's pods are larger than is kept of them"
	plain := given(as("app", 1000, "sh"), rules.Powers{DropsNetRaw: true})
	untold := rules.Container{Name: "app", Args: []string{"sh"}}
	for _, answers := range []bool{true, false} {
		e, _, pod, known := withSpec(t, newMemory(), plain)
		remembered := known.pods[0]
		remembered.Containers, remembered.Unreadable = nil, larger
		e.Kubelet = stale{known, remembered}
		e.with(refuseRaw)
		if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
			t.Fatalf("got %s, %v", o.Result, o.Err)
		}
		if !answers {
			known.pods[0] = remembered
		}
		for when, ask := range asks(e, pod, untold) {
			known.asked = 0
			switch o := ask(limited(t, patience)); {
			case answers && (o.Error() != nil || known.asked != 1):
				t.Errorf("%s: %v, asked %d times", when, o.Error(), known.asked)
			case !answers && when == "started" && o.Error() != nil: // it was judged when it was created, or nobody asked
				t.Errorf("started, without an answer: %v", o.Error())
			case !answers && when != "started" && (o.Error() == nil || !strings.Contains(o.Error().Error(), larger) || strings.Contains(o.Error().Error(), "cannot be read")):
				t.Errorf("%s, without an answer: %v", when, o.Error())
			}
		}
	}
}

// What the configuration of today refuses holds for sandboxes of yesterday: not for those of their containers that may have run by
// then, but for those that are added. What it refuses no more holds for none.
func TestReloadReachesOldSandboxes(t *testing.T) {
	admin := given(app, rules.Powers{NetAdmin: true})
	debug := debugger(rules.Powers{Privileged: true})
	shell := given(as("istio-proxy", 0, "bash", "-c", "x"), rules.Powers{Privileged: true})
	unknown := shell
	unknown.Args = nil
	allow := func(p *policy.Policy) { p.Node.RefusePowers, p.Node.Lockdowns = false, nil }
	for name, refuse := range map[string]func(*policy.Policy){"powers": refusePowers, "raw": refuseRaw} {
		for what, again := range map[string]func(*Enforcer, rules.Pod){
			"":         func(*Enforcer, rules.Pod) {},
			"repaired": func(e *Enforcer, pod rules.Pod) { e.Repair(limited(t, patience), pod.SandboxID) },
			"twice": func(e *Enforcer, pod rules.Pod) {
				e.with(refusePowers)
				e.Repair(limited(t, patience), pod.SandboxID)
				e.with(refuseRaw)
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				e, _, pod, _ := withSpec(t, newMemory(), given(admin, rules.Powers{NetAdmin: true, NetRaw: true}), debug, unknown)
				if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
					t.Fatalf("got %s, %v", o.Result, o.Err)
				}
				e.with(refuse)
				again(e, pod)
				refuses(t, e, pod, debug, "container debugger (privileged")
				refuses(t, e, pod, shell, "container istio-proxy (privileged")
				refuses(t, e, pod, container("istio-proxy", 1337), "")
				refuses(t, e, pod, admin, "")
				e.with(allow)
				refuses(t, e, pod, debug, "")
			})
		}
		t.Run(name+", and no more", func(t *testing.T) {
			e, _, pod, known := withSpec(t, newMemory(), given(app, rules.Powers{NetAdmin: true, NetRaw: true}))
			spec := known.pods
			known.pods = nil
			e.with(refuse)
			e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
			known.pods = spec
			refuses(t, e, pod, app, "container app (net_admin, net_raw)")
			e.with(func(p *policy.Policy) { p.Node.PowersExempt, p.Node.Lockdowns = []string{"default"}, nil })
			refuses(t, e, pod, app, "")
		})
	}
}

// What is only reported is reported of an old sandbox by today's configuration as well.
func TestReportsReachOldSandboxes(t *testing.T) {
	debug := debugger(rules.Powers{})
	e, r, pod, _ := withSpec(t, newMemory(), app, debug)
	e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
	e.with(func(p *policy.Policy) { p.Node.Lockdowns = []rules.Lockdown{{Raw: rules.RawReport, Place: "m.toml:7"}} })
	if e.Admit(limited(t, patience), pod, told(debug)); !slices.Contains(events(r), outcome.EventBypass) {
		t.Errorf("events %q", events(r))
	}
}

// A pod that runs when meshnetd comes and makes itself unreadable then hides which of its containers are new: none is created.
func TestUnreadablePodThatRuns(t *testing.T) {
	e, _, pod, known := withSpec(t, newMemory(), app)
	e.with(refusePowers)
	e.Synchronize(limited(t, patience), []rules.Pod{runs(pod, true)})
	refuses(t, e, pod, app, "")
	known.pods[0].Unreadable, known.pods[0].Containers = "more than 1024 containers", nil
	for _, c := range []rules.Container{app, debugger(rules.Powers{}), container("istio-proxy", 1337)} {
		refuses(t, e, pod, c, "more than 1024 containers")
	}
}

// What more is refused by now takes back nothing of what was refused when the sandbox was enrolled.
func TestTighterReloadLoosensNothing(t *testing.T) {
	raw := given(app, rules.Powers{})
	e, _, pod, known := withSpec(t, newMemory(), raw)
	spec := known.pods
	known.pods = nil
	e.with(refuseRaw)
	if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatalf("got %s, %v", o.Result, o.Err)
	}
	known.pods = spec
	refuses(t, e, pod, raw, "container app (net_raw)")
	e.with(refusePowers) // and raw, still
	refuses(t, e, pod, raw, "container app (net_raw)")
	known.pods[0].Containers[0].Powers = rules.Powers{DropsNetRaw: true, NetAdmin: true}
	refuses(t, e, pod, given(app, known.pods[0].Containers[0].Powers), "") // which nobody refused then
}
