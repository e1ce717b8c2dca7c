// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/metrics"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/systemd/journal"
)

// page answers for a path, or "" and 0 for one that is not there.
func page(t *testing.T, m *metrics.Metrics, w *watch, e *daemon.Enforcer, path string) (body string, code int) {
	t.Helper()
	for _, p := range pages(m, w, e) {
		if p.Path == path {
			answer := httptest.NewRecorder()
			p.Handler.ServeHTTP(answer, httptest.NewRequestWithContext(t.Context(), http.MethodGet, path, nil))
			return answer.Body.String(), answer.Code
		}
	}
	return "", 0
}

// samples returns the samples of a page whose names begin so.
func samples(text string, prefixes ...string) []string {
	var found []string
	for line := range strings.Lines(text) {
		for _, prefix := range prefixes {
			if strings.HasPrefix(line, prefix) {
				found = append(found, strings.TrimSpace(line))
			}
		}
	}
	return found
}

func idle(t *testing.T) (*watch, *daemon.Enforcer, *metrics.Metrics) {
	t.Helper()
	w := newWatch("iptables")
	w.configured(config.Default())
	e := daemon.New(policyOf(config.Default()), nil, "", func(outcome.Outcome) {})
	return w, e, metrics.New("v1", texts(outcome.Stages[:]), func() metrics.State { return w.state(e, journal.NewQueue(t.Output())) })
}

