// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// specs is a Kubelet that knows these pods, and counts how often it was asked for one that is about to run.
type specs struct {
	pods  []rules.Pod
	asked int
}

func (s *specs) Pod(_ context.Context, uid, _ string) (rules.Pod, bool) {
	s.asked++
	return s.Known(uid)
}

func (s *specs) Known(uid string) (rules.Pod, bool) {
	i := slices.IndexFunc(s.pods, func(p rules.Pod) bool { return p.UID == uid })
	if i < 0 {
		return rules.Pod{}, false
	}
	return s.pods[i], true
}

// withSpec returns a sandbox and an enforcer whose kubelet knows these containers of it.
func withSpec(t *testing.T, m *inMemory, containers ...rules.Container) (*Enforcer, *recorder, rules.Pod, *specs) {
	t.Helper()
	e, r := newEnforcer(t, m)
	pod := sandbox(t, "web")
	pod.UID = "uid-web"
	known := &specs{pods: []rules.Pod{{UID: pod.UID, Namespace: pod.Namespace, Name: pod.Name, Containers: containers, Complete: true}}}
	e.Kubelet = known
	return e, r, pod, known
}

func events(r *recorder) (all []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, o := range r.outcomes {
		all = append(all, o.Event())
	}
	return all
}

// specified is a container as a specification has it: without the program that its image gives.
func specified(c rules.Container) rules.Container {
	c.Args, c.ArgsOnly = c.Args[1:], true
	return c
}

// A classic sidecar's own user is in the first rules, before the app's container, and nothing is written again for it.
func TestFirstPlanByTheKubelet(t *testing.T) {
	m := newMemory()
	proxy := container("istio-proxy", 4242)
	e, r, pod, known := withSpec(t, m, app, specified(proxy))
	ctx := limited(t, patience)
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatalf("got %s, %v", o.Result, o.Err)
	}
	if first := m.holds(t, pod.NetNS); !strings.Contains(first.V4.String(), "--uid-owner 4242") {
		t.Errorf("the first rules do not have the proxy's user:\n%s", first.V4)
	}
	_, d, _ := e.View().Explain(pod.SandboxID)
	sources := map[string]string{}
	for _, s := range d.Account.Settings {
		sources[s.Name] = s.Source
	}
	if got, want := sources["proxyUID"], "container istio-proxy user, by the kubelet"; got != want {
		t.Errorf("the user is %q, want %q", got, want)
	}
	for _, c := range []rules.Container{app, proxy} {
		if o := e.Admit(ctx, pod, c); o.Error() != nil {
			t.Error(o.Error())
		}
		if o := e.Validate(ctx, pod, c); o.Error() != nil {
			t.Error(o.Error())
		}
	}
	if got := events(r); m.applied != 1 || !slices.Equal(got, []string{outcome.EventProtected}) {
		t.Errorf("written %d times; events %q", m.applied, got)
	}
	if known.asked != 1 {
		t.Errorf("asked %d times", known.asked)
	}
	if _, d, _ = e.View().Explain(pod.SandboxID); d.Account == nil {
		t.Fatal("no account")
	}
	for _, s := range d.Account.Settings {
		if s.Name == "proxyUID" && s.Source != "container istio-proxy user" {
			t.Errorf("when the runtime has told it, the user is by %q", s.Source)
		}
	}
}

// What the runtime creates counts, before the container starts, and the difference is said.
func TestContradiction(t *testing.T) {
	m := newMemory()
	e, r, pod, _ := withSpec(t, m, app, container("istio-proxy", 4242))
	ctx := limited(t, patience)
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	created := container("istio-proxy", 4343)
	if o := e.Admit(ctx, pod, created); o.Error() != nil {
		t.Fatal(o.Error())
	}
	if now := m.holds(t, pod.NetNS); !strings.Contains(now.V4.String(), "--uid-owner 4343") || m.applied != 2 {
		t.Errorf("written %d times:\n%s", m.applied, now.V4)
	}
	if got, want := events(r), []string{outcome.EventProtected, outcome.EventContradicted, outcome.EventRefined}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if text := r.outcomes[1].Message(); !strings.Contains(text, "user 4343 instead of 4242") {
		t.Errorf("said: %s", text)
	}
}

// A runtime that tells no user still has nobody run as the proxy.
func TestImpostorByTheKubelet(t *testing.T) {
	e, _, pod, _ := withSpec(t, newMemory(), as("app", 1337, "/bin/app"))
	ctx := limited(t, patience)
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	untold := rules.Container{Name: "app", Args: []string{"/bin/app"}}
	if o := e.Admit(ctx, pod, untold); o.Error() == nil || !strings.Contains(o.Error().Error(), "container app runs as user 1337") {
		t.Errorf("got %v", o.Error())
	}
	pod.Name = "other" // whose UID is another pod's here
	if _, c := e.specified(ctx, outcome.Begin(lifecycle.ContainerCreated, pod), memory.Sandbox{}, untold); c.UID != nil {
		t.Error("another pod's specification counts")
	}
}

