// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

const patience = 20 * time.Second

// sandbox is a pod of the mesh as the runtime announces it, in a namespace of its own.
func sandbox(t *testing.T, id string) rules.Pod {
	t.Helper()
	pod := meshed(newNetNS(t))
	pod.SandboxID, pod.Name = id, id
	return pod
}

func container(name string, uid int64) rules.Container {
	return rules.Container{Name: name, UID: &uid, GID: &uid, Args: []string{"/usr/local/bin/pilot-agent", "proxy", "sidecar"}}
}

var app = container("app", 1000)

// A verified sandbox is a look-up; one that is not known is a new one; one outside the mesh costs nothing.
func TestAdmit(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	if o := e.Admit(ctx, pod, app); o.Result != lifecycle.Protected || m.holds(t, pod.NetNS).Rules() == 0 {
		t.Fatalf("unknown sandbox: got %s, %v, %d rules", o.Result, o.Err, m.holds(t, pod.NetNS).Rules())
	}
	m.failWith(always)
	if o := e.Admit(ctx, pod, app); o.Result != lifecycle.Protected {
		t.Errorf("known sandbox: got %s, %v", o.Result, o.Err)
	}
	if calls, _ := m.count(); calls != 0 {
		t.Errorf("a look-up asked the firewall %d times", calls)
	}
	other := sandbox(t, "other")
	if o := e.Admit(ctx, other, app); o.Error() == nil {
		t.Error("a container was admitted without rules")
	}
	m.failWith(nil)
	if o := e.Admit(ctx, other, app); o.Result != lifecycle.Protected {
		t.Errorf("next try: got %s, %v", o.Result, o.Err)
	}
	moved := pod
	moved.NetNS = newNetNS(t)
	if o := e.Admit(ctx, moved, app); o.Error() == nil || m.holds(t, moved.NetNS).Rules() != 0 {
		t.Errorf("another namespace under a known name: got %s, %v", o.Result, o.Err)
	}
	plain := rules.Pod{SandboxID: "plain", Namespace: "default", Name: "plain", NetNS: "/nowhere"}
	if o := e.Admit(ctx, plain, app); o.Result != lifecycle.Skipped || o.Error() != nil {
		t.Errorf("outside the mesh: got %s, %v", o.Result, o.Err)
	}
	if got := strings.Join(r.events(), " "); got != "pod_protected pod_blocked pod_protected pod_blocked" {
		t.Errorf("recorded: %s", got)
	}
}

// Whichever call to the kernel fails: no container is let through while its sandbox does not hold the
// pod's rules, and the next try works.
func TestEveryCallFailsOnce(t *testing.T) {
	proxy := container("istio-proxy", 2000)
	for n := 1; ; n++ {
		m := newMemory()
		e, _ := newEnforcer(t, m)
		ctx := limited(t, patience)
		pod := sandbox(t, "web")
		failed := false
		m.failWith(func(call int) error {
			if call != n {
				return nil
			}
			failed = true
			return errBroken
		})
		check := func(what string, o outcome.Outcome) {
			if o.Error() != nil {
				return
			}
			held := m.holds(t, pod.NetNS)
			if held.Rules() == 0 || held.Key() != o.Plan.Key() {
				t.Errorf("call %d fails: %s let through with %d rules of %d", n, what, held.Rules(), o.Plan.Rules())
			}
		}
		steps := []struct {
			what string
			do   func() outcome.Outcome
		}{
			{"sandbox", func() outcome.Outcome { return e.Enforce(ctx, lifecycle.SandboxStarted, pod) }},
			{"proxy", func() outcome.Outcome { return e.Admit(ctx, pod, proxy) }},
			{"proxy validated", func() outcome.Outcome { return e.Validate(ctx, pod, proxy) }},
			{"app", func() outcome.Outcome { return e.Admit(ctx, pod, app) }},
			{"app validated", func() outcome.Outcome {
				m.put(t, pod.NetNS, rules.Plan{}) // somebody flushes it in between
				return e.Validate(ctx, pod, app)
			}},
		}
		for _, s := range steps {
			o := s.do()
			check(s.what, o)
			if o.Error() == nil {
				continue
			}
			again := e.Admit(ctx, pod, proxy)
			if again.Error() != nil { // it may have been this one's call that fails
				again = e.Admit(ctx, pod, proxy)
			}
			if again.Error() != nil {
				t.Errorf("call %d failed at %s: the next try says %v", n, s.what, again.Error())
			}
			check(s.what+" again", again)
		}
		if !failed {
			if n < 10 {
				t.Fatalf("only %d calls were made", n-1)
			}
			return
		}
	}
}

