// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// many is how many pods a full node has.
const many = 250

// full is a node with many protected pods, by one backend.
type full struct {
	writer
	enforcer *daemon.Enforcer
	pods     []rules.Pod
	ns       *netns.Namespace // of the first, as seen from outside
}

// gate measures what is done for pods that have their rules: before each container, when the daemon starts,
// and by the auditor.
func (b *bench) gate() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	defer n.end()
	var nodes []*full
	for _, w := range n.backends {
		f := &full{writer: w}
		nodes = append(nodes, f)
		if w.err != nil {
			continue
		}
		if err := b.fill(f); err != nil {
			return fmt.Errorf("%s: %w", w.label, err)
		}
		defer f.ns.Close()
	}
	b.calm()
	if err := b.questions(nodes); err != nil {
		return err
	}
	if err := b.synchronize(nodes); err != nil {
		return err
	}
	return b.audit(nodes)
}

func (b *bench) fill(f *full) (err error) {
	f.enforcer = b.node.enforcer(f.writer, kind{defaults: dualStack()})
	for i := range many {
		pod, err := b.node.pod(fmt.Sprint("pod", i), nil)
		if err != nil {
			return err
		}
		if err := protect(b.ctx, f.enforcer, pod); err != nil {
			return err
		}
		f.pods = append(f.pods, pod)
	}
	f.ns, err = netns.Open(f.pods[0].NetNS, b.node.host)
	return err
}

// questions are the runtime's about a container of a healthy pod, and the one to the kernel behind them.
func (b *bench) questions(nodes []*full) error {
	id := int64(1000)
	c := rules.Container{Name: "app", UID: &id, GID: &id}
	asked := func(ask func(context.Context, rules.Pod, rules.Container) outcome.Outcome, pod rules.Pod) func() error {
		c := c
		c.NetNS = pod.NetNS
		return func() error {
			if o := ask(b.ctx, pod, c); o.Result != lifecycle.Protected {
				return fmt.Errorf("%s: %w", o.Result, o.Err)
			}
			return nil
		}
	}
	var generation, validate, create, start []*speed.Peer
	starting := func(e *daemon.Enforcer) func(context.Context, rules.Pod, rules.Container) outcome.Outcome {
		return func(ctx context.Context, pod rules.Pod, c rules.Container) outcome.Outcome {
			return e.Start(ctx, pod, c.Name, "")
		}
	}
	for _, f := range nodes {
		peer := func(do func() error) *speed.Peer { return &speed.Peer{Name: f.label, Absent: f.err, Do: do} }
		if f.err != nil {
			generation, validate, create, start = append(generation, peer(nil)), append(validate, peer(nil)), append(create, peer(nil)), append(start, peer(nil))
			continue
		}
		generation = append(generation, peer(func() error { _, err := f.Generation(b.ctx, f.ns); return err }))
		validate = append(validate, peer(asked(f.enforcer.Validate, f.pods[0])))
		create = append(create, peer(asked(f.enforcer.Admit, f.pods[0])))
		start = append(start, peer(asked(starting(f.enforcer), f.pods[0])))
	}
	for _, t := range []struct {
		title string
		peers []*speed.Peer
		goal  string
	}{
		{"has anybody written since? asked from outside", generation, "goal: 30 µs"},
		{"ValidateContainerAdjustment of a protected pod", validate, ""},
		{"CreateContainer in a protected pod", create, ""},
		{"StartContainer in a protected pod", start, ""},
	} {
		if err := speed.Interleave(b.ctx, b.rounds(1000), t.peers...); err != nil {
			return err
		}
		speed.Table(b.out, t.title, speed.Rows(t.peers...)...)
		if t.goal != "" {
			b.notef("%s", t.goal)
		}
	}
	return nil
}

// synchronize is the start of a daemon on a node whose pods have their rules.
func (b *bench) synchronize(nodes []*full) error {
	var peers []*speed.Peer
	for _, f := range nodes {
		var e *daemon.Enforcer
		peers = append(peers, &speed.Peer{Name: f.label, Absent: f.err,
			Prepare: func() error { e = b.node.enforcer(f.writer, kind{defaults: dualStack()}); return nil },
			Do: func() error {
				e.Synchronize(b.ctx, f.pods)
				if n := len(e.View().Sandboxes()); n != many {
					return fmt.Errorf("%d of %d pods verified", n, many)
				}
				return nil
			}})
	}
	if err := speed.Interleave(b.ctx, b.rounds(20), peers...); err != nil {
		return err
	}
	speed.Table(b.out, fmt.Sprintf("Synchronize of %d pods by a daemon that knows none", many), speed.Rows(peers...)...)
	return nil
}

// audit is what the auditor costs on a node where nothing is wrong.
func (b *bench) audit(nodes []*full) error {
	peers := make([]*speed.Peer, len(nodes))
	used := make([]time.Duration, len(nodes))
	for i, f := range nodes {
		peers[i] = &speed.Peer{Name: f.label, Absent: f.err}
	}
	rounds := b.rounds(20)
	for round := range rounds {
		for i := range nodes {
			i = (i + round) % len(nodes)
			if nodes[i].err != nil {
				continue
			}
			took, processor, err := pass(b.ctx, nodes[i].enforcer)
			if err != nil {
				return fmt.Errorf("audit, %s: %w", nodes[i].label, err)
			}
			peers[i].Samples = append(peers[i].Samples, took)
			used[i] += processor
		}
	}
	interval := config.Default().AuditInterval
	for i, p := range peers {
		p.Note = fmt.Sprintf("%.2f %% of a core, each %s", 100*used[i].Seconds()/float64(rounds)/interval.Seconds(), interval)
	}
	speed.Table(b.out, fmt.Sprintf("one audit of %d pods, without its pauses", many), speed.Rows(peers...)...)
	return nil
}

// pass lets the auditor look at every pod once, and returns how long that took and what of the processor it
// used. The enforcer's policy has no interval: there are no pauses.
func pass(ctx context.Context, e *daemon.Enforcer) (took, processor time.Duration, err error) {
	const look = time.Millisecond // short beside a pass: the next one begins at once
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	before, err := processorTime()
	if err != nil {
		return 0, 0, err
	}
	last, _ := e.Auditor.Last()
	ended := make(chan struct{})
	go func() { e.Audit(ctx); close(ended) }()
	now := last
	for now.Ended.Equal(last.Ended) && ctx.Err() == nil {
		time.Sleep(look)
		now, _ = e.Auditor.Last()
	}
	stop()
	<-ended
	after, err := processorTime()
	if now.Pods != many || now.Drifted > 0 {
		return 0, 0, fmt.Errorf("%d pods looked at, %d of them drifted: %w", now.Pods, now.Drifted, ctx.Err())
	}
	return now.Took, after - before, err
}
