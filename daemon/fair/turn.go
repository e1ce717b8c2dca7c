// SPDX-License-Identifier: Apache-2.0

package fair

import "time"

// LongestLook is how long a look at one pod may take, where nobody waits for it.
const LongestLook = 10 * time.Second

const (
	leastLong   = 2 * time.Second // however short the interval is
	leastShort  = 50 * time.Millisecond
	longestWait = time.Hour // of a pod that used up its time, where the interval is shorter
)

// Turn says when it is a pod's turn to be looked at again, and for how long.
//
// The first look is short: even if every pod uses up its own, all of them take half an interval at most. A pod that
// needs more gets a longer look when no other one is due, and after that, looks with growing pauses. So each pod is looked
// at within two intervals, whatever the others do: one until its turn, half of one for everybody's short looks, and half
// of one for a long look that may just have begun.
type Turn struct {
	Looked time.Time // when the last look ended
	Missed int       // looks in a row that used up their time
}

// Due returns when the turn comes.
func (t Turn) Due(interval time.Duration) time.Time {
	pause := interval
	switch {
	case t.Missed == 1:
		pause = 0
	case t.Missed > 1:
		for i := 1; i < t.Missed && pause < longestWait; i++ {
			pause *= 2
		}
		pause = max(interval, min(pause, longestWait))
	}
	return t.Looked.Add(pause)
}

// Before reports whether t goes first of two turns that are both due.
func (t Turn) Before(other Turn) bool {
	if t.Missed != other.Missed {
		return t.Missed < other.Missed
	}
	return t.Looked.Before(other.Looked)
}

// Length returns how long the look may take on a node with so many pods to look at.
func (t Turn) Length(interval time.Duration, pods int) time.Duration {
	long := min(max(interval/2, leastLong), LongestLook)
	if t.Missed > 0 {
		return long
	}
	return min(max(interval/time.Duration(2*(pods+1)), leastShort), long)
}

// After returns the turn after a look.
func (t Turn) After(overran bool, now time.Time) Turn {
	if overran {
		return Turn{now, t.Missed + 1}
	}
	return Turn{now, 0}
}
