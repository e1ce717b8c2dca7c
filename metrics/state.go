// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// State is what there is to tell at one moment.
type State struct {
	Connected bool // there is a session with the runtime
	Ready     bool
	Waiting   map[string]bool // why there is no session, by each cause there is
	Runtime   *Runtime        // of the last session; nil before the first
	Backend   string          // what writes the rules
	Sandboxes map[string]int
	// IPv6Around is how many pods have IPv6 that goes around their proxy, by mesh; 0 of a mesh where none has.
	IPv6Around map[string]int
	// NotHeld is how many pods have nothing that keeps their containers back while meshnetd is away, by why; each why there is.
	NotHeld map[string]int
	// CanBypass is how many pods have a container that can go around their rules, by how; each way there is, and unknown.
	CanBypass map[string]int
	// Lockdown is how many packets lockdowns have counted since the start.
	Lockdown map[Locked]uint64
	Kubelet  *Kubelet      // nil where nobody asks it
	Audit    *Audit        // the last one; nil before the first
	Interval time.Duration // of the auditor
	Audited  time.Duration // how long ago that was, or the daemon began

	LinesLost int64 // of the log, since the start

	Rejected bool      // the configuration that was read last is not in force
	Reloaded time.Time // when the one in force was read
}

// Locked is which packets are counted together: of a namespace's pods, by class, and whether they were "counted" only or "closed".
type Locked struct{ Namespace, Class, Action string }

// Runtime is the container runtime.
type Runtime struct{ Name, Version, Tier string }

// Kubelet is how the kubelet tells of its pods.
type Kubelet struct {
	Complete bool           // it tells all of them
	Pods     int            // that are known
	Started  map[string]int // pods of the mesh, by how they were known when they started
}

// Audit is a look at all protected pods.
type Audit struct {
	Ended time.Time
	Took  time.Duration
}

// reading makes metrics of the state.
type reading struct{ state func() State }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("meshnetd_"+name, help, labels, nil)
}

var (
	connected = desc("session_connected", "1 while there is a session with the runtime.")
	ready     = desc("ready", "1 while there is a session with the runtime, and pods that were there before it are taken over, or were tried for 20 seconds.")
	waiting   = desc("session_waiting", "1 while this is the cause that there is no session with the runtime.", "cause")
	runtimes  = desc("runtime_info", "Always 1; the labels say which runtime it is, and how far the promise holds with it.", "name", "version", "tier")
	backend   = desc("backend_info", "Always 1; the label says what writes the rules.", "backend")
	sandboxes = desc("sandboxes", "Pods of the mesh on this node, by what is known of them.", "state")
	around    = desc("sandboxes_ipv6_around", "Pods whose IPv6 goes around their proxy, which does not speak it, by mesh.", "mesh")
	notHeld   = desc("sandboxes_not_held", "Pods of which nothing keeps containers back while meshnetd is away, as far as they have shown it, by why.", "why")
	bypass    = desc("sandboxes_can_bypass", "Pods with a container that can go around their rules, by how, as far as the kubelet tells.", "way")
	locked    = desc("lockdown_packets_total", "Packets of pods that lockdowns counted, or closed, by the pod's namespace and the class.", "namespace", "class", "action")
	told      = desc("kubelet_complete", "1 while the kubelet tells all of its pods.")
	toldPods  = desc("kubelet_pods", "Pods that are known by the kubelet.")
	started   = desc("kubelet_pods_started_total", "Pods of the mesh that started, by how they were known by the kubelet: known, asked, unanswered.", "how")
	age       = desc("audit_age_seconds", "Time since the auditor last came around, or since the start.")
	last      = desc("audit_last_timestamp_seconds", "When the auditor last came around.")
	took      = desc("audit_duration_seconds", "Time that the last pass of the auditor took, without its pauses.")
	interval  = desc("audit_interval_seconds", "Time in which every protected pod is to be read once.")
	linesLost = desc("log_dropped_total", "Lines that are missing in the log, which was read too slowly.")
	reloaded  = desc("config_last_reload_successful", "1 if the configuration that was read last is in force.")
	reloadedT = desc("config_last_reload_success_timestamp_seconds", "When the configuration in force was read.")
)

// Describe names the metrics.
func (r *reading) Describe(to chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{connected, ready, waiting, runtimes, backend, sandboxes, around, notHeld, bypass, locked, told, toldPods, started, age, last, took, interval, linesLost, reloaded, reloadedT} {
		to <- d
	}
}

// Collect asks for the state.
func (r *reading) Collect(to chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, value float64, labels ...string) {
		for i := range labels { // a runtime may call itself anything, and Prometheus panics on invalid UTF-8
			labels[i] = strings.ToValidUTF8(labels[i], "?")
		}
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, value, labels...)
	}
	s := r.state()
	gauge(connected, number(s.Connected))
	gauge(ready, number(s.Ready))
	for cause, is := range s.Waiting {
		gauge(waiting, number(is), cause)
	}
	if rt := s.Runtime; rt != nil {
		gauge(runtimes, 1, rt.Name, rt.Version, rt.Tier)
	}
	gauge(backend, 1, s.Backend)
	for state, n := range s.Sandboxes {
		gauge(sandboxes, float64(n), state)
	}
	for mesh, n := range s.IPv6Around {
		gauge(around, float64(n), mesh)
	}
	for why, n := range s.NotHeld {
		gauge(notHeld, float64(n), why)
	}
	for way, n := range s.CanBypass {
		gauge(bypass, float64(n), way)
	}
	for of, n := range s.Lockdown {
		to <- prometheus.MustNewConstMetric(locked, prometheus.CounterValue, float64(n), of.Namespace, of.Class, of.Action)
	}
	if k := s.Kubelet; k != nil {
		gauge(told, number(k.Complete))
		gauge(toldPods, float64(k.Pods))
		for how, n := range k.Started {
			to <- prometheus.MustNewConstMetric(started, prometheus.CounterValue, float64(n), how)
		}
	}
	gauge(age, s.Audited.Seconds())
	gauge(interval, s.Interval.Seconds())
	if a := s.Audit; a != nil {
		gauge(last, seconds(a.Ended))
		gauge(took, a.Took.Seconds())
	}
	to <- prometheus.MustNewConstMetric(linesLost, prometheus.CounterValue, float64(s.LinesLost))
	gauge(reloaded, number(!s.Rejected))
	gauge(reloadedT, seconds(s.Reloaded))
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}

func seconds(t time.Time) float64 { return float64(t.UnixNano()) / 1e9 }
