// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"runtime/debug"
	"strings"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// kind is a sort of pods whose start is measured.
type kind struct {
	name        string
	annotations map[string]string
	defaults    istio.Defaults
	lockdowns   []rules.Lockdown
}

func kinds() []kind {
	var forty []string
	for i := range 40 {
		forty = append(forty, fmt.Sprint(20000+2*i)) // apart, so that none is merged with the next
	}
	list := strings.Join(forty, ",")
	dns := dualStack()
	dns.DNSCapture = true
	tproxy := func(name, key string) kind {
		annotations := map[string]string{"sidecar.istio.io/interceptionMode": "TPROXY", key: list}
		return kind{name: name, annotations: annotations, defaults: dns}
	}
	return []kind{
		{name: "Istio's default rules", defaults: dualStack()},
		tproxy("TPROXY, DNS, 40 outbound ports excluded", "traffic.sidecar.istio.io/excludeOutboundPorts"),
		tproxy("TPROXY, DNS, 40 inbound ports excluded", "traffic.sidecar.istio.io/excludeInboundPorts"),
	}
}

// hook measures what a start of a dual-stack pod costs: decide, enter, apply, verify, record. Each start is
// that of another pod in a namespace of its own.
func (b *bench) hook() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	for i, k := range kinds() {
		var peers []*speed.Peer
		for _, w := range n.backends {
			peers = append(peers, b.starts(w, k))
		}
		peers = append(peers, b.firsts(n.backends[0], k))
		if err := speed.Interleave(b.ctx, b.rounds(200), peers...); err != nil {
			return err
		}
		for j, w := range n.backends {
			if err := b.allocations(w, k, peers[j]); err != nil {
				return err
			}
		}
		speed.Table(b.out, "hook, "+k.name, speed.Rows(peers...)...)
		if err := b.plot(fmt.Sprintf("hook-%d", i+1), speed.DrawBars("the hook, "+k.name, "ms", speed.Bars(speed.Rows(peers...)...))); err != nil {
			return err
		}
		n.end()
		b.calm()
	}
	b.notef("goals: 0.5 ms, p99 2 ms, at best 0.35 ms; with TPROXY 1.2 ms")
	return nil
}

// starts is the hook on a node that has started such a pod before.
func (b *bench) starts(w writer, k kind) *speed.Peer {
	return b.start(w.label, w.err, k, b.always(w, k))
}

// always returns the same flow for each pod.
func (b *bench) always(w writer, k kind) func() *daemon.Enforcer {
	e := b.node.enforcer(w, k)
	return func() *daemon.Enforcer { return e }
}

// firsts is the hook of a daemon that sees such a pod for the first time.
func (b *bench) firsts(w writer, k kind) *speed.Peer {
	return b.start(w.label+", the first pod of its kind", w.err, k, func() *daemon.Enforcer { return b.node.enforcer(w, k) })
}

func (b *bench) start(name string, absent error, k kind, enforcer func() *daemon.Enforcer) *speed.Peer {
	var pod rules.Pod
	var e *daemon.Enforcer
	count := 0
	return &speed.Peer{Name: name, Absent: absent,
		Prepare: func() (err error) {
			count++
			e = enforcer()
			pod, err = b.node.pod(fmt.Sprint(name, count), k.annotations)
			return err
		},
		Do: func() error { return protect(b.ctx, e, pod) },
	}
}

func protect(ctx context.Context, e *daemon.Enforcer, pod rules.Pod) error {
	if o := e.Enforce(ctx, lifecycle.SandboxStarted, pod); o.Result != lifecycle.Protected {
		return fmt.Errorf("%s is %s: %w", pod.Name, o.Result, o.Err)
	}
	return nil
}

// countedHooks is of how many hooks, besides the first one, that is the mean which does not differ from one to the next.
const countedHooks = 20

// allocations notes what one start takes from Go's heap.
func (b *bench) allocations(w writer, k kind, p *speed.Peer) error {
	if w.err != nil {
		return nil
	}
	starts := b.rounds(countedHooks)
	e := b.node.enforcer(w, k)
	var pods []rules.Pod
	for i := range starts + 1 {
		pod, err := b.node.pod(fmt.Sprint("counted", i), k.annotations)
		if err != nil {
			return err
		}
		pods = append(pods, pod)
	}
	// What is kept for the next pod is kept by processor, and a collection takes it.
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	defer debug.SetGCPercent(debug.SetGCPercent(-1))
	var before, after runtime.MemStats
	for i, pod := range pods {
		if i == 1 { // not the first of its kind
			runtime.ReadMemStats(&before)
		}
		if err := protect(b.ctx, e, pod); err != nil {
			return err
		}
	}
	runtime.ReadMemStats(&after)
	p.Note = fmt.Sprintf("%d kB in %d allocations", (after.TotalAlloc-before.TotalAlloc)/uint64(starts)/1000, (after.Mallocs-before.Mallocs)/uint64(starts))
	return nil
}