// The last look at a container: into the kernel.
func TestValidate(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatal(o.Err)
	}
	inside, outside, moved := app, app, app
	inside.NetNS, outside.NetNS = pod.NetNS, newNetNS(t)
	moved.NetNS, moved.MovedBy = "/run/netns/theirs", "plugin 20-thief"
	_, before := m.count()
	for _, tt := range []struct {
		what string
		c    rules.Container
		do   func()
		want string // of the error; "" is none
	}{
		{"as it was", inside, func() {}, ""},
		{"rules of others", inside, func() { m.touch(t, pod.NetNS) }, ""},
		{"as they were", inside, func() {}, ""},
		{"a path that cannot be seen", rules.Container{Name: "app", NetNS: "/proc/0/ns/net"}, func() {}, ""},
		{"another namespace", outside, func() {}, "the runtime gives it the network namespace " + outside.NetNS},
		{"moved", moved, func() {}, `plugin 20-thief gives it another network namespace than its sandbox's ("/run/netns/theirs")`},
		{"flushed", inside, func() { m.put(t, pod.NetNS, rules.Plan{}) }, "the sandbox has lost its rules: iptables nat: missing: "},
	} {
		tt.do()
		o := e.Validate(ctx, pod, tt.c)
		if err := o.Error(); (tt.want == "") != (err == nil) || (err != nil && !strings.Contains(err.Error(), tt.want)) {
			t.Errorf("%s: got %v, want %q", tt.what, err, tt.want)
		}
	}
	if _, now := m.count(); now != before {
		t.Error("a look changed the kernel")
	}
	if o := e.Admit(ctx, pod, app); o.Result != lifecycle.Protected || m.holds(t, pod.NetNS).Rules() == 0 {
		t.Errorf("the next try after a flush: got %s, %v", o.Result, o.Err)
	}
	if o := e.Validate(ctx, pod, inside); o.Error() != nil {
		t.Error(o.Error())
	}
	if o := e.Validate(ctx, sandbox(t, "unknown"), moved); o.Error() == nil {
		t.Error("a container was moved out of a sandbox that was not known")
	}
	want := []string{outcome.EventProtected, outcome.EventBlocked, outcome.EventBlocked, outcome.EventBlocked, outcome.EventRepaired, outcome.EventBlocked}
	if got := r.events(); !slices.Equal(got, want) {
		t.Errorf("recorded: %v, want %v", got, want)
	}
}

// Containers say more about their pod: the rules follow, once.
func TestRefined(t *testing.T) {
	m := newMemory()
	e, r := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	first := m.holds(t, pod.NetNS).Key()
	proxy := container("istio-proxy", 2000)
	if o := e.Admit(ctx, pod, proxy); o.Result != lifecycle.Protected || !o.Changed || m.holds(t, pod.NetNS).Key() == first {
		t.Fatalf("got %s, %v, changed %v", o.Result, o.Err, o.Changed)
	}
	refined := m.holds(t, pod.NetNS).Key()
	_, applied := m.count()
	for _, c := range []rules.Container{app, proxy, app} {
		if o := e.Admit(ctx, pod, c); o.Result != lifecycle.Protected {
			t.Errorf("%s: got %s, %v", c.Name, o.Result, o.Err)
		}
		if o := e.Validate(ctx, pod, c); o.Error() != nil {
			t.Errorf("%s: %v", c.Name, o.Error())
		}
	}
	if _, now := m.count(); now != applied || m.holds(t, pod.NetNS).Key() != refined {
		t.Error("what is known was applied again, or undone")
	}
	bad := proxy
	bad.Env = map[string]string{"ISTIO_OUTBOUND_IPV4_LOOPBACK_CIDR": "10.0.0.0/8"}
	if o := e.Admit(ctx, pod, bad); o.Result != lifecycle.Refused || !strings.Contains(o.Error().Error(), "container istio-proxy of pod default/web") {
		t.Errorf("a proxy that cannot be understood: got %s, %v", o.Result, o.Error())
	}
	if o := e.Admit(ctx, pod, app); o.Result != lifecycle.Protected || m.holds(t, pod.NetNS).Key() != refined {
		t.Errorf("its pod's other container: got %s, %v", o.Result, o.Err)
	}
	want := []string{outcome.EventProtected, outcome.EventRefined, outcome.EventBlocked}
	if got := r.events(); !slices.Equal(got, want) {
		t.Errorf("recorded: %v, want %v", got, want)
	}
}

