// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Row is one fault: how it is brought about, and how it goes away.
type Row struct {
	Fault string // as the table names it
	Pods  int    // that start meanwhile; 0 is one
	// Outside is set where the pods do not belong to the mesh: what they send must be seen.
	Outside bool
	// Absent is set where no daemon is there when it begins.
	Absent bool
	// Validators is set where the fault cannot happen on a runtime without NRI's validators, which leaves it out.
	Validators bool
	// Everywhere is set where no packet may go around the mesh on a best-effort runtime either: the
	// daemon is there and answers.
	Everywhere bool
	// AtStart is set where only a refused start keeps packets in the mesh: CRI-O starts the container all the same.
	AtStart bool
	// Init names a container of each pod that does nothing, and is there before the others.
	Init string
	// Programs is set where the fault is one of the iptables programs: the daemon is told to use them.
	Programs bool
	// Lockdown is what the daemon is told of it; "" is what it is told in most rows.
	Lockdown string
	// Rare is set where `make faults` plays it, and `make test` something much like it.
	Rare bool
	// Attacker is set where somebody does it on purpose: the row stands in the second table.
	Attacker bool
	// Hole is set where packets are known to go around the mesh whatever meshnetd does.
	Hole bool

	begin, end func(context.Context, *stage) error // nil does nothing
}

// stage is where one row is played.
type stage struct {
	*World
	daemon *lab.Daemon // the one that the fault is about; nil where Absent is set

	pods    []*pod       // of the row
	hostile []string     // sandboxes of an attacker
	flooded []*lab.Pod   // pods of an attacker that are still to get a container
	ends    atomic.Int64 // of the runtime, where it is supervised

	mu      sync.Mutex
	plugins []*plugin
	undo    []func() // in reverse order, however the row ends
	errs    []error  // of hooks, which have nobody to tell
}

const (
	rowLimit        = 2 * time.Minute // for a fault and the recovery from it
	cleanLimit      = 2 * time.Minute // for looking at what was seen, and for removing the pods
	roundsMeanwhile = 2               // tries of the kubelet while the fault lasts
)

// Result is what a row showed.
type Result struct {
	Row      Row
	Runtime  lab.Runtime
	Saw      string // what the kubelet saw
	Around   int    // SYNs that reached the bridge
	Thrown   int    // datagrams that reached the bridge
	Accepted int    // connections that the server itself reports
	Proxied  int    // connections that proxies got with their original destination
	Errors   []string
	Err      error  // the row could not be played, or a pod did not come up afterwards
	Log      string // of the daemons
	Took     time.Duration
}

// Play plays one row.
func (w *World) Play(ctx context.Context, row Row) Result {
	began := time.Now()
	r := Result{Row: row, Runtime: w.lab.Runtime()}
	s := &stage{World: w}
	w.backend, w.lockdown = "", row.Lockdown
	if row.Programs {
		w.backend = "iptables-nft"
	}
	mark := w.capture.Mark()
	reached, err := w.accepted()
	var pods []*pod
	if err == nil {
		pods, err = s.playWithin(ctx, row)
	}
	// A row that took too long, or was interrupted, leaves as little behind as any other.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	r.Err = errors.Join(err, s.observe(ctx, &r, pods, mark, reached))
	s.close()
	r.Log = w.killDaemons()
	r.Err = errors.Join(r.Err, w.removePods(ctx), errors.Join(s.errs...))
	r.Took = time.Since(began)
	return r
}

func (s *stage) playWithin(ctx context.Context, row Row) ([]*pod, error) {
	ctx, cancel := context.WithTimeout(ctx, rowLimit)
	defer cancel()
	return s.play(ctx, row)
}

