// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/rules"
)

func refusePowers(p *policy.Policy) { p.Node.RefusePowers = true }

func refuseRaw(p *policy.Policy) {
	p.Node.Lockdowns = []rules.Lockdown{{Raw: rules.RawRefuse, Place: "m.toml:7"}}
}

// given returns a container with powers.
func given(c rules.Container, powers rules.Powers) rules.Container {
	c.Powers = powers
	return c
}

// runs returns a pod as a runtime lists it: its app runs, or was created only.
func runs(pod rules.Pod, running bool) rules.Pod {
	c := app
	c.Running = running
	pod.Containers = []rules.Container{c}
	return pod
}

// told is what a runtime tells of a container: no powers.
func told(c rules.Container) rules.Container { return given(c, rules.Powers{}) }

// refuses asks all that a runtime asks about a container, and checks that the answer is the same each time.
func refuses(t *testing.T, e *Enforcer, pod rules.Pod, c rules.Container, want string) {
	t.Helper()
	ctx := limited(t, patience)
	for _, ask := range []func(context.Context, rules.Pod, rules.Container) outcome.Outcome{e.Admit, e.Validate} {
		switch o := ask(ctx, pod, told(c)); {
		case want == "" && o.Error() != nil:
			t.Errorf("%s, %s: %v", c.Name, o.Trigger, o.Error())
		case want != "" && (o.Error() == nil || o.Decision.Reason != rules.ReasonBypass || !strings.Contains(o.Error().Error(), want)):
			t.Errorf("%s, %s: %v, want %q", c.Name, o.Trigger, o.Error(), want)
		}
	}
}

// Whatever made a sandbox, and whoever took it over: its containers do not come to the powers that the node refuses.
func TestPowersOfASandboxThatIsThere(t *testing.T) {
	admin, plain := rules.Powers{NetAdmin: true}, rules.Powers{DropsNetRaw: true}
	for _, tt := range []struct {
		name       string
		policy     func(*policy.Policy)
		powers     rules.Powers
		hostPID    bool
		unreadable string
		want       string
	}{
		{"NET_ADMIN", refusePowers, admin, false, "", "container tool (net_admin)"},
		{"host's process ids", refusePowers, plain, true, "", "container web (host_pid), container tool (host_pid)"},
		{"NET_RAW that the runtime gives", refuseRaw, rules.Powers{}, false, "", "container tool (net_raw)"},
		{"NET_RAW that the runtime gives, and nobody asks", refusePowers, rules.Powers{}, false, "", ""},
		{"unreadable", refusePowers, plain, false, "more than 1024 containers", "is not taken in (more than 1024 containers), and bypass.privileged"},
		{"unreadable, and raw", refuseRaw, plain, false, "more than 1024 containers", "is not taken in (more than 1024 containers), and [[lockdown]]"},
		{"reported only", func(*policy.Policy) {}, admin, false, "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			web, tool := given(container("web", 1000), plain), given(container("tool", 1000), tt.powers)
			e, _, pod, known := withSpec(t, newMemory(), web, tool)
			known.pods[0].HostPID, known.pods[0].Unreadable = tt.hostPID, tt.unreadable
			e.with(tt.policy)
			for range 2 { // a reconnect changes nothing
				e.Synchronize(limited(t, patience), []rules.Pod{pod})
				refuses(t, e, pod, tool, tt.want)
				refuses(t, e, pod, web, tt.want) // its pod does not begin to run
				if o := e.Start(limited(t, patience), pod, "tool", ""); (o.Error() != nil) != (tt.want != "") {
					t.Errorf("started: %v", o.Error())
				}
			}
		})
	}
}