// A pod that proves to be a gateway loses its rules, and gets none with its next container.
func TestRefinedAway(t *testing.T) {
	gateway := rules.Container{Name: "istio-proxy", Args: []string{"proxy", "router"}}
	for _, first := range []bool{true, false} { // the sandbox was seen first, or this container
		m := newMemory()
		e, _ := newEnforcer(t, m)
		e.with(mayLoosen)
		ctx := limited(t, patience)
		pod := sandbox(t, "gateway")
		if first {
			e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		}
		for _, c := range []rules.Container{gateway, app, gateway, app} {
			if o := e.Admit(ctx, pod, c); o.Result != lifecycle.Skipped {
				t.Errorf("%s: got %s, %v", c.Name, o.Result, o.Err)
			}
			if o := e.Validate(ctx, pod, c); o.Result != lifecycle.Skipped {
				t.Errorf("%s: got %s, %v", c.Name, o.Result, o.Err)
			}
		}
		if n := m.holds(t, pod.NetNS).Rules(); n != 0 {
			t.Errorf("a gateway has %d rules", n)
		}
	}
}

// A proxy that comes to run as an earlier container does would let it go around the mesh.
func TestProxyAsAnEarlierContainer(t *testing.T) {
	m := newMemory()
	e, _ := newEnforcer(t, m)
	ctx := limited(t, patience)
	pod := sandbox(t, "web")
	for _, taken := range []bool{false, true} { // the container was let through, or there when meshnetd came
		if taken {
			early := container("early", 3000)
			early.Running = true
			pod.Containers = []rules.Container{early}
			e.Synchronize(ctx, []rules.Pod{pod})
			pod.Containers = nil
		} else if o := e.Admit(ctx, pod, container("app", 2000)); o.Error() != nil {
			t.Fatal(o.Error())
		}
	}
	before := m.holds(t, pod.NetNS).Key()
	for _, id := range []int64{2000, 3000} {
		if o := e.Admit(ctx, pod, container("istio-proxy", id)); o.Result != lifecycle.Refused || o.Impostor == "" {
			t.Errorf("%d: got %s, %v", id, o.Result, o.Err)
		}
	}
	if m.holds(t, pod.NetNS).Key() != before {
		t.Error("the rules let it go around the mesh")
	}
	if o := e.Admit(ctx, pod, container("istio-proxy", 4000)); o.Error() != nil {
		t.Error(o.Error())
	}
}

// A container with the proxy's ids goes around the mesh.
func TestProxyIdentity(t *testing.T) {
	for policy, want := range map[config.Identity][]string{
		config.IdentityRefuse: {outcome.EventProtected, outcome.EventBlocked},
		config.IdentityReport: {outcome.EventProtected, outcome.EventImpostor},
		config.IdentityOff:    {outcome.EventProtected},
	} {
		e, r := newEnforcer(t, newMemory())
		p := *e.policy.Load()
		p.ProxyIdentity = policy
		e.SetPolicy(p)
		ctx := limited(t, patience)
		pod := sandbox(t, "web")
		e.Enforce(ctx, lifecycle.SandboxStarted, pod)
		e.Admit(ctx, pod, container("istio-proxy", 1337))
		o := e.Admit(ctx, pod, container("app", 1337))
		if refused := o.Error() != nil; refused != (policy == config.IdentityRefuse) {
			t.Errorf("%s: got %v", policy, o.Error())
		}
		if got := r.events(); !slices.Equal(got, want) {
			t.Errorf("%s: recorded %v", policy, got)
		}
	}
}
