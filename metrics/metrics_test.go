// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"fmt"
	"net/http"
	"net/http/httptest"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
)

func full() State {
	return State{Connected: true, Ready: true, Waiting: map[string]bool{"queue": true, "socket": false}, Runtime: &Runtime{"containerd", "v2\xff", "best effort"}, Backend: "iptables",
		Sandboxes: map[string]int{"protected": 3, "failing": 0}, IPv6Around: map[string]int{"linkerd": 2, "kuma": 0}, NotHeld: map[string]int{"validator_off": 4},
		CanBypass: map[string]int{"net_admin": 2, "host_pid": 0}, Kubelet: &Kubelet{Complete: true, Pods: 12, Started: map[string]int{"known": 9, "asked": 1}}, Audit: &Audit{time.Unix(1000, 500e6), 1500 * time.Millisecond},
		Interval: 30 * time.Second, Audited: 2500 * time.Millisecond, LinesLost: 7, Rejected: true, Reloaded: time.Unix(2000, 0)}
}

func gathered(t *testing.T, m *Metrics) map[string]*dto.MetricFamily {
	t.Helper()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]*dto.MetricFamily{}
	for _, f := range families {
		all[f.GetName()] = f
	}
	return all
}

// text returns what a reader gets.
func text(t *testing.T, m *Metrics, accept string) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil)
	r.Header.Set("Accept", accept)
	w := httptest.NewRecorder()
	m.Handler().ServeHTTP(w, r)
	if w.Code != http.StatusOK {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	return w
}

func TestEveryValue(t *testing.T) {
	m := New("v1.2", []string{"enter"}, full)
	m.Outcome(Outcome{"pod_protected", "injected", "istio"})
	m.Outcome(Outcome{"pod_protected", "injected", "istio"})
	m.Outcome(Outcome{"pod_blocked", "bad-input", "istio"})
	m.Stage("apply", 250*time.Millisecond)
	m.Hook(Hook{"sandbox", "protected"}, 500*time.Millisecond)
	m.SessionChanged()
	m.SessionChanged()
	m.Drifted()
	m.Repaired()
	got := text(t, m, "text/plain").Body.String()
	for _, want := range []string{
		`meshnetd_outcomes_total{event="pod_protected",mesh="istio",reason="injected"} 2`,
		`meshnetd_outcomes_total{event="pod_blocked",mesh="istio",reason="bad-input"} 1`,
		`meshnetd_stage_seconds_sum{stage="apply"} 0.25`,
		`meshnetd_stage_seconds_count{stage="enter"} 0`,
		`meshnetd_hook_seconds_sum{result="protected",trigger="sandbox"} 0.5`,
		"meshnetd_session_changes_total 2", "meshnetd_drift_total 1", "meshnetd_drift_repaired_total 1",
		"meshnetd_session_connected 1", "meshnetd_ready 1", `meshnetd_session_waiting{cause="queue"} 1`, `meshnetd_session_waiting{cause="socket"} 0`, `meshnetd_backend_info{backend="iptables"} 1`,
		`meshnetd_runtime_info{name="containerd",tier="best effort",version="v2?"} 1`,
		`meshnetd_sandboxes{state="protected"} 3`, `meshnetd_sandboxes{state="failing"} 0`,
		`meshnetd_sandboxes_ipv6_around{mesh="linkerd"} 2`, `meshnetd_sandboxes_ipv6_around{mesh="kuma"} 0`,
		`meshnetd_sandboxes_not_held{why="validator_off"} 4`,
		"meshnetd_audit_last_timestamp_seconds 1000.5", "meshnetd_audit_duration_seconds 1.5", "meshnetd_audit_interval_seconds 30",
		"meshnetd_audit_age_seconds 2.5", "meshnetd_log_dropped_total 7", "meshnetd_config_last_reload_successful 0",
		"meshnetd_config_last_reload_success_timestamp_seconds 2000",
	} {
		if !strings.Contains(got, "\n"+want+"\n") {
			t.Errorf("no %s", want)
		}
	}
	if !regexp.MustCompile(`\nmeshnetd_build_info\{goversion="go[^"]+",version="v1\.2"\} 1\n`).MatchString(got) {
		t.Error("no build info")
	}
	for _, other := range []string{"go_goroutines ", "process_resident_memory_bytes ", "process_start_time_seconds "} {
		if !strings.Contains(got, "\n"+other) {
			t.Errorf("no %s", other)
		}
	}
}

// What is not known yet is left out, rather than zero.
func TestBeforeTheFirstSession(t *testing.T) {
	all := gathered(t, New("v1", nil, func() State { return State{} }))
	for _, name := range []string{"meshnetd_runtime_info", "meshnetd_audit_last_timestamp_seconds", "meshnetd_audit_duration_seconds"} {
		if all[name] != nil {
			t.Errorf("%s is there", name)
		}
	}
	for name, want := range map[string]float64{"meshnetd_session_connected": 0, "meshnetd_ready": 0, "meshnetd_config_last_reload_successful": 1} {
		if f := all[name]; f == nil || f.GetMetric()[0].GetGauge().GetValue() != want {
			t.Errorf("%s: %v", name, f)
		}
	}
}