// play returns the pods also where it fails.
func (s *stage) play(ctx context.Context, row Row) (pods []*pod, err error) {
	if !row.Absent {
		if s.daemon, err = s.runDaemon(ctx); err != nil {
			return nil, err
		}
	}
	for range max(row.Pods, 1) {
		p := s.newPod("web", !row.Outside)
		if row.Init != "" {
			p.init = &container{spec: lab.ContainerSpec{Name: row.Init, Args: []string{"pause"}, User: appID, Group: appID}}
		}
		pods = append(pods, p)
	}
	s.pods = pods
	if row.begin != nil {
		if err := row.begin(ctx, s); err != nil {
			return pods, fmt.Errorf("begin: %w", err)
		}
	}
	if err := each(pods, func(p *pod) error {
		for range roundsMeanwhile {
			p.round(ctx)
		}
		return p.tried(ctx)
	}); err != nil {
		return pods, err
	}
	if row.end != nil {
		if err := row.end(ctx, s); err != nil {
			return pods, fmt.Errorf("end: %w", err)
		}
	}
	if row.Outside {
		return pods, nil
	}
	return pods, each(pods, func(p *pod) error { return p.up(ctx) })
}

func each(pods []*pod, do func(*pod) error) error {
	errs := make([]error, len(pods))
	var wg sync.WaitGroup
	for i, p := range pods {
		wg.Go(func() { errs[i] = do(p) })
	}
	wg.Wait()
	return errors.Join(errs...)
}

// observe fills in what was seen.
func (s *stage) observe(ctx context.Context, r *Result, pods []*pod, mark Mark, reached int) error {
	seen := map[verdict]int{}
	var errs []error
	for _, p := range pods {
		for v, n := range p.seen {
			seen[v] += n
		}
		for _, text := range p.said {
			if !slices.Contains(r.Errors, text) {
				r.Errors = append(r.Errors, text)
			}
		}
		counts, err := p.redirected()
		errs = append(errs, err)
		for _, t := range s.targets {
			r.Proxied += counts[t.String()]
			delete(counts, t.String())
		}
		for dst := range counts {
			errs = append(errs, fmt.Errorf("the proxy got a connection to %s, where nobody wanted to go", dst))
		}
	}
	r.Saw = summary(seen)
	around, err := s.seenAround(ctx, mark)
	r.Around, r.Thrown = kinds(around)
	accepted, acceptedErr := s.accepted()
	r.Accepted = accepted - reached
	return errors.Join(append(errs, err, acceptedErr)...)
}

// summary names what the kubelet saw, the end last. How often it tried again is chance.
func summary(seen map[verdict]int) string {
	var parts []string
	for _, v := range []verdict{runtimeAway, sandboxRefused, containerRefused, notStarted, started} {
		if seen[v] > 0 {
			parts = append(parts, string(v))
		}
	}
	return strings.Join(parts, ", then ")
}

// hook connects another plugin for the time of the row.
func (s *stage) hook(ctx context.Context, name, index string, p *plugin) error {
	if err := p.connect(ctx, s.lab.NRISocket(), name, index); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.plugins = append(s.plugins, p)
	return nil
}

// unhook disconnects all of them.
func unhook(_ context.Context, s *stage) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, p := range s.plugins {
		p.disconnect()
		if p.idle() {
			s.errs = append(s.errs, errors.New("the other plugin was never called, so there was no fault"))
		}
	}
	s.plugins = nil
	return nil
}

// tell makes programs do something else, and sees to it that one of them did.
func (s *stage) tell(verb string, names ...string) error {
	s.later(func() { s.failed(s.programs.check(verb)) })
	return s.programs.tell(verb, names...)
}

// later undoes something when the row is over.
func (s *stage) later(undo func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.undo = append(s.undo, undo)
}

// failed keeps the error of a hook.
func (s *stage) failed(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.errs = append(s.errs, err)
	}
}

// close leaves the world as it was, whatever became of the row.
func (s *stage) close() {
	_ = unhook(context.Background(), s)
	s.restore()
	s.failed(s.programs.obey())
}

// restore undoes what is to be undone.
func (s *stage) restore() {
	s.mu.Lock()
	undo := s.undo
	s.undo = nil
	s.mu.Unlock()
	for _, f := range slices.Backward(undo) {
		f()
	}
}
