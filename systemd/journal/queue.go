// SPDX-License-Identifier: Apache-2.0

//go:build linux

package journal

import (
	"fmt"
	"io"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
)

// waiting is how many records wait for the journal: a busy moment of a full node, some hundred kilobytes.
const waiting = 1024

// Queue writes to the journal in the background. The journal is a socket with a queue of its own, and writing waits
// while that is full: no hook of the runtime may stand behind it.
type Queue struct {
	// Send writes one record. It may wait for as long as it likes.
	Send func(message string, priority journal.Priority, vars map[string]string) error

	instead io.Writer // of what the journal does not take
	entries chan queued
	dropped atomic.Int64 // not told of yet
	lost    atomic.Int64 // ever
	ended   chan struct{}
}

// queued is a record, or what comes after the last one.
type queued struct {
	entry
	end bool
}

// NewQueue returns a queue to this machine's journal. What the journal does not take, or where there is none, is
// written to instead, as text.
func NewQueue(instead io.Writer) *Queue {
	return &Queue{Send: journal.Send, instead: instead, entries: make(chan queued, waiting), ended: make(chan struct{})}
}

// Run writes what comes until Close.
func (q *Queue) Run() {
	defer close(q.ended)
	for next := range q.entries {
		if next.end {
			return
		}
		q.write(next.entry)
		if n := q.dropped.Swap(0); n > 0 {
			const event = "log_dropped"
			q.write(entry{fmt.Sprintf("%s: the journal takes lines too slowly: %d are not in it", event, n), journal.PriErr, map[string]string{
				"SYSLOG_IDENTIFIER": "meshnetd", "MESSAGE_ID": messageIDs[event], Field("event"): event, Field("lines"): strconv.FormatInt(n, 10)}})
		}
	}
}

func (q *Queue) write(e entry) {
	if err := q.Send(e.message, e.priority, e.vars); err != nil {
		fmt.Fprintf(q.instead, "<%d>%s [not in the journal: %v]\n", e.priority, e.message, err)
	}
}

// put never waits.
func (q *Queue) put(e entry) {
	select {
	case q.entries <- queued{entry: e}:
	default:
		q.dropped.Add(1)
		q.lost.Add(1)
	}
}

// Lost returns how many records did not fit since the start.
func (q *Queue) Lost() int64 { return q.lost.Load() }

// Close waits until what was put before is written, but no longer than limit, and ends Run. It is called once. What
// is put afterwards is lost.
func (q *Queue) Close(limit time.Duration) error {
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case q.entries <- queued{end: true}:
	case <-late.C:
		return fmt.Errorf("write the last lines to the journal: nobody takes them within %s", limit)
	}
	select {
	case <-q.ended:
		return nil
	case <-late.C:
		return fmt.Errorf("write the last lines to the journal: nobody takes them within %s", limit)
	}
}