// Prometheus' own form has native histograms; every other has buckets.
func TestHistograms(t *testing.T) {
	m := New("v1", nil, full)
	m.Stage("apply", 300*time.Microsecond)
	m.Hook(Hook{"container", "protected"}, 800*time.Nanosecond)
	w := text(t, m, "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited")
	decoder := expfmt.NewDecoder(w.Body, expfmt.ResponseFormat(w.Header()))
	native := 0
	for {
		var f dto.MetricFamily
		if decoder.Decode(&f) != nil {
			break
		}
		if !strings.HasPrefix(f.GetName(), "meshnetd_") || f.GetType() != dto.MetricType_HISTOGRAM {
			continue
		}
		h := f.GetMetric()[0].GetHistogram()
		if h.GetSchema() != 3 || len(h.GetPositiveSpan()) == 0 { // a factor of 1.1 is schema 3: 2^(1/8)
			t.Errorf("%s is not native: %v", f.GetName(), h)
		}
		native++
		first, last := h.GetBucket()[0].GetUpperBound(), h.GetBucket()[len(h.GetBucket())-1].GetUpperBound()
		if first > 2e-5 || last < 2.4 || h.GetBucket()[0].GetCumulativeCount() != 0 && f.GetName() == "meshnetd_stage_seconds" {
			t.Errorf("%s has buckets from %g to %g", f.GetName(), first, last)
		}
	}
	if native != 2 {
		t.Errorf("%d histograms", native)
	}
}

// The names and units are what Prometheus' conventions ask for.
func TestNames(t *testing.T) {
	m := New("v1", nil, full)
	m.Outcome(Outcome{"a", "b", "c"})
	m.Hook(Hook{"a", "b"}, 1)
	m.Stage("a", 1)
	n := 0
	for name, f := range gathered(t, m) {
		if !strings.HasPrefix(name, "meshnetd_") {
			continue
		}
		n++
		total := strings.HasSuffix(name, "_total")
		if (f.GetType() == dto.MetricType_COUNTER) != total {
			t.Errorf("%s is a %s", name, f.GetType())
		}
		if f.GetType() == dto.MetricType_HISTOGRAM && !strings.HasSuffix(name, "_seconds") {
			t.Errorf("%s has no unit", name)
		}
		if !strings.HasSuffix(f.GetHelp(), ".") || strings.Contains(name, "milli") || strings.Contains(name, "_ms") {
			t.Errorf("%s: %q", name, f.GetHelp())
		}
	}
	if n != 26 {
		t.Errorf("%d metrics", n)
	}
}

// Whatever a label is made of, it fills no memory, and nothing is left uncounted.
func TestLabelsAreBounded(t *testing.T) {
	m := New("v1", nil, full)
	var all sync.WaitGroup
	for worker := range 4 {
		all.Go(func() {
			for i := range 2 * mostOutcomes {
				m.Outcome(Outcome{"e", fmt.Sprint(i), "m"})
				m.Stage(fmt.Sprint(worker*mostOthers+i%mostOthers), time.Millisecond)
			}
		})
	}
	all.Wait()
	families := gathered(t, m)
	count, sum := len(families["meshnetd_outcomes_total"].GetMetric()), 0.0
	for _, metric := range families["meshnetd_outcomes_total"].GetMetric() {
		sum += metric.GetCounter().GetValue()
	}
	if count != mostOutcomes+1 || sum != 4*2*mostOutcomes {
		t.Errorf("%d series that count %g", count, sum)
	}
	if n := len(families["meshnetd_stage_seconds"].GetMetric()); n != mostOthers+1 {
		t.Errorf("%d stages", n)
	}
}

// To count what is known costs no memory: pods outside the mesh pay it, too.
func TestCountingAllocatesNothing(t *testing.T) {
	m := New("v1", []string{"decide"}, full)
	o := Outcome{"pod_skipped", "not-injected", "istio"}
	m.Outcome(o)
	if n := testing.AllocsPerRun(100, func() { m.Outcome(o); m.Drifted(); m.SessionChanged() }); n != 0 {
		t.Errorf("%g allocations", n)
	}
}

// More readers than are gathered for at once wait, and are all answered.
func TestReadersWait(t *testing.T) {
	release, asked := make(chan struct{}), make(chan struct{}, 16*readers)
	m := New("v1", nil, func() State { asked <- struct{}{}; <-release; return State{} })
	handler := m.Handler()
	var all sync.WaitGroup
	for range 16 * readers {
		all.Go(func() {
			w := httptest.NewRecorder()
			handler.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/metrics", nil))
			if w.Code != http.StatusOK {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	for range readers {
		<-asked
	}
	close(release)
	all.Wait()
}