// A pod that runs when meshnetd comes goes on, with the containers that it has by its specification; what is added to it, and
// what shows only now to be no proxy, does not.
func TestPowersOfAPodThatRuns(t *testing.T) {
	all := rules.Powers{Privileged: true}
	debug := given(container("debugger", 0), all)
	debug.Phase = rules.PhaseDebug
	shell := given(as("istio-proxy", 0, "bash", "-c", "x"), all)
	unknown := shell
	unknown.Args = nil
	e, _, pod, _ := withSpec(t, newMemory(), given(app, all), debug, unknown)
	e.with(refusePowers)
	e.Synchronize(limited(t, patience), []rules.Pod{runs(pod, true)})
	refuses(t, e, pod, app, "")
	refuses(t, e, pod, debug, "container debugger (privileged)")
	refuses(t, e, pod, shell, "container istio-proxy (privileged)")

	// That it runs by now is no reason where this meshnetd has seen it start.
	e, _, pod, known := withSpec(t, newMemory(), given(app, all))
	e.with(refusePowers)
	spec := known.pods
	known.pods = nil
	if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		t.Fatalf("got %s, %v", o.Result, o.Err)
	}
	e.Synchronize(limited(t, patience), []rules.Pod{runs(pod, true)})
	known.pods = spec
	refuses(t, e, pod, app, "container app (privileged)")

	// A debug container cannot be taken out of a pod again: the pod's others start all the same.
	e, _, pod, _ = withSpec(t, newMemory(), app, debug)
	e.with(refusePowers)
	e.Synchronize(limited(t, patience), []rules.Pod{pod})
	refuses(t, e, pod, app, "")
	refuses(t, e, pod, debug, "container debugger (privileged)")
}

// A container of the proxy's name whose arguments nobody can know before the runtime creates it is no proxy for that.
func TestPowersBehindTheNameOfTheProxy(t *testing.T) {
	const poses = "; container istio-proxy has the proxy's name, and is not the proxy by what it runs or by its image"
	const image, evil = "docker.io/istio/proxyv2:1.28.0", "docker.io/evil/x:1"
	proxy := container("istio-proxy", 1337)
	proxy.Image = image
	foreign := proxy
	foreign.Image = evil
	root := as("istio-proxy", 0, "bash", "-c", "x 10.96.0.1")
	root.Image = evil
	for _, tt := range []struct {
		name    string
		created rules.Container
		want    string
	}{
		{"the proxy", proxy, ""},
		{"the proxy, of a runtime that tells no image", container("istio-proxy", 1337), ""},
		{"a shell", root, "container istio-proxy (privileged)"},
		{"another image", foreign, "container istio-proxy (privileged, proxy_user)"},
	} {
		for _, mode := range []string{"refuse", "report"} {
			t.Run(tt.name+", "+mode, func(t *testing.T) {
				e, r, pod, _ := withSpec(t, newMemory(), given(app, rules.Powers{DropsNetRaw: true}), given(rules.Container{Name: "istio-proxy"}, rules.Powers{Privileged: true}))
				e.with(func(p *policy.Policy) {
					p.Node.ProxyImages = []string{"docker.io/istio/*"}
					p.IdentityExempt = []string{"*"} // it is about powers
					p.Node.RefusePowers = mode == "refuse"
				})
				ctx := limited(t, patience)
				if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
					t.Fatalf("its sandbox: %s, %v", o.Result, o.Err)
				}
				if mode == "refuse" {
					refuses(t, e, pod, app, "")
					refuses(t, e, pod, tt.created, tt.want)
					if tt.want != "" {
						refuses(t, e, pod, tt.created, poses)
					}
					return
				}
				refuses(t, e, pod, tt.created, "")
				said := slices.IndexFunc(r.outcomes, func(o outcome.Outcome) bool { return o.Event() == outcome.EventBypass })
				if (said >= 0) != (tt.want != "") || said >= 0 && !strings.Contains(r.outcomes[said].Message(), tt.want) {
					t.Errorf("events %q", events(r))
				}
			})
		}
	}
}

