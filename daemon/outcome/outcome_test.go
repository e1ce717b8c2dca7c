// SPDX-License-Identifier: Apache-2.0

//go:build linux

package outcome

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/rules"
)

// failing is a pod that is refused in a new sandbox each time.
func failing(name, why string) Outcome {
	return Outcome{Pod: rules.Pod{Namespace: "shop", Name: name}, Trigger: lifecycle.SandboxStarted, Result: lifecycle.Failed, Said: lifecycle.EventBlocked, Err: errors.New(why)}
}

func TestRepeatedLine(t *testing.T) {
	var out bytes.Buffer
	record, flush := Log(slog.New(slog.NewTextHandler(&out, nil)), func() {})
	at := time.Unix(1_000_000, 0)
	for i := range 4 {
		id := fmt.Sprint("sandbox-", i) // a new one for each try is no news
		o := failing("web", "why: "+id)
		o.Pod.SandboxID = id
		o.Began, o.Took, at = at, time.Second, at.Add(25*time.Second)
		record(o)
	}
	late := failing("web", "why")
	late.Result, late.Said = lifecycle.Unprotected, lifecycle.EventStopped
	record(late)
	flush()
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 3 || strings.Contains(lines[0], "repeated") || !strings.Contains(lines[1], " repeated=2") || strings.Contains(lines[1], "error=") ||
		!strings.Contains(lines[2], "event=pod_stopped") || !strings.Contains(lines[2], " error=why") {
		t.Errorf("got %s", out.String())
	}
}

// One line for each pod of the mesh, none for others unless debugging.
func TestLogLines(t *testing.T) {
	for _, tt := range []struct {
		o     Outcome
		level slog.Level
		want  string
	}{
		{Outcome{Result: lifecycle.Skipped, Said: lifecycle.EventSkipped}, slog.LevelInfo, ""},
		{Outcome{Result: lifecycle.Skipped, Said: lifecycle.EventSkipped}, slog.LevelDebug, "level=DEBUG"},
		{Outcome{Result: lifecycle.Protected, Said: lifecycle.EventProtected}, slog.LevelInfo, "level=INFO"},
		{Outcome{Result: lifecycle.Protected, Trigger: lifecycle.Takeover, Changed: true, Said: lifecycle.EventLate},
			slog.LevelInfo, "level=WARN"},
		{Outcome{Result: lifecycle.Failed, Said: lifecycle.EventBlocked, Err: errors.New("why")}, slog.LevelInfo, "level=ERROR msg=why event=pod_blocked"},
	} {
		var out bytes.Buffer
		record, flush := Log(slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: tt.level})), func() {})
		record(tt.o)
		flush()
		record(tt.o) // by work that the end of the daemon does not wait for
		if lines := strings.Count(out.String(), "\n"); (tt.want == "") != (lines == 0) || lines > 1 || !strings.Contains(out.String(), tt.want) {
			t.Errorf("%s at %s: got %q, want %q", tt.o.Result, tt.level, out.String(), tt.want)
		}
	}
}

// A log that nobody reads keeps no pod waiting, and says later what is missing in it.
func TestStalledLogBlocksNobody(t *testing.T) {
	reader, writer := io.Pipe()
	var lost atomic.Int64
	record, flush := Log(slog.New(slog.NewTextHandler(writer, nil)), func() { lost.Add(1) })
	const queued, more = 1024, 10
	for range queued + 1 + more { // one is being written
		record(Outcome{Result: lifecycle.Protected, Said: lifecycle.EventProtected})
	}
	var out bytes.Buffer
	read := make(chan struct{})
	go func() {
		defer close(read)
		_, _ = io.Copy(&out, reader)
	}()
	flush()
	_ = writer.Close()
	<-read
	if lines := strings.Count(out.String(), "event=pod_protected"); lines < queued || lines > queued+1 {
		t.Errorf("%d lines, want %d", lines, queued)
	}
	if !strings.Contains(out.String(), "event=log_dropped outcomes=1") {
		t.Error("what was dropped is not counted")
	}
	if n := lost.Load(); n < more || n > more+1 {
		t.Errorf("%d lines are told to be lost, want %d", n, more)
	}
}

// Each stage's time is counted where it is spent, and together they are what the pod took.
func TestTimeOfStages(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		o := Begin(lifecycle.SandboxStarted, rules.Pod{})
		for _, stage := range []Stage{StageEnter, StageDecide, StageVerify, StageApply, StageVerify} {
			time.Sleep(time.Second)
			o.Enter(stage)
		}
		time.Sleep(3 * time.Second)
		o.End()
		o.End() // nothing is counted twice
		const s = time.Second
		if want := [...]time.Duration{2 * s, s, s, 4 * s, 0}; o.Spent != want || o.Took != 8*s { // in the order of Stages
			t.Errorf("took %s, %s", o.Took, o.Spent)
		}
		o.Overdue()
		time.Sleep(time.Second)
		o.End()
		if want := [...]time.Duration{4: 9 * s}; o.Spent != want {
			t.Errorf("what was not finished: %s", o.Spent)
		}
	})
}

// What is found and then repaired is one piece of work: its time is counted once.
func TestFoundDriftHasNoTimes(t *testing.T) {
	o := Begin(lifecycle.Audited, rules.Pod{})
	o.Spent[0] = time.Second
	if got := o.DriftFound(lifecycle.EventDrift); got.Spent != [len(Stages)]time.Duration{} {
		t.Errorf("got %v", got.Spent)
	}
}
