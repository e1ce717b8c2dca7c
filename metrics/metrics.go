// SPDX-License-Identifier: Apache-2.0

// Package metrics is what Prometheus reads of the daemon. It is the only place that knows Prometheus.
package metrics

import (
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Metrics counts and measures. All its methods may be called at once, and none waits for a reader.
type Metrics struct {
	registry *prometheus.Registry
	outcomes resolved[Outcome, prometheus.Counter]
	stages   resolved[string, prometheus.Observer]
	hooks    resolved[Hook, prometheus.Observer]
	sessions prometheus.Counter
	drifts   prometheus.Counter
	repairs  prometheus.Counter
}

// Outcome is what became of a pod.
type Outcome struct{ Event, Reason, Mesh string }

// Hook is a question of the runtime and how it was answered.
type Hook struct{ Trigger, Result string }

// Labels have a fixed set of values. Should one ever not, it must not fill the memory.
const (
	mostOutcomes = 512
	mostOthers   = 64
	other        = "other"
)

const (
	readers   = 4 // at once
	readLimit = 4 * time.Second
)

// New returns metrics that have counted nothing yet. All stages are there from the beginning, since Prometheus sees no
// increase in a new series. state is called at each reading.
func New(version string, stageNames []string, state func() State) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry()}
	outcomes := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "meshnetd_outcomes_total",
		Help: "What became of pods, by the event of the log, the reason of the decision and the mesh."}, []string{"event", "reason", "mesh"})
	m.outcomes.most = mostOutcomes
	m.outcomes.resolve = func(o Outcome) prometheus.Counter { return outcomes.WithLabelValues(o.Event, o.Reason, o.Mesh) }
	m.outcomes.rest = Outcome{other, other, other}

	stages := histogram("meshnetd_stage_seconds", "Time that outcomes spent in a stage of the flow; budget is the whole time of those that were not finished in time.",
		prometheus.ExponentialBucketsRange(0.00002, 2.5, 16), "stage")
	m.stages.most = mostOthers
	m.stages.resolve = func(stage string) prometheus.Observer { return stages.WithLabelValues(stage) }
	m.stages.rest = other
	for _, name := range stageNames {
		m.stages.get(name)
	}

	hooks := histogram("meshnetd_hook_seconds", "Time in which a question of the runtime was answered, by what it asked about and the result.",
		prometheus.ExponentialBucketsRange(0.000001, 2.5, 20), "trigger", "result")
	m.hooks.most = mostOthers
	m.hooks.resolve = func(h Hook) prometheus.Observer { return hooks.WithLabelValues(h.Trigger, h.Result) }
	m.hooks.rest = Hook{other, other}

	m.sessions = counter("meshnetd_session_changes_total", "Times that a session with the runtime began or ended.")
	m.drifts = counter("meshnetd_drift_total", "Times that a pod's rules were found changed after they had been verified.")
	m.repairs = counter("meshnetd_drift_repaired_total", "Times that a pod got its rules again.")
	build := prometheus.NewGauge(prometheus.GaugeOpts{Name: "meshnetd_build_info", Help: "Always 1; the labels say which program this is.",
		ConstLabels: prometheus.Labels{"version": version, "goversion": runtime.Version()}})
	build.Set(1)
	m.registry.MustRegister(outcomes, stages, hooks, m.sessions, m.drifts, m.repairs, build, &reading{state},
		collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// histogram has buckets for every reader, and native ones, ten percent apart, for those that take them.
func histogram(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
	return prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets, NativeHistogramBucketFactor: 1.1,
		NativeHistogramMaxBucketNumber: 100, NativeHistogramMinResetDuration: time.Hour}, labels)
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// Outcome counts what became of a pod.
func (m *Metrics) Outcome(o Outcome) { m.outcomes.get(o).Inc() }

// Stage adds the time that an outcome spent in a stage.
func (m *Metrics) Stage(stage string, spent time.Duration) {
	m.stages.get(stage).Observe(spent.Seconds())
}

// Hook adds the time in which the runtime was answered.
func (m *Metrics) Hook(h Hook, took time.Duration) { m.hooks.get(h).Observe(took.Seconds()) }

// SessionChanged counts that a session with the runtime began or ended.
func (m *Metrics) SessionChanged() { m.sessions.Inc() }

// Drifted counts that a pod's rules were found changed.
func (m *Metrics) Drifted() { m.drifts.Inc() }

// Repaired counts that a pod got its rules again.
func (m *Metrics) Repaired() { m.repairs.Inc() }

// Handler answers with all metrics: as text, as OpenMetrics, or with native histograms in Prometheus' own form,
// whichever is asked for. A few readers are served at once, which takes milliseconds; the next one waits. A reader who
// does not take the answer keeps nobody waiting, since it is complete before it is sent.
func (m *Metrics) Handler() http.Handler {
	gathering := make(chan struct{}, readers)
	answer := promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{EnableOpenMetrics: true})
	return http.TimeoutHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case gathering <- struct{}{}:
			defer func() { <-gathering }()
			answer.ServeHTTP(w, r)
		case <-r.Context().Done():
		}
	}), readLimit, "the daemon does not say in time: something holds it up")
}

// Gatherer returns the same for programs.
func (m *Metrics) Gatherer() prometheus.Gatherer { return m.registry }