// A runtime that heeds no refusal of a start has the container run all the same, and the event says so.
func TestPowersOfAStartThatIsNotHeeded(t *testing.T) {
	e, r, pod, _ := withSpec(t, newMemory(), given(app, rules.Powers{NetAdmin: true}))
	e.with(refusePowers)
	e.Synchronize(limited(t, patience), []rules.Pod{pod})
	e.Start(limited(t, patience), pod, "app", "")
	e.Start(limited(t, patience), pod, "app", "it runs all the same")
	if got, want := events(r), []string{outcome.EventProtected, outcome.EventBlocked, outcome.EventUnprotected}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

// An injected proxy with a capability, and with arguments that the kubelet alone can expand, is the proxy; what follows its name
// alone is not.
func TestPowersByTheManifest(t *testing.T) {
	const pod = `{kind: Pod, metadata: {name: web, namespace: default, uid: uid-web}, spec: {containers: [
{name: app, image: shop, securityContext: {capabilities: {drop: [ALL]}}}, {name: istio-proxy, image: %s, command: [%s], args: [%s],
env: [{name: POD_NAMESPACE, valueFrom: {fieldRef: {fieldPath: metadata.namespace}}}], %s securityContext: {runAsUser: %d, capabilities: {add: [NET_ADMIN, NET_RAW]}}}]}}`
	envFrom := "envFrom: [{configMapRef: {name: x}}],"
	for _, tt := range []struct {
		name, manifest string
		created        rules.Container
		want           string
	}{
		{"Istio's, for TPROXY", fmt.Sprintf(pod, "istio/proxyv2:1.28.0", "", "proxy, sidecar, --domain, $(POD_NAMESPACE).svc.cluster.local", "", 1337),
			as("istio-proxy", 1337, "/usr/local/bin/pilot-agent", "proxy", "sidecar", "--domain", "default.svc.cluster.local"), ""},
		{"with an environment that others say", fmt.Sprintf(pod, "istio/proxyv2:1.28.0", "", "proxy, sidecar, --domain, $(POD_NAMESPACE).$(DOMAIN)", envFrom, 1337),
			as("istio-proxy", 1337, "/usr/local/bin/pilot-agent", "proxy", "sidecar", "--domain", "default.corp"), ""},
		{"a shell", fmt.Sprintf(pod, "evil/x:1", "bash, -c, x $(KUBERNETES_SERVICE_HOST)", "", "", 0),
			as("istio-proxy", 0, "bash", "-c", "x 10.96.0.1"), "container istio-proxy (net_admin, net_raw)"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			spec, err := manifest.Read(strings.NewReader(tt.manifest))
			if err != nil {
				t.Fatal(err)
			}
			e, _, pod, known := withSpec(t, newMemory())
			known.pods[0] = spec
			e.with(refusePowers)
			e.with(refuseRaw)
			if o := e.Enforce(limited(t, patience), lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
				t.Fatalf("its sandbox: %s, %v", o.Result, o.Err)
			}
			refuses(t, e, pod, tt.created, tt.want)
			refuses(t, e, pod, app, "")
		})
	}
}

// late is a Kubelet that tells of a pod only when it has been asked.
type late struct{ *specs }

func (l late) Known(uid string) (rules.Pod, bool) {
	if l.asked == 0 {
		return rules.Pod{}, false
	}
	return l.specs.Known(uid)
}

// A pod of which the kubelet has not told yet is asked for before a container, where that decides anything.
func TestPowersAreAskedFor(t *testing.T) {
	admin := given(app, rules.Powers{NetAdmin: true})
	e, _, pod, known := withSpec(t, newMemory(), admin)
	e.Kubelet = late{known}
	e.Synchronize(limited(t, patience), []rules.Pod{pod})
	refuses(t, e, pod, admin, "")
	e.Start(limited(t, patience), pod, "app", "")
	if known.asked != 0 {
		t.Errorf("asked %d times although nothing is refused", known.asked)
	}
	e, _, pod, known = withSpec(t, newMemory(), admin)
	e.Kubelet = late{known}
	e.with(refusePowers)
	e.Synchronize(limited(t, patience), []rules.Pod{pod})
	refuses(t, e, pod, admin, "container app (net_admin)")
	if known.asked != 1 {
		t.Errorf("asked %d times", known.asked)
	}
	e, _, pod, known = withSpec(t, newMemory())
	known.pods = nil
	e.with(refusePowers)
	refuses(t, e, pod, admin, "")
	e.Start(limited(t, patience), pod, "app", "")
	if known.asked != 3 { // once by each look
		t.Errorf("of a pod of which it never tells it was asked %d times", known.asked)
	}
}
