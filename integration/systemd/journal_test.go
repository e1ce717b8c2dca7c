// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
)

// entry is what the journal has of an event.
type entry struct {
	ID      string `json:"MESSAGE_ID"`
	PID     string `json:"_PID"`
	Pod     string `json:"MESHNETD_POD"`
	Error   string `json:"MESHNETD_ERROR"`
	Backend string `json:"MESHNETD_BACKEND"`
	// Microseconds: when the journal read it, by either clock, and when it was sent to it.
	Monotonic string `json:"__MONOTONIC_TIMESTAMP"`
	Read      string `json:"__REALTIME_TIMESTAMP"`
	Sent      string `json:"_SOURCE_REALTIME_TIMESTAMP"`
}

// journal returns the entries of an event, by its name.
func (l *life) journal(t *testing.T, event string) []entry {
	t.Helper()
	l.must(t, "journalctl", "--sync")
	var all []entry
	for line := range strings.Lines(l.must(t, "journalctl", "-u", "meshnetd", "-o", "json", "--no-pager", "MESHNETD_EVENT="+event)) {
		var e entry
		if err := json.Unmarshal([]byte(line), &e); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		if e.ID == "" {
			t.Errorf("%s has no MESSAGE_ID", event)
		}
		all = append(all, e)
	}
	return all
}

// events counts the entries of an event, those about a pod where NAMESPACE/NAME is given.
func (l *life) events(t *testing.T, event, pod string) int {
	t.Helper()
	n := 0
	for _, e := range l.journal(t, event) {
		if pod == "" || e.Pod == pod {
			n++
		}
	}
	return n
}

// eventTime returns when the last entry of an event was sent, which on a busy machine is long before the journal reads it, in microseconds since the machine's machine booted.
func (l *life) eventTime(t *testing.T, event string) int64 {
	t.Helper()
	all := l.journal(t, event)
	if len(all) == 0 {
		t.Fatalf("no event %s in the journal", event)
	}
	last := all[len(all)-1]
	return microseconds(t, last.Monotonic) - (microseconds(t, last.Read) - microseconds(t, last.Sent))
}

func microseconds(t *testing.T, text string) int64 {
	t.Helper()
	n, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		t.Fatal(err)
	}
	return n
}
