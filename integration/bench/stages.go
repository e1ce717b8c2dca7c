// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/integration/speed"
	"github.com/meshnetd/meshnetd/rules"
)

// stage is a part of a hook. What it asks of the kernel is told by what is asked, the rest by what comes next.
type stage int

const (
	deciding stage = iota
	opening
	entering
	addresses
	planning
	writing
	routes
	reading
	judging
	recording
	stageCount
	outside = stageCount // of any hook
)

var stageNames = [stageCount]string{"deciding", "opening and locking the namespace", "entering it", "reading addresses", "planning",
	"writing rules", "routes and addresses", "reading rules back", "judging, and what else is done inside", "leaving and recording"}

// cost is what a stage took.
type cost struct {
	took          time.Duration
	bytes, pieces uint64 // of Go's heap
	calls         float64
	sent, read    float64 // bytes, in system calls
}

// stopwatch is a kernel that tells the stages of the hooks that use it apart.
type stopwatch struct {
	kernel.Kernel
	count bool // pieces of the heap, for which everything is stopped at each end of a stage
	mark  bool // each end of a stage by a system call
	costs [stageCount + 1]cost
	at    stage
	since time.Time
	heap  runtime.MemStats
}

// start begins another hook.
func (s *stopwatch) start() {
	s.to(deciding)
	s.costs = [stageCount + 1]cost{}
}

// to ends a stage, and begins the next one.
func (s *stopwatch) to(next stage) {
	c := &s.costs[s.at]
	c.took += time.Since(s.since)
	if s.count {
		var now runtime.MemStats
		runtime.ReadMemStats(&now)
		c.bytes += now.TotalAlloc - s.heap.TotalAlloc
		c.pieces += now.Mallocs - s.heap.Mallocs
		s.heap = now
	}
	if s.mark {
		_ = unix.Access(fmt.Sprint(marker, int(next)), unix.F_OK) // there is no such file
	}
	s.at, s.since = next, time.Now()
}

// within is a stage of its own, before what follows it.
func (s *stopwatch) within(at, after stage) func() {
	s.to(at)
	return func() { s.to(after) }
}

func (s *stopwatch) Open(path string) (kernel.Namespace, error) {
	s.to(opening)
	ns, err := s.Kernel.Open(path)
	return &watched{ns, s}, err
}

type watched struct {
	kernel.Namespace
	s *stopwatch
}

func (w *watched) Do(fn func(kernel.Inside) error) error {
	w.s.to(entering)
	defer w.s.to(recording)
	return w.Namespace.Do(func(in kernel.Inside) error {
		w.s.to(planning)
		err := fn(kernel.Inside{NS: in.NS, Rules: watchedRules{in.Rules, w.s}, Routes: watchedRoutes{in.Routes, w.s}})
		w.s.to(recording)
		return err
	})
}

type watchedRules struct {
	kernel.Firewall
	s *stopwatch
}

func (w watchedRules) Apply(ctx context.Context, ns *netns.Namespace, plan rules.Plan) (bool, error) {
	defer w.s.within(writing, judging)()
	return w.Firewall.Apply(ctx, ns, plan)
}

func (w watchedRules) Fingerprint(ctx context.Context, ns *netns.Namespace) (fingerprint, generation string, err error) {
	defer w.s.within(reading, judging)()
	return w.Firewall.Fingerprint(ctx, ns)
}

type watchedRoutes struct {
	kernel.Routes
	s *stopwatch
}

func (w watchedRoutes) Apply(plan rules.Plan) (bool, error) {
	defer w.s.within(routes, judging)()
	return w.Routes.Apply(plan)
}

func (w watchedRoutes) Verify(plan rules.Plan) ([]string, error) {
	defer w.s.within(routes, judging)()
	return w.Routes.Verify(plan)
}

func (w watchedRoutes) Network() (rules.Network, error) {
	defer w.s.within(addresses, planning)()
	return w.Routes.Network()
}

// stages takes the hook of a pod with Istio's default rules apart.
func (b *bench) stages() error {
	n, err := b.ready()
	if err != nil {
		return err
	}
	for _, w := range n.backends {
		if w.exec {
			continue
		}
		rows := []speed.Row{{Name: w.label, Absent: w.err}}
		if w.err == nil {
			if rows, err = b.apart(w); err != nil {
				return err
			}
		}
		speed.Table(b.out, "a hook's stages, "+w.label, rows...)
		n.end()
		b.calm()
	}
	return b.bare()
}

// apart returns a row for each stage, after one for all of them.
func (b *bench) apart(w writer) ([]speed.Row, error) {
	traced, err := b.traced(w.label)
	if err != nil {
		return nil, err
	}
	s, e := b.watch(w)
	var pieces, bytes [stageCount]uint64
	peers := make([]*speed.Peer, stageCount+1)
	for i := range peers {
		peers[i] = &speed.Peer{Name: "all"}
		if i > 0 {
			peers[i].Name = stageNames[i-1]
		}
	}
	rounds := b.rounds(200)
	counted := b.rounds(countedHooks)
	for i := range rounds + counted + 1 { // the first one is not like the others
		s.count = i > rounds
		if err := b.measured(s, e, i); err != nil {
			return nil, err
		}
		var all time.Duration
		for at, c := range s.costs[:stageCount] {
			switch all += c.took; {
			case s.count:
				pieces[at] += c.pieces
				bytes[at] += c.bytes
			case i > 0:
				peers[at+1].Samples = append(peers[at+1].Samples, c.took)
			}
		}
		if i > 0 && !s.count {
			peers[0].Samples = append(peers[0].Samples, all)
		}
	}
	var sum cost
	for at, c := range traced {
		c.pieces, c.bytes = pieces[at]/uint64(counted), bytes[at]/uint64(counted)
		peers[at+1].Note = c.String()
		sum = cost{0, sum.bytes + c.bytes, sum.pieces + c.pieces, sum.calls + c.calls, sum.sent + c.sent, sum.read + c.read}
	}
	peers[0].Note = sum.String()
	return speed.Rows(peers...), nil
}

func (c cost) String() string {
	return fmt.Sprintf("%4.0f calls, %5.0f bytes out, %6.0f in; %4d pieces, %6d bytes", c.calls, c.sent, c.read, c.pieces, c.bytes)
}

// watch returns a flow, and the watch that its hooks are measured by.
func (b *bench) watch(w writer) (*stopwatch, *daemon.Enforcer) {
	s := &stopwatch{at: outside, Kernel: kernel.Node{Host: b.node.host, Locks: b.node.locks, Firewall: w}}
	return s, daemon.New(kinds()[0].policy(), s, receipts.In(b.node.dir), func(outcome.Outcome) {})
}

// measured is one hook, of a pod that was not there before.
func (b *bench) measured(s *stopwatch, e *daemon.Enforcer, i int) error {
	pod, err := b.node.pod(fmt.Sprint("apart", i), nil)
	if err != nil {
		return err
	}
	s.start()
	err = protect(b.ctx, e, pod)
	s.to(outside)
	return err
}
