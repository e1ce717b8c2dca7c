// SPDX-License-Identifier: Apache-2.0

//go:build linux

package journal

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-systemd/v22/journal"
	"github.com/google/go-cmp/cmp"
)

// sent is what came to the journal.
type sent struct {
	message  string
	priority journal.Priority
	vars     map[string]string
}

// log returns what a logger with a queue sends for the calls.
func log(t *testing.T, level slog.Level, calls func(*slog.Logger)) []sent {
	t.Helper()
	var all []sent
	q := NewQueue(t.Output())
	q.Send = func(message string, priority journal.Priority, vars map[string]string) error {
		all = append(all, sent{message, priority, vars})
		return nil
	}
	calls(slog.New(NewHandler(q, level)))
	go q.Run()
	if err := q.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	return all
}

func TestFields(t *testing.T) {
	for name, tt := range map[string]struct {
		log  func(*slog.Logger)
		want sent
	}{
		"a refused pod": {
			func(l *slog.Logger) {
				l.Error("no port", "event", "pod_blocked", "pod", "shop/web", "reason", "bad-input", "took_us", 41, "stage", "decide", "repeated", 3, "note", "one", "note", "two")
			},
			sent{"pod_blocked shop/web: no port (3 more since this was last logged)", journal.PriErr, map[string]string{
				"MESSAGE_ID": messageIDs["pod_blocked"], "MESHNETD_EVENT": "pod_blocked", "MESHNETD_POD": "shop/web", "MESHNETD_NAMESPACE": "shop",
				"MESHNETD_REASON": "bad-input", "MESHNETD_TOOK_US": "41", "MESHNETD_STAGE": "decide", "MESHNETD_REPEATED": "3", "MESHNETD_NOTE": "one\ntwo", "MESHNETD_ERROR": "no port"}},
		},
		"the daemon's own": {
			func(l *slog.Logger) {
				l.Warn("no session", "event", "nri_waiting", "error", errors.New("no socket"), "stack", "long")
			},
			sent{"nri_waiting: no session: no socket", journal.PriWarning, map[string]string{
				"MESSAGE_ID": messageIDs["nri_waiting"], "MESHNETD_EVENT": "nri_waiting", "MESHNETD_ERROR": "no socket", "MESHNETD_STACK": "long"}},
		},
		"its attributes are shown": {
			func(l *slog.Logger) {
				l.Info("connected", "event", "nri_connected", "tier", "best effort", "nri", "", "version", "v2", "validates", true)
			},
			sent{`nri_connected: connected (tier="best effort", nri="", version=v2, validates=true)`, journal.PriInfo, map[string]string{
				"MESSAGE_ID": messageIDs["nri_connected"], "MESHNETD_EVENT": "nri_connected", "MESHNETD_TIER": "best effort",
				"MESHNETD_NRI": "", "MESHNETD_VERSION": "v2", "MESHNETD_VALIDATES": "true"}},
		},
		"an error with a cause of its own": {
			func(l *slog.Logger) { l.Error("bad", "event", "config_rejected", "error", "line 1\nline 2") },
			sent{"config_rejected: bad: line 1\nline 2", journal.PriErr, map[string]string{
				"MESSAGE_ID": messageIDs["config_rejected"], "MESHNETD_EVENT": "config_rejected", "MESHNETD_ERROR": "line 1\nline 2"}},
		},
		"an unknown event": {
			func(l *slog.Logger) { l.Debug("x", "event", "nonsense", "a.b-ä", "nul\x00") },
			sent{"nonsense: x (a.b-ä=nul\x00)", journal.PriDebug, map[string]string{"MESHNETD_EVENT": "nonsense", "MESHNETD_A_B__": "nul\uFFFD"}},
		},
		"none": {func(l *slog.Logger) { l.Info("x") }, sent{"x", journal.PriInfo, map[string]string{}}},
		"groups": {
			func(l *slog.Logger) {
				l.With("a", 1).WithGroup("").WithGroup("g").With("b", 2).Info("x", slog.Group("h", "c", 3), slog.Group("", "d", 4), slog.Attr{})
			},
			sent{"x (a=1, g_b=2, g_h_c=3, g_d=4)", journal.PriInfo, map[string]string{
				"MESHNETD_A": "1", "MESHNETD_G_B": "2", "MESHNETD_G_H_C": "3", "MESHNETD_G_D": "4"}},
		},
	} {
		t.Run(name, func(t *testing.T) {
			tt.want.vars["SYSLOG_IDENTIFIER"] = "meshnetd"
			if diff := cmp.Diff([]sent{tt.want}, log(t, slog.LevelDebug, tt.log), cmp.AllowUnexported(sent{})); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}

// Handlers that were derived from one must not write into each other's attributes.
func TestDerivedHandlersAreApart(t *testing.T) {
	got := log(t, slog.LevelInfo, func(l *slog.Logger) {
		base := l.With("a", 1, "b", 2, "c", 3)
		one, two := base.With("d", "one"), base.With("d", "two")
		base.Info("x", "d", "base")
		one.Info("x", "e", 1)
		two.Info("x", "e", 2)
		one.Debug("not at this level")
	})
	var values []string
	for _, s := range got {
		values = append(values, s.vars["MESHNETD_D"]+s.vars["MESHNETD_E"])
	}
	if diff := cmp.Diff([]string{"base", "one1", "two2"}, values); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// One handler is used by many at once; the race detector looks on.
func TestOneHandlerForMany(t *testing.T) {
	got := log(t, slog.LevelInfo, func(l *slog.Logger) {
		l = l.With("a", 1, "b", 2, "c", 3)
		var all sync.WaitGroup
		for i := range 8 {
			all.Go(func() {
				for range 20 {
					l.Info("x", "d", i, "e", i)
				}
			})
		}
		all.Wait()
	})
	for _, s := range got {
		if s.vars["MESHNETD_D"] != s.vars["MESHNETD_E"] {
			t.Errorf("two lines are mixed: %v", s.vars)
		}
	}
	if len(got) != 160 {
		t.Errorf("%d lines", len(got))
	}
}

func TestLongNamesAreCut(t *testing.T) {
	if name := Field(strings.Repeat("x", 100)); len(name) != 64 {
		t.Errorf("%d bytes: the journal drops fields with more than 64", len(name))
	}
}

// A journal that takes nothing must not hold up who logs; what is lost is said as soon as it takes something.
func TestStalledJournal(t *testing.T) {
	const more = 7
	taking, release := make(chan struct{}), make(chan struct{})
	var lines []string
	q := NewQueue(t.Output())
	q.Send = func(message string, _ journal.Priority, vars map[string]string) error {
		if len(lines) == 0 {
			close(taking)
			<-release
		}
		lines = append(lines, message)
		if vars["MESHNETD_EVENT"] == "log_dropped" && (vars["MESHNETD_LINES"] != "7" || vars["MESSAGE_ID"] != messageIDs["log_dropped"]) {
			t.Errorf("fields %v", vars)
		}
		return nil
	}
	l := slog.New(NewHandler(q, slog.LevelInfo))
	go q.Run()
	l.Info("first")
	<-taking
	for range waiting + more {
		l.Info("next")
	}
	if got := q.Lost(); got != more {
		t.Errorf("%d are lost", got)
	}
	if err := q.Close(time.Millisecond); err == nil {
		t.Error("closed without a word while nothing is taken")
	}
	close(release)
	if err := q.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if len(lines) != 1+1+waiting || lines[0] != "first" || lines[1] != "log_dropped: the journal takes lines too slowly: 7 are not in it" || lines[2] != "next" {
		t.Errorf("%d lines: %q", len(lines), lines[:3])
	}
}

func TestNoJournal(t *testing.T) {
	var instead bytes.Buffer
	q := NewQueue(&instead)
	q.Send = func(string, journal.Priority, map[string]string) error { return errors.New("no socket") }
	slog.New(NewHandler(q, slog.LevelInfo)).Error("bad", "event", "no_status")
	go q.Run()
	if err := q.Close(10 * time.Second); err != nil {
		t.Fatal(err)
	}
	if want := "<3>no_status: bad [not in the journal: no socket]\n"; instead.String() != want {
		t.Errorf("got %q, want %q", instead.String(), want)
	}
}

func TestPriorities(t *testing.T) {
	for level, want := range map[slog.Level]journal.Priority{slog.LevelDebug - 4: journal.PriDebug, slog.LevelDebug: journal.PriDebug, slog.LevelInfo: journal.PriInfo,
		slog.LevelInfo + 1: journal.PriInfo, slog.LevelWarn: journal.PriWarning, slog.LevelError: journal.PriErr, slog.LevelError + 4: journal.PriErr} {
		if got := priority(level); got != want {
			t.Errorf("%s: %d, want %d", level, got, want)
		}
	}
}