func TestOutcomesAreCounted(t *testing.T) {
	w, e, m := idle(t)
	recorded := 0
	record := metered(m, func(outcome.Outcome) { recorded++ })
	skipped := outcome.Outcome{Result: lifecycle.Skipped, Said: lifecycle.EventSkipped, Decision: rules.Decision{Mesh: "istio", Reason: rules.ReasonNotInjected}}
	skipped.Spent[0] = 3 * time.Microsecond
	found := outcome.Outcome{Result: lifecycle.Unprotected, Said: lifecycle.EventDrift, Drifted: true, Trigger: lifecycle.Audited, Err: errors.New("x"), Decision: rules.Decision{Mesh: "istio", Reason: rules.ReasonInjected}}
	repaired := found
	repaired.Result, repaired.Said, repaired.Drifted, repaired.Err = lifecycle.Protected, lifecycle.EventRepaired, false, nil
	repaired.Spent = [len(outcome.Stages)]time.Duration{time.Microsecond, time.Millisecond, time.Millisecond, 0, 0}
	atOnce := outcome.Outcome{Result: lifecycle.Protected, Said: lifecycle.EventRepaired, Trigger: lifecycle.ContainerCreated, Drifted: true, Changed: true}
	for _, o := range []outcome.Outcome{skipped, skipped, found, repaired, atOnce} {
		record(o)
	}
	if recorded != 5 {
		t.Errorf("%d outcomes are passed on", recorded)
	}
	text, _ := page(t, m, w, e, "/metrics")
	want := []string{
		`meshnetd_drift_repaired_total 2`,
		`meshnetd_drift_total 2`,
		`meshnetd_outcomes_total{event="drift_found",mesh="istio",reason="injected"} 1`,
		`meshnetd_outcomes_total{event="drift_repaired",mesh="",reason=""} 1`,
		`meshnetd_outcomes_total{event="drift_repaired",mesh="istio",reason="injected"} 1`,
		`meshnetd_outcomes_total{event="pod_skipped",mesh="istio",reason="not-injected"} 2`,
		`meshnetd_stage_seconds_count{stage="apply"} 1`,
		`meshnetd_stage_seconds_count{stage="budget"} 0`,
		`meshnetd_stage_seconds_count{stage="decide"} 3`,
		`meshnetd_stage_seconds_count{stage="enter"} 1`,
		`meshnetd_stage_seconds_count{stage="verify"} 0`,
	}
	if diff := cmp.Diff(want, samples(text, "meshnetd_drift", "meshnetd_outcomes", "meshnetd_stage_seconds_count")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestHooksAreMeasured(t *testing.T) {
	w, _, m := idle(t)
	e := daemon.New(policyOf(config.Default()), nil, "", func(outcome.Outcome) {})
	p := pods{e, m}
	plain := rules.Pod{Namespace: "a", Name: "b"}
	refused := rules.Pod{Namespace: "a", Name: "c", Annotations: map[string]string{"sidecar.istio.io/status": "{}"}}
	if err := errors.Join(p.Enforce(t.Context(), plain), p.Admit(t.Context(), plain, rules.Container{}), p.Validate(t.Context(), plain, rules.Container{})); err != nil {
		t.Error(err)
	}
	if p.Enforce(t.Context(), refused) == nil {
		t.Error("a pod without a namespace is not refused")
	}
	text, _ := page(t, m, w, e, "/metrics")
	want := []string{
		`meshnetd_hook_seconds_count{result="refused",trigger="sandbox"} 1`,
		`meshnetd_hook_seconds_count{result="skipped",trigger="container"} 1`,
		`meshnetd_hook_seconds_count{result="skipped",trigger="sandbox"} 1`,
		`meshnetd_hook_seconds_count{result="skipped",trigger="validate"} 1`,
	}
	if diff := cmp.Diff(want, samples(text, "meshnetd_hook_seconds_count")); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Pods whose IPv6 goes around their proxy are told by mesh; those that have no rules to go around are not.
func TestIPv6AroundIsCounted(t *testing.T) {
	sandbox := func(mesh string, action rules.Action, way rules.WithoutIPv6) memory.Sandbox {
		return memory.Sandbox{State: lifecycle.StateProtected, Decision: rules.Decision{Mesh: mesh, Action: action}, Plan: rules.Plan{WithoutIPv6: way}}
	}
	s := metrics.State{Sandboxes: map[string]int{}, IPv6Around: map[string]int{}}
	count(&s, []memory.Sandbox{sandbox("linkerd", rules.Enrol, rules.IPv6Mesh), sandbox("linkerd", rules.Enrol, rules.IPv6Mesh), sandbox("linkerd", rules.Enrol, rules.IPv6Block),
		sandbox("kuma", rules.Enrol, rules.IPv6Capture), sandbox("kuma", rules.Enrol, ""), sandbox("istio", rules.Reject, rules.IPv6Mesh)})
	if diff := cmp.Diff(map[string]int{"linkerd": 2, "kuma": 0}, s.IPv6Around); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if s.Sandboxes["protected"] != 6 || s.Sandboxes["pending"] != 0 || len(s.Sandboxes) != len(lifecycle.States) {
		t.Errorf("%v", s.Sandboxes)
	}
}

func TestStateIsTold(t *testing.T) {
	w, e, m := idle(t)
	state := []string{"meshnetd_session_connected", "meshnetd_ready", "meshnetd_runtime_info", "meshnetd_backend_info", "meshnetd_config_last_reload_successful",
		"meshnetd_log_dropped", "meshnetd_audit_interval", "meshnetd_build_info", "meshnetd_sandboxes{state=\"p"}
	want := func(when string, lines ...string) {
		t.Helper()
		text, code := page(t, m, w, e, "/metrics")
		got := samples(text, state...)
		for _, line := range lines {
			if !strings.Contains(strings.Join(got, "\n")+"\n", line+"\n") {
				t.Errorf("%s: no %s in %d, %q", when, line, code, got)
			}
		}
	}
	want("at first", "meshnetd_session_connected 0", "meshnetd_ready 0", `meshnetd_backend_info{backend="iptables"} 1`, "meshnetd_config_last_reload_successful 1",
		"meshnetd_log_dropped_total 0", "meshnetd_audit_interval_seconds 30", `version="v1"} 1`, `meshnetd_sandboxes{state="pending"} 0`)
	if body, code := page(t, m, w, e, "/readyz"); code != http.StatusServiceUnavailable || !strings.HasPrefix(body, "not ready: no session with the runtime") {
		t.Errorf("readyz at first: %d %q", code, body)
	}
	if body, code := page(t, m, w, e, "/livez"); code != http.StatusOK || !strings.HasPrefix(body, "alive: ") {
		t.Errorf("livez at first: %d %q", code, body)
	}
	w.synced(nriplugin.Runtime{Name: "containerd", Version: "v2\xff", Tier: nriplugin.Guaranteed})
	w.refused(errors.New("bad"))
	w.lineLost()
	want("connected", "meshnetd_session_connected 1", "meshnetd_ready 1", `meshnetd_runtime_info{name="containerd",tier="guaranteed",version="v2?"} 1`,
		"meshnetd_config_last_reload_successful 0", "meshnetd_log_dropped_total 1")
	if body, code := page(t, m, w, e, "/readyz"); code != http.StatusOK || !strings.HasPrefix(body, "ready: ") {
		t.Errorf("readyz: %d %q", code, body)
	}
	w.lost(nil)
	w.waits(nriplugin.Waiting{Cause: nriplugin.Queue, Why: errors.New("waiting")})
	state = append(state, "meshnetd_session_waiting")
	want("lost", "meshnetd_session_connected 0", "meshnetd_ready 0", `meshnetd_session_waiting{cause="queue"} 1`, `meshnetd_session_waiting{cause="socket"} 0`, `meshnetd_runtime_info{name="containerd",tier="guaranteed",version="v2?"} 1`)
}

func TestLinesThatTheJournalLeftOut(t *testing.T) {
	w, e, _ := idle(t)
	queue := journal.NewQueue(t.Output())
	log := slog.New(journal.NewHandler(queue, slog.LevelInfo))
	for range 2000 { // nobody runs the queue
		log.Info("x")
	}
	w.lineLost()
	if s := w.state(e, queue); s.LinesLost != queue.Lost()+1 || queue.Lost() == 0 {
		t.Errorf("%d lines are told to be lost, %d are by the journal", s.LinesLost, queue.Lost())
	}
	if s := w.state(e, nil); s.LinesLost != 1 {
		t.Errorf("without a journal %d lines are lost", s.LinesLost)
	}
}

// What cannot be served is tried again for ever, and said once.
func TestInsist(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		var tried, said int
		began := time.Now()
		insist(ctx, func() error {
			if tried++; tried == 4 {
				cancel()
				return nil
			}
			return errors.New("in use")
		}, func(error) { said++ })
		if tried != 4 || said != 1 || time.Since(began) != 3*statusPause {
			t.Errorf("tried %d times in %s, said %d times", tried, time.Since(began), said)
		}
	})
}

func TestPlaceOfMetricsNeedsARestart(t *testing.T) {
	other := config.Default()
	other.Metrics.Address = "127.0.0.1:15990"
	if got := needRestart(config.Default(), other); !slices.Equal(got, []string{"metrics"}) {
		t.Errorf("got %q", got)
	}
}

func TestLogFormats(t *testing.T) {
	const inside = "MESHNETD_TEST_LOG"
	connected := os.Getenv(inside) != ""
	if !connected { // once more, with standard error as the journal's stream
		stderr, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
		if err != nil {
			t.Fatal(err)
		}
		defer stderr.Close()
		var st unix.Stat_t
		if err := unix.Fstat(int(stderr.Fd()), &st); err != nil {
			t.Fatal(err)
		}
		again := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestLogFormats$")
		again.Env = append(os.Environ(), inside+"=1", fmt.Sprintf("JOURNAL_STREAM=%d:%d", st.Dev, st.Ino))
		again.Stderr = stderr
		if out, err := again.Output(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		t.Setenv("JOURNAL_STREAM", "")
	}
	for format, isJournal := range map[string]bool{"journal": true, "text": false, "json": false, "auto": connected} {
		log, queue := newLogger(config.Log{Level: "warn", Format: format})
		if (queue != nil) != isJournal || log.Enabled(t.Context(), slog.LevelInfo) || !log.Enabled(t.Context(), slog.LevelWarn) {
			t.Errorf("%s: a journal is %v", format, queue != nil)
		}
	}
}

// Recording an outcome of a pod outside the mesh, which every pod of the node pays.
func BenchmarkRecord(b *testing.B) {
	w := newWatch("iptables")
	m := metrics.New("v1", texts(outcome.Stages[:]), func() metrics.State { return metrics.State{} })
	log, flush := outcome.Log(slog.New(slog.NewTextHandler(&bytes.Buffer{}, nil)), func() {})
	defer flush()
	skipped := outcome.Outcome{Result: lifecycle.Skipped, Said: lifecycle.EventSkipped, Decision: rules.Decision{Mesh: "istio", Reason: rules.ReasonNotInjected}}
	skipped.Spent[0] = 3 * time.Microsecond
	for name, record := range map[string]func(outcome.Outcome){"counts": w.counting(log), "counts and metrics": w.counting(metered(m, log))} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				record(skipped)
			}
		})
	}
	b.Run("hook", func(b *testing.B) {
		b.ReportAllocs()
		skipped.Began = time.Now()
		for b.Loop() {
			_ = answered(m, skipped, lifecycle.SandboxStarted)
		}
	})
}