// A pod outside the mesh is nobody's question.
func TestOutsideIsNotAskedFor(t *testing.T) {
	e, _, pod, known := withSpec(t, newMemory(), app)
	pod.Annotations = nil
	if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Skipped || known.asked != 0 {
		t.Errorf("got %s; asked %d times", o.Result, known.asked)
	}
	pod = sandbox(t, "there-before")
	pod.UID = "uid-web"
	e.Synchronize(limited(t, patience), []rules.Pod{pod})
	if known.asked != 0 {
		t.Error("a pod that was there before is asked for")
	}
}

// Without the host's process ids nobody can look into the pause process of a pod on the host's network.
func TestHostNetworkByTheKubelet(t *testing.T) {
	e, r, pod, known := withSpec(t, newMemory())
	known.pods[0].HostNetwork = true
	ctx := limited(t, patience)
	own := pod
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, own); o.Result != lifecycle.Protected {
		t.Errorf("a pod whose network namespace the runtime names: %s, %v", o.Result, o.Err)
	}
	host := pod
	host.SandboxID, host.NetNS, host.NetNSOfPause = "host", "/proc/4194304/ns/net", true
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, host); o.Result != lifecycle.Skipped || o.Decision.Reason != rules.ReasonHostNetwork {
		t.Errorf("at its start: %s, %s, %v", o.Result, o.Decision.Reason, o.Err)
	}
	before := r.count()
	e.Synchronize(ctx, []rules.Pod{host})
	if got := events(r)[before:]; !slices.Equal(got, []string{outcome.EventSkipped}) {
		t.Errorf("taken over: %q", got)
	}
	if _, known := e.sandboxes.Get("host"); known {
		t.Error("it is remembered")
	}
}

// An init container that a lockdown leaves nothing to reach is named by the pod's first event, and again when it tries.
func TestInitContainersBehindALockdown(t *testing.T) {
	m := newMemory()
	e, r, pod, _ := withSpec(t, m, rules.Container{Name: "migrate", Phase: rules.PhaseInit}, app)
	e.with(func(p *policy.Policy) {
		p.Node.Lockdowns = []rules.Lockdown{{Enforce: true, Egress: true, Place: "m.toml:7"}}
	})
	e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod)
	m.counts = map[string]uint64{"MESHNETD_LOCK_0_EGRESS": 3}
	auditNow(t, e)
	if got, want := events(r), []string{outcome.EventProtected, outcome.EventLockdown}; !slices.Equal(got, want) {
		t.Fatalf("got %q", got)
	}
	const want = "init container migrate reaches nothing: it runs before the proxy does, and [[lockdown]] of m.toml:7 closes the rest (egress)"
	for _, o := range r.outcomes {
		var out strings.Builder
		record, flush := outcome.Log(slog.New(slog.NewTextHandler(&out, nil)), func() {})
		record(o)
		if flush(); !strings.Contains(out.String(), want) {
			t.Errorf("it does not say it: %s", out.String())
		}
	}
}

// What is given to a container is said before the container is created, or refused where the node says so.
func TestPodsThatCanBypass(t *testing.T) {
	admin := app
	admin.Powers = rules.Powers{NetAdmin: true}
	m := newMemory()
	e, r, pod, known := withSpec(t, m, admin)
	ctx := limited(t, patience)
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	if got := events(r); !slices.Equal(got, []string{outcome.EventProtected, outcome.EventBypass}) {
		t.Fatalf("got %q", got)
	}
	if text := r.outcomes[1].Message(); !strings.Contains(text, "container app (net_admin)") {
		t.Errorf("said: %s", text)
	}
	sb, _ := e.sandboxes.Get(pod.SandboxID)
	if all, _ := e.View().Bypasses(sb); rules.SayBypasses(all) != "container app (net_admin)" {
		t.Errorf("of the sandbox: %q", rules.SayBypasses(all))
	}
	unknown := sb
	unknown.Pod.UID = "of nobody"
	if got, other := e.View().Source(sb), e.View().Source(unknown); got != "nri + kubelet" || other != "nri" {
		t.Errorf("known by %q, and one that the kubelet does not tell of by %q", got, other)
	}
	refusing := *e.policy.Load()
	refusing.Node.RefusePowers = true
	e.SetPolicy(refusing)
	again := pod
	again.SandboxID, again.NetNS = "again", newNetNS(t)
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, again); o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonBypass || m.holds(t, again.NetNS).Rules() > 0 {
		t.Errorf("got %s, %v", o.Result, o.Err)
	}
	// Where the runtime has to be refused later, its containers are.
	if o := e.Admit(ctx, again, app); o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonBypass {
		t.Errorf("its container: %s, %v", o.Result, o.Err)
	}
	// That it is there when the runtime comes again makes no difference, until one of its containers runs: then it goes on.
	for _, runs := range []bool{false, true} {
		running := app
		running.Running = runs
		again.Containers = []rules.Container{running}
		e.sandboxes.Forget("again")
		e.Synchronize(ctx, []rules.Pod{again})
		if sb, _ := e.sandboxes.Get("again"); sb.State != lifecycle.StateProtected {
			t.Errorf("taken over: %s, %s", sb.State, sb.Detail)
		}
		if o := e.Admit(ctx, again, app); (o.Error() == nil) != runs {
			t.Errorf("taken over, and running is %t: %v", runs, o.Error())
		}
	}
	known.pods = nil
	if got, _ := e.View().Bypasses(sb); got != nil {
		t.Errorf("without the kubelet: %v", got)
	}
}

