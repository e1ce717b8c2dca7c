// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"strings"
	"testing"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// noting is a kernel that notes what it is asked.
type noting struct {
	kernel.Kernel
	asked *[]string
}

func (n noting) note(what string) { *n.asked = append(*n.asked, what) }

func (n noting) Open(path string) (kernel.Namespace, error) {
	n.note("open")
	ns, err := n.Kernel.Open(path)
	return notingNetNS{ns, n}, err
}

type notingNetNS struct {
	kernel.Namespace
	noting
}

func (n notingNetNS) Lock(ctx context.Context) (unlock func(), err error) {
	n.note("lock")
	return n.Namespace.Lock(ctx)
}

func (n notingNetNS) Do(fn func(kernel.Inside) error) error {
	n.note("enter")
	return n.Namespace.Do(func(in kernel.Inside) error {
		return fn(kernel.Inside{NS: in.NS, Rules: notingRules{in.Rules, n}, Routes: notingRoutes{in.Routes, n}, Connections: in.Connections})
	})
}

type notingRules struct {
	kernel.Firewall
	notingNetNS
}

func (n notingRules) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (bool, error) {
	n.note("write")
	return n.Firewall.Apply(ctx, ns, plan)
}

func (n notingRules) Verify(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]rules.Difference, error) {
	n.note("compare")
	return n.Firewall.Verify(ctx, ns, plan)
}

func (n notingRules) Effect(ctx context.Context, ns *netns.Namespace, plan, have rules.Plan, interfaces []rules.Interface) (effect.Result, error) {
	n.note("effect")
	return n.Firewall.Effect(ctx, ns, plan, have, interfaces)
}

func (n notingRules) Own(ctx context.Context, ns *netns.Namespace, footprint rules.Footprint) (v4, v6 rules.Ruleset, err error) {
	n.note("own")
	return n.Firewall.Own(ctx, ns, footprint)
}

func (n notingRules) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	n.note("read")
	return n.Firewall.Fingerprint(ctx, ns)
}

func (n notingRules) Generation(ctx context.Context, ns *netns.Namespace) (string, error) {
	n.note("generation")
	return n.Firewall.Generation(ctx, ns)
}

type notingRoutes struct {
	kernel.Routes
	notingNetNS
}

func (n notingRoutes) Apply(plan rules.Plan) (bool, error) {
	n.note("route")
	return n.Routes.Apply(plan)
}

func (n notingRoutes) Verify(plan rules.Plan) ([]string, error) {
	n.note("routes")
	return n.Routes.Verify(plan)
}

func (n notingRoutes) Own(footprint rules.Footprint) (rules.Plan, error) {
	n.note("own routes")
	return n.Routes.Own(footprint)
}

func (n notingRoutes) Interfaces() ([]rules.Interface, error) {
	n.note("interfaces")
	return n.Routes.Interfaces()
}

func (n notingRoutes) Network() (rules.Network, error) {
	n.note("network")
	return n.Routes.Network()
}

// What a hook asks the kernel is what it costs. The second pod of a kind is no longer judged by what its rules do.
func TestWhatAHookAsksTheKernel(t *testing.T) {
	e, _ := newEnforcer(t, newMemory())
	var asked []string
	e.visitor.Kernel = noting{e.visitor.Kernel, &asked}
	ctx := limited(t, patience)
	proxy := rules.Container{Name: "istio-proxy", Env: map[string]string{"ISTIO_META_DNS_CAPTURE": "true"}}
	const judged = ", interfaces, own routes, compare, routes, effect, generation"
	for i, id := range []string{"first", "second"} {
		anew := []string{judged, ""}[i]
		pod := sandbox(t, id)
		for _, hook := range []struct {
			name, want string
			ask        func() outcome.Outcome
		}{
			{"the sandbox", "open, lock, enter, network, write, route, read, routes" + anew, func() outcome.Outcome { return e.Enforce(ctx, lifecycle.SandboxStarted, pod) }},
			{"a proxy that says more", "open, lock, enter, network, read, routes, write, route, read, routes" + anew, func() outcome.Outcome { return e.Admit(ctx, pod, proxy) }},
			{"its validation", "open, enter, generation, routes, network", func() outcome.Outcome { return e.Validate(ctx, pod, proxy) }},
			{"its start", "open, enter, generation, routes, network", func() outcome.Outcome { return e.Start(ctx, pod, "istio-proxy", "") }},
			{"another container", "", func() outcome.Outcome { return e.Admit(ctx, pod, app) }},
		} {
			asked = nil
			if o := hook.ask(); o.Error() != nil {
				t.Fatal(o.Error())
			}
			if got := strings.Join(asked, ", "); got != hook.want {
				t.Errorf("%s pod, %s: asked for\n%s, want\n%s", id, hook.name, got, hook.want)
			}
		}
		if n := testing.AllocsPerRun(100, func() { e.Admit(ctx, pod, app) }); n > 12 { // two of them the race detector's
			t.Errorf("%s pod: a look-up allocates %g times", id, n)
		}
	}
}
