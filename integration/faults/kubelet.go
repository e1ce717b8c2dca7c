// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// verdict is what the kubelet sees of one step of a pod's start.
type verdict string

// In the order in which a report names them.
const (
	sandboxRefused   verdict = "sandbox refused"
	containerRefused verdict = "container refused"
	notStarted       verdict = "container not started"
	runtimeAway      verdict = "runtime away"
	started          verdict = "started" // the app's container
)

// pod is a pod of the mesh as its kubelet sees it. Its app comes before its proxy, which no injector asks
// for: there is no moment in which the app is not trying.
type pod struct {
	world   *World
	spec    lab.PodSpec
	targets []netip.AddrPort

	sandbox    *lab.Pod
	attempts   uint32 // at a sandbox
	rounds     int
	init       *container // nil is none
	app, proxy *container
	seen       map[verdict]int
	said       []string // the errors, each once
	dropped    []*lab.Container
}

// container is one of the pod's containers.
type container struct {
	spec     lab.ContainerSpec
	running  *lab.Container
	attempts uint32
}

// The ids that the containers run as.
const (
	appID   = 1000
	proxyID = 1337
)

func (w *World) newPod(name string, meshed bool) *pod {
	p := &pod{world: w, targets: w.targets, seen: map[verdict]int{}}
	id := w.unique(name)
	p.spec = lab.PodSpec{Name: id, UID: id}
	if meshed {
		p.spec.Annotations = lab.Injected(nil)
	}
	p.app = &container{spec: lab.ContainerSpec{Name: "app", Args: w.flood(), User: appID, Group: appID}}
	p.proxy = &container{spec: lab.ContainerSpec{Name: "istio-proxy", Args: []string{"proxy"}, User: proxyID, Group: proxyID,
		Env: []string{"ISTIO_DUAL_STACK=true"}}}
	return p
}

// flood are the arguments of a container that connects and sends datagrams to every target, from its first instruction on.
func (w *World) flood() []string {
	flood := []string{"flood", "-datagrams"}
	for _, t := range w.targets {
		flood = append(flood, t.String())
	}
	return flood
}

// lookAgain is after how many rounds a kubelet looks at a sandbox again. In between it goes by what it has
// in its cache, which may be a second old.
const lookAgain = 10

// round is one turn of the kubelet's work on the pod: whatever is missing is tried once.
func (p *pod) round(ctx context.Context) {
	p.rounds++
	if p.sandbox != nil && p.rounds%lookAgain == 0 {
		good, err := p.sandboxGood(ctx)
		if err != nil {
			p.note(runtimeAway, err)
			return
		}
		if !good {
			p.drop(ctx)
		}
	}
	if p.sandbox == nil {
		p.spec.Attempt = p.attempts
		p.attempts++
		sandbox, err := p.world.lab.RunPod(ctx, p.spec)
		if err != nil {
			p.note(sandboxRefused, err)
			return
		}
		p.sandbox = sandbox
	}
	if p.init != nil {
		p.start(ctx, p.init)
	}
	p.start(ctx, p.app)
	p.start(ctx, p.proxy)
}

// sandboxGood asks as a kubelet does before it uses a sandbox again: one that is not ready, or has no
// address, is replaced.
func (p *pod) sandboxGood(ctx context.Context) (bool, error) {
	resp, err := p.world.lab.CRI().PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: p.sandbox.ID})
	if status.Code(err) == codes.NotFound {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("status of pod %s: %w", p.spec.Name, err)
	}
	s := resp.GetStatus()
	return s.GetState() == criv1.PodSandboxState_SANDBOX_READY && s.GetNetwork().GetIp() != "", nil
}

// drop gives a sandbox up. What is left of it is removed with the row.
func (p *pod) drop(ctx context.Context) {
	if p.sandbox == nil {
		return
	}
	_, _ = p.world.lab.CRI().StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: p.sandbox.ID})
	if p.proxy.running != nil {
		p.dropped = append(p.dropped, p.proxy.running)
	}
	p.sandbox, p.app.running, p.proxy.running = nil, nil, nil
	if p.init != nil {
		p.init.running = nil
	}
}

func (p *pod) start(ctx context.Context, c *container) {
	if c.running != nil {
		return
	}
	c.spec.Attempt = c.attempts
	c.attempts++
	created, err := p.sandbox.CreateContainer(ctx, c.spec)
	if err != nil {
		p.note(containerRefused, err)
		return
	}
	if err := created.Start(ctx); err != nil {
		p.note(notStarted, err)
		return
	}
	c.running = created
	if c == p.app {
		p.note(started, nil)
	}
}

func (p *pod) note(v verdict, err error) {
	if status.Code(err) == codes.Unavailable {
		v = runtimeAway
	}
	p.seen[v]++
	if err != nil && !slices.Contains(p.said, err.Error()) {
		p.said = append(p.said, err.Error())
	}
}

// tried waits until the app, if it runs, has tried to reach each target once.
func (p *pod) tried(ctx context.Context) error {
	if p.app.running == nil {
		return nil
	}
	_, err := p.app.running.WaitEvent(ctx, "attempted")
	return err
}

// redirected counts the connections that the pod's proxy got, by their original destination.
func (p *pod) redirected() (map[string]int, error) {
	proxies := p.dropped
	if p.proxy.running != nil {
		proxies = append(slices.Clone(proxies), p.proxy.running)
	}
	counts := map[string]int{}
	for _, c := range proxies {
		events, err := c.Events()
		if err != nil {
			return nil, err
		}
		for _, e := range events {
			if e.Event == "accepted" && e.Listener == "outbound" {
				counts[e.OriginalDst]++
			}
		}
	}
	return counts, nil
}

// up rounds until the pod runs and its proxy has got more connections to each target than it had.
func (p *pod) up(ctx context.Context) error {
	had, err := p.redirected()
	if err != nil {
		return err
	}
	err = lab.Poll(ctx, func() (bool, error) {
		p.round(ctx)
		if p.app.running == nil || p.proxy.running == nil {
			return false, nil
		}
		has, err := p.redirected()
		for _, t := range p.targets {
			if has[t.String()] <= had[t.String()] {
				return false, err
			}
		}
		return true, err
	})
	if err != nil {
		return fmt.Errorf("pod %s does not come up: %w; the runtime said %q", p.spec.Name, err, p.said)
	}
	return nil
}
