// SPDX-License-Identifier: Apache-2.0

package eventlog

import (
	"hash/maphash"
	"log/slog"
	"maps"
	"strings"
	"time"
)

// A repeated line is suppressed for firstSilence, then for twice as long each time, up to longestSilence. A line that has
// not come for longestSilence is treated as new.
const (
	firstSilence   = time.Minute
	longestSilence = time.Hour

	mostRepeats = 1024 // lines that are remembered; the one that was not seen for the longest time is forgotten
)

// repeats tells a line that was written before from news: the kubelet tries a pod that is refused again every few
// seconds, in a new sandbox each time. Its zero value has seen nothing. One goroutine may use it.
type repeats struct {
	seed  maphash.Seed
	lines map[same]repeated
}

// same is what makes two lines the same.
type same struct {
	pod, event, container, reason string
	text                          uint64 // a hash of it
}

type repeated struct {
	seen, next time.Time // when it came last, and when it may be written again
	silence    time.Duration
	left       int // out since it was written
}

// news reports whether a line is to be written, and how many of the same were left out since the last one. Everything is
// written that is no warning or error. What says that all is well ends the silence about its pod; how many lines there were is
// said then.
func (r *repeats) news(l Line) (left int, news bool) {
	if l.Level < slog.LevelWarn {
		if l.Level == slog.LevelInfo {
			left = r.forget(l.Pod)
		}
		return left, true
	}
	if r.lines == nil {
		r.seed, r.lines = maphash.MakeSeed(), map[same]repeated{}
	}
	text := l.Message
	for _, own := range l.Own {
		if own != "" {
			text = strings.ReplaceAll(text, own, "?")
		}
	}
	key := same{l.Pod, l.Event, l.Container, l.Reason, maphash.String(r.seed, text)}
	before, known := r.lines[key]
	switch {
	case !known || l.At.Sub(before.seen) > longestSilence:
		r.makeRoom()
		r.lines[key] = repeated{seen: l.At, next: l.At.Add(firstSilence), silence: firstSilence}
		return before.left, true
	case l.At.Before(before.next):
		before.seen, before.left = l.At, before.left+1
		r.lines[key] = before
		return 0, false
	}
	silence := min(2*before.silence, longestSilence)
	r.lines[key] = repeated{seen: l.At, next: l.At.Add(silence), silence: silence}
	return before.left, true
}

// forget forgets what was said of a pod, and returns how many of its lines were left out.
func (r *repeats) forget(pod string) (left int) {
	maps.DeleteFunc(r.lines, func(l same, was repeated) bool {
		if l.pod == pod {
			left += was.left
		}
		return l.pod == pod
	})
	return left
}

func (r *repeats) makeRoom() {
	if len(r.lines) < mostRepeats {
		return
	}
	var oldest same
	var seen time.Time
	for l, was := range r.lines {
		if seen.IsZero() || was.seen.Before(seen) {
			oldest, seen = l, was.seen
		}
	}
	delete(r.lines, oldest)
}
