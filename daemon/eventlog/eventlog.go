// SPDX-License-Identifier: Apache-2.0

// Package eventlog writes a line for each event of a pod. A reader of the log that stalls keeps nobody waiting, and a failure
// that comes again and again is written at growing intervals.
package eventlog

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"
)

// Line is what is to be written.
type Line struct {
	Level      slog.Level
	Message    string
	Attributes []slog.Attr // event and pod among them

	Pod, Event, Container, Reason string   // in which lines of the same message are different
	Own                           []string // what of the message is another one in each sandbox of the pod
	At                            time.Time
}

// queued is how many lines may wait to be written: more than a node has pods.
const queued = 1024

// New returns a recorder whose lines are made and written in the background: the runtime must not wait for its answer, or the
// pod would run without its rules. What does not fit is counted instead, and lost is called. Flush, called once, waits until
// what was recorded before it is written; work that is still running then may record more, which is lost.
func New(log *slog.Logger, lost func()) (record func(line func() Line), flush func()) {
	queue := make(chan func() Line, queued)
	var dropped atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	w := writer{log: log, dropped: &dropped}
	go func() {
		defer close(done)
		for {
			select {
			case line := <-queue:
				w.write(line())
				continue
			case <-stop:
			}
			for range len(queue) {
				w.write((<-queue)())
			}
			return
		}
	}()
	record = func(line func() Line) {
		select {
		case queue <- line:
		default:
			dropped.Add(1)
			lost()
		}
	}
	return record, func() { close(stop); <-done }
}

// writer is for one goroutine.
type writer struct {
	log     *slog.Logger
	dropped *atomic.Int64
	repeats repeats
}

func (w *writer) write(l Line) {
	if left, news := w.repeats.news(l); news {
		if left > 0 {
			l.Attributes = append(l.Attributes, slog.Int("repeated", left))
		}
		w.log.LogAttrs(context.Background(), l.Level, l.Message, l.Attributes...)
	}
	if n := w.dropped.Swap(0); n > 0 {
		w.log.Error("the log is read too slowly: outcomes of pods are not in it", "event", "log_dropped", "outcomes", n)
	}
}
