// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Soak starts and stops pods of the mesh, in three parts: a few under one daemon, whose size is then
// measured; more under the same one, measured again; and all of them while daemons are killed at random
// moments and come back, some at once and some later.
type Soak struct {
	Pods   int // of the third part
	AtOnce int
	Seed   uint64 // of the moments
}

// fresh and long are how many pods the daemon has seen when it is measured first and last.
func (s Soak) fresh() int { return max(1, min(50, s.Pods/4)) }
func (s Soak) long() int  { return s.fresh() + s.Pods/4 }

// podLimit bounds one pod of a soak from its first try to its removal: wide, since on a machine with too much to do a
// daemon may be killed many times before a pod has got through.
const podLimit = 5 * time.Minute

// SoakResult is what a soak showed.
type SoakResult struct {
	Soak
	Kills       int
	Seen        string // by the kubelet
	Around      int    // SYNs that reached the bridge
	Accepted    int    // connections that the server itself reports
	Unprotected []string
	Fresh, Long Size // of the daemon
	Left        []string
	Race        bool
	Took        time.Duration
}

// soaking is a soak under way.
type soaking struct {
	*World
	Soak
	want string // the rules of a pod that started in peace

	mu          sync.Mutex
	seen        map[verdict]int
	unprotected []string
}

// Soak runs the three parts. It returns with what it has seen also where it fails.
func (w *World) Soak(ctx context.Context, soak Soak) (SoakResult, error) {
	began := time.Now()
	s := &soaking{World: w, Soak: soak, seen: map[verdict]int{}}
	r := SoakResult{Soak: soak}
	before, err := w.belongings()
	if err != nil {
		return r, err
	}
	mark := w.capture.Mark()
	reached, err := w.accepted()
	if err != nil {
		return r, err
	}
	err = errors.Join(s.calm(ctx, &r), s.storm(ctx, &r))

	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
	defer cancel()
	around, aroundErr := w.seenAround(ctx, mark)
	accepted, acceptedErr := w.accepted()
	r.Around, r.Accepted = len(around), accepted-reached
	err = errors.Join(err, aroundErr, acceptedErr, w.removePods(ctx))
	r.Left = w.leftSince(ctx, before)
	r.Seen, r.Unprotected, r.Took = summary(s.seen), s.unprotected, time.Since(began)
	return r, err
}

// calm runs pods under one daemon.
func (s *soaking) calm(ctx context.Context, r *SoakResult) error {
	d, err := s.runDaemon(ctx)
	if err != nil {
		return err
	}
	defer func() { r.Race = s.end(d) || r.Race }()
	if err := s.pods(ctx, 1); err != nil {
		return err
	}
	if err := s.pods(ctx, s.fresh()-1); err != nil {
		return err
	}
	if r.Fresh, err = sizeOf(d.PID()); err != nil {
		return err
	}
	if err := s.pods(ctx, s.long()-s.fresh()); err != nil {
		return err
	}
	r.Long, err = sizeOf(d.PID())
	return err
}

// storm runs pods while daemons die. Of the moments only the pauses between them are drawn: what the pods
// are doing then is chance enough.
func (s *soaking) storm(ctx context.Context, r *SoakResult) error {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan error, 1)
	go func() { done <- s.killDaemonsAtRandom(ctx, r) }()
	err := s.pods(ctx, s.Pods)
	cancel()
	return errors.Join(err, <-done)
}

// How long a daemon lives in the storm, once it is connected, and how long none is there after it, every
// second time. One that always came back at once would be there again before the app of a pod starts whose
// sandbox it missed: on a runtime that refuses nothing, a soak without absences sees nothing.
const (
	longestLife    = 1500 * time.Millisecond
	longestAbsence = 600 * time.Millisecond
)

func (s *soaking) killDaemonsAtRandom(ctx context.Context, r *SoakResult) error {
	random := rand.New(rand.NewPCG(s.Seed, 0))
	for ctx.Err() == nil {
		d, err := s.runDaemon(ctx)
		if ctx.Err() != nil {
			break
		}
		if err != nil {
			return err
		}
		if pass(ctx, random, longestLife) {
			r.Kills++
		}
		r.Race = s.end(d) || r.Race
		if r.Kills%2 == 0 {
			pass(ctx, random, longestAbsence)
		}
	}
	return nil
}

// pass lets a random time go by, and reports whether it has before ctx ended.
func pass(ctx context.Context, random *rand.Rand, longest time.Duration) bool {
	select {
	case <-time.After(time.Duration(random.Int64N(int64(longest)))):
		return true
	case <-ctx.Done():
		return false
	}
}

// end kills a daemon and says whether it has reported a data race.
func (s *soaking) end(d *lab.Daemon) (race bool) {
	d.Kill()
	s.forget(d)
	return strings.Contains(d.Log(), "DATA RACE")
}

// pods starts and stops that many pods, and returns when all are gone.
func (s *soaking) pods(ctx context.Context, count int) error {
	slots := make(chan struct{}, s.AtOnce)
	errs := make([]error, count)
	var wg sync.WaitGroup
	for i := range count {
		slots <- struct{}{}
		if ctx.Err() != nil {
			break
		}
		wg.Go(func() {
			defer func() { <-slots }()
			errs[i] = s.pod(ctx)
		})
	}
	wg.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// pod starts one pod as its kubelet does, looks into it, and removes it.
func (s *soaking) pod(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, podLimit)
	defer cancel()
	p := s.newPod("web", true)
	err := p.up(ctx)
	s.mu.Lock()
	for v, n := range p.seen {
		s.seen[v] += n
	}
	s.mu.Unlock()
	if err != nil {
		return err
	}
	if err := s.compare(ctx, p); err != nil {
		return err
	}
	return s.removePod(ctx, p.sandbox.ID)
}

// compare looks at the rules in the sandbox. They are the same for all, and the first pod's show which.
func (s *soaking) compare(ctx context.Context, p *pod) error {
	out, err := exec.CommandContext(ctx, "nsenter", "--net="+p.sandbox.NetNS(), "sh", "-ec", "iptables-nft-save; ip6tables-nft-save").Output()
	if err != nil {
		return fmt.Errorf("rules of pod %s: %w", p.spec.Name, err)
	}
	have := changing.ReplaceAllString(string(out), "")
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.want == "" && strings.Contains(have, "-j REDIRECT"):
		s.want = have
	case have != s.want || have == "":
		s.unprotected = append(s.unprotected, p.spec.Name)
	}
	return nil
}

// changing is what of iptables-save's output is no rule: comments with the time, and counters.
var changing = regexp.MustCompile(`(?m)^#.*$|\[\d+:\d+\]`)
