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

	penance  = time.Minute // for how long a tenant's pods get less time, since one of them used up its own
	shortcut = 8           // the part of the usual time that they get then, and that a decision gets at all times

	mostRefusals  = 1024 // that are remembered; the oldest goes
	mostOfOnePod  = 8
	mostPenitents = 1024
)

// Ledger remembers who used up its time. Its zero value remembers nobody.
type Ledger struct {
	mu        sync.Mutex
	refusals  map[string][]refusal // by pod, oldest first
	many      int                  // refusals there are
	penitents map[string]time.Time // by tenant: when it began to have less, or had to once more
}

// refusal is a pod that is not looked at again for a while, as long as it wishes the same.
type refusal struct {
	wishes     uint64
	why        string
	when, till time.Time
	pause      time.Duration
}

// Refused tells why a pod that wishes this is not looked at now, and until when. The wishes are a hash of all that
// decides about the pod, and asked for only where something is remembered of it.
func (l *Ledger) Refused(pod string, wishes func() uint64, now time.Time) (why string, till time.Time, refused bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.refusals[pod]) == 0 {
		return "", time.Time{}, false
	}
	hash := wishes()
	for _, r := range l.refusals[pod] {
		if r.wishes == hash && now.Before(r.till) {
			return r.why, r.till, true
		}
	}
	return "", time.Time{}, false
}

// Overran remembers that a pod of that tenant used up its time, and returns until when it is not looked at again. The
// pauses of a pod grow whatever it wishes meanwhile. A tenant's pods get less time for a while only where it was used up by
// what a pod wishes: on a slow node any pod may come late, and is not to keep the others out.
func (l *Ledger) Overran(pod, tenant string, wishes uint64, byWishes bool, why string, now time.Time) (till time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.refusals == nil {
		l.refusals, l.penitents = map[string][]refusal{}, map[string]time.Time{}
	}
	pause := firstPause
	all := l.refusals[pod]
	for _, r := range all {
		pause = max(pause, min(growth*r.pause, longestPause))
	}
	kept := make([]refusal, 0, len(all)+1)
	for i, r := range all {
		if r.wishes != wishes && len(all)-i < mostOfOnePod {
			kept = append(kept, r)
		}
	}
	l.many += len(kept) + 1 - len(all)
	l.refusals[pod] = append(kept, refusal{wishes, why, now, now.Add(pause), pause})
	if l.many > mostRefusals {
		l.forgetOldest()
	}
	if byWishes {
		l.penitents[tenant] = now
	}
	if len(l.penitents) > mostPenitents {
		delete(l.penitents, oldest(l.penitents, func(when time.Time) time.Time { return when }))
	}
	return now.Add(pause)
}

// forgetOldest forgets the refusals of the pod that was last refused before all others.
func (l *Ledger) forgetOldest() {
	pod := oldest(l.refusals, func(all []refusal) time.Time { return all[len(all)-1].when })
	l.forget(pod)
}

// InTime forgets a pod that was done in its time.
func (l *Ledger) InTime(pod string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.forget(pod)
}

func (l *Ledger) forget(pod string) {
	l.many -= len(l.refusals[pod])
	delete(l.refusals, pod)
}

// Share returns how much of that time the pods of a tenant get: all of it, unless one of them used up its own a short
// while ago. Pods that are made anew come with other names and identities, but in the same namespace.
func (l *Ledger) Share(tenant string, whole time.Duration, now time.Time) time.Duration {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.penitent(tenant, now) {
		return whole / shortcut
	}
	return whole
}

func (l *Ledger) penitent(tenant string, now time.Time) bool {
	when, ever := l.penitents[tenant]
	return ever && now.Sub(when) < penance
}

// ForDecision is how much of its time a pod may take to be decided about and planned for. What an injector writes takes
// a thousandth of it.
func ForDecision(whole time.Duration) time.Duration { return whole / shortcut }

func oldest[V any](all map[string]V, when func(V) time.Time) (key string) {
	var least time.Time
	for k, v := range all {
		if at := when(v); least.IsZero() || at.Before(least) {
			key, least = k, at
		}
	}
	return key
}