// A pod that makes itself unreadable is told of, and refused where ways around the rules are; one that can be read is not.
func TestUnreadablePod(t *testing.T) {
	e, r, pod, known := withSpec(t, newMemory())
	known.pods[0].Unreadable, known.pods[0].Complete = "more than 1024 containers", false
	ctx := limited(t, patience)
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	if got := events(r); !slices.Equal(got, []string{outcome.EventProtected, outcome.EventBypass}) {
		t.Fatalf("got %q", got)
	}
	if text := r.outcomes[1].Message(); !strings.Contains(text, "more than 1024 containers") {
		t.Errorf("said: %s", text)
	}
	sb, _ := e.sandboxes.Get(pod.SandboxID)
	if _, unreadable := e.View().Bypasses(sb); unreadable == "" || e.View().Source(sb) != "nri" {
		t.Errorf("of the sandbox: %q, by %s", unreadable, e.View().Source(sb))
	}
	refusing := *e.policy.Load()
	refusing.Node.RefusePowers = true
	e.SetPolicy(refusing)
	again := pod
	again.SandboxID, again.NetNS = "again", newNetNS(t)
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, again); o.Result != lifecycle.Refused || o.Decision.Reason != rules.ReasonBypass {
		t.Errorf("got %s, %v", o.Result, o.Err)
	}
	if o := e.Admit(ctx, again, app); o.Result != lifecycle.Refused {
		t.Errorf("its container: %s, %v", o.Result, o.Err)
	}
	// What runs already goes on, by what it was decided by.
	auditNow(t, e)
	if sb, _ := e.sandboxes.Get(pod.SandboxID); sb.State != lifecycle.StateProtected {
		t.Errorf("after an audit: %s, %s", sb.State, sb.Detail)
	}
}

// Where the runtime tells no user, a pod that hides it from the kubelet's word as well has no container created.
func TestUnreadablePodHidesNoUser(t *testing.T) {
	e, r, pod, known := withSpec(t, newMemory())
	ctx := limited(t, patience)
	e.Enforce(ctx, lifecycle.SandboxStarted, pod)
	known.pods[0].Unreadable = "more than 1024 containers"
	untold := rules.Container{Name: "app", Args: []string{"/bin/app"}}
	o := e.Admit(ctx, pod, untold)
	if o.Result != lifecycle.Refused || o.Error() == nil || !strings.Contains(o.Error().Error(), "as whom container app runs cannot be known") {
		t.Errorf("got %s, %v", o.Result, o.Error())
	}
	if o := e.Admit(ctx, pod, as("app", 1000, "/bin/app")); o.Error() != nil {
		t.Errorf("whose user the runtime tells: %v", o.Error())
	}
	other := pod
	other.Name = "other" // whose UID is another pod's here
	enrolled := memory.Sandbox{Decision: rules.Decision{Action: rules.Enrol}}
	asked, _ := e.specified(ctx, outcome.Begin(lifecycle.ContainerCreated, other), enrolled, untold)
	asked.Decision = enrolled.Decision
	if text := hidesUser(&asked, untold); text != "" {
		t.Errorf("another pod's word counts: %s", text)
	}
	e.with(func(p *policy.Policy) { p.ProxyIdentity = config.IdentityReport })
	before := r.count()
	if o := e.Admit(ctx, pod, untold); o.Error() != nil || !slices.Contains(events(r)[before:], outcome.EventImpostor) {
		t.Errorf("reported: %v, %q", o.Error(), events(r)[before:])
	}
	known.pods = nil
	before = r.count()
	if o := e.Admit(ctx, pod, untold); o.Error() != nil || slices.Contains(events(r)[before:], outcome.EventImpostor) {
		t.Errorf("a pod that the kubelet does not tell of: %v, %q", o.Error(), events(r)[before:])
	}
}
