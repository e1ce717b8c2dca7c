// SPDX-License-Identifier: Apache-2.0

// Package fair shares the daemon's time among pods. A runtime holds one lock for the whole node while it waits for its
// plugins, so that a pod that takes long holds up every other one. Nothing here keeps a pod from going around the mesh:
// whatever is forgotten costs time and no more. It is pure: it is told the time and starts nothing.
package fair

import (
	"sync"
	"time"
)

const (
	firstPause   = 5 * time.Second // after the first time that a pod used up its time; the next ones grow
	longestPause = 10 * time.Minute
	growth       = 4

	reducedFor = time.Minute // for how long a tenant's pods get less time, since one of them used up its own
	reduction  = 8           // the divisor of the usual time: what they get then, and what a decision gets at all times

	mostRefusals = 1024 // that are remembered; the oldest goes
	mostOfOnePod = 8
	mostReduced  = 1024
)

// Ledger remembers which pods used up their time. Its zero value is empty.
type Ledger struct {
	mu       sync.Mutex
	refusals map[string][]refusal // by pod, oldest first
	count    int                  // of refusals
	reduced  map[string]time.Time // by tenant: when its time was last cut
}

// refusal keeps a pod from being looked at again for a while, as long as its inputs stay the same.
type refusal struct {
	inputs     uint64
	why        string
	when, till time.Time
	pause      time.Duration
}

// Refused reports whether a pod with these inputs is not to be looked at now, why, and until when. inputs is called only
// where something is remembered of the pod, and returns a hash of everything that decides about it.
func (l *Ledger) Refused(pod string, inputs func() uint64, now time.Time) (why string, till time.Time, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refusals[pod]) == 0 {
		return "", time.Time{}, false
	}
	hash := inputs()
	for _, r := range l.refusals[pod] {
		if r.inputs == hash && now.Before(r.till) {
			return r.why, r.till, true
		}
	}
	return "", time.Time{}, false
}

// Overran remembers that a tenant's pod used up its time, and returns until when it is not looked at again. The pauses
// grow even if the pod's inputs change in between. The tenant's other pods get less time for a while only where the
// inputs were to blame: on a slow node any pod may be late, and must not keep the others out.
func (l *Ledger) Overran(pod, tenant string, inputs uint64, byInputs bool, why string, now time.Time) (till time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusals == nil {
		l.refusals, l.reduced = map[string][]refusal{}, map[string]time.Time{}
	}
	pause := firstPause
	all := l.refusals[pod]
	for _, r := range all {
		pause = max(pause, min(growth*r.pause, longestPause))
	}
	kept := make([]refusal, 0, len(all)+1)
	for i, r := range all {
		if r.inputs != inputs && len(all)-i < mostOfOnePod {
			kept = append(kept, r)
		}
	}
	l.count += len(kept) + 1 - len(all)
	l.refusals[pod] = append(kept, refusal{inputs, why, now, now.Add(pause), pause})
	if l.count > mostRefusals {
		l.forgetOldest()
	}
	if byInputs {
		l.reduced[tenant] = now
	}
	if len(l.reduced) > mostReduced {
		delete(l.reduced, oldest(l.reduced, func(when time.Time) time.Time { return when }))
	}
	return now.Add(pause)
}

// forgetOldest forgets the pod whose last refusal is the oldest.
func (l *Ledger) forgetOldest() {
	pod := oldest(l.refusals, func(all []refusal) time.Time { return all[len(all)-1].when })
	l.forget(pod)
}

// InTime forgets a pod whose work was done in time.
func (l *Ledger) InTime(pod string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(pod)
}

func (l *Ledger) forget(pod string) {
	l.count -= len(l.refusals[pod])
	delete(l.refusals, pod)
}

// Share returns how much of the whole time a tenant's pods get: all of it, unless one of them used up its own a short
// while ago. It is kept by tenant, since a pod that is made anew has another name and UID but the same namespace.
func (l *Ledger) Share(tenant string, whole time.Duration, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.isReduced(tenant, now) {
		return whole / reduction
	}
	return whole
}

func (l *Ledger) isReduced(tenant string, now time.Time) bool {
	when, ever := l.reduced[tenant]
	return ever && now.Sub(when) < reducedFor
}

// ForDecision returns how much of a pod's time its decision and plan may take. What an injector writes takes a
// thousandth of that.
func ForDecision(whole time.Duration) time.Duration { return whole / reduction }

func oldest[V any](all map[string]V, when func(V) time.Time) (key string) {
	var least time.Time
	for k, v := range all {
		if at := when(v); least.IsZero() || at.Before(least) {
			key, least = k, at
		}
	}
	return key
}
