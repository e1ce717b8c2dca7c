// SPDX-License-Identifier: Apache-2.0

//go:build linux

package packaging

import (
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/metrics"
	"github.com/meshnetd/meshnetd/nriplugin"
	"github.com/meshnetd/meshnetd/rules"
)

// series are the values of each label, by label, of a metric as queries name it.
type series map[string]map[string]bool

// notShown are metrics that no panel and no alert needs, and for whom they are.
var notShown = map[string]string{
	"meshnetd_audit_last_timestamp_seconds": "for those who compare clocks; the age is shown",
	"meshnetd_kubelet_complete":             "for those who ask for the kubelet's word; status and doctor say so, and rules hold without it",
	"meshnetd_kubelet_pods":                 "beside it",
	"meshnetd_kubelet_pods_started_total":   "beside it",
}

// exported reads the registry that the daemon has, with every kind of outcome in it.
func exported(t *testing.T) map[string]series {
	t.Helper()
	m := metrics.New("v1", []string{"decide", "enter", "apply", "verify", "budget"}, func() metrics.State {
		states := map[string]int{}
		for _, s := range lifecycle.States {
			states[string(s)] = 1
		}
		causes := map[string]bool{}
		for _, c := range nriplugin.Causes {
			causes[string(c)] = true
		}
		ways := map[string]int{}
		for _, way := range rules.Ways {
			ways[string(way)] = 1
		}
		return metrics.State{Waiting: causes, Runtime: &metrics.Runtime{Name: "containerd", Version: "v1", Tier: string(nriplugin.BestEffort)}, Backend: "iptables",
			Sandboxes: states, IPv6Around: map[string]int{"istio": 1}, Lockdown: map[metrics.Locked]uint64{{Namespace: "shop", Class: "udp", Action: "counted"}: 1, {Namespace: "shop", Class: "invalid", Action: "closed"}: 1}, NotHeld: map[string]int{string(memory.ValidatorOff): 1, string(memory.NotRequired): 1}, CanBypass: ways,
			Kubelet: &metrics.Kubelet{Started: map[string]int{"known": 1}}, Audit: &metrics.Audit{Ended: time.Now(), Took: time.Second}}
	})
	for _, event := range []string{outcome.EventProtected, outcome.EventRefined, outcome.EventLate, outcome.EventOutdated, outcome.EventUnproven, outcome.EventSkipped, outcome.EventBlocked,
		outcome.EventUnprotected, outcome.EventStopped, outcome.EventReaddressed, outcome.EventImpostor, outcome.EventLoose, outcome.EventBypass, outcome.EventContradicted, outcome.EventLockdown, outcome.EventUnmeshed, outcome.EventNeighbour, outcome.EventDrift, outcome.EventRepaired} {
		m.Outcome(metrics.Outcome{Event: event, Reason: string(rules.ReasonInjected), Mesh: "istio"})
	}
	for _, trigger := range []lifecycle.Trigger{lifecycle.SandboxStarted, lifecycle.ContainerCreated, lifecycle.ContainerValidated, lifecycle.ContainerStarted} {
		for _, result := range []lifecycle.Result{lifecycle.Protected, lifecycle.Skipped, lifecycle.Refused, lifecycle.Failed, lifecycle.Unproven, lifecycle.Unprotected} {
			m.Hook(metrics.Hook{Trigger: string(trigger), Result: string(result)}, time.Millisecond)
		}
	}
	for _, stage := range outcome.Stages {
		m.Stage(string(stage), time.Millisecond)
	}
	m.SessionChanged()
	m.Drifted()
	m.Repaired()
	families, err := m.Gatherer().Gather()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]series{"up": {"job": nil, "instance": nil}} // Prometheus' own
	for _, family := range families {
		names := []string{family.GetName()}
		if len(family.GetMetric()) > 0 && family.GetMetric()[0].GetHistogram() != nil {
			names = []string{family.GetName() + "_bucket", family.GetName() + "_sum", family.GetName() + "_count"}
		}
		for _, name := range names {
			all[name] = series{"job": nil, "instance": nil} // nil is any value
			if strings.HasSuffix(name, "_bucket") {
				all[name]["le"] = nil
			}
			for _, metric := range family.GetMetric() {
				for _, l := range metric.GetLabel() {
					if all[name][l.GetName()] == nil {
						all[name][l.GetName()] = map[string]bool{}
					}
					all[name][l.GetName()][l.GetValue()] = true
				}
			}
		}
	}
	return all
}

type rule struct {
	Alert       string
	Expr        string
	For         string
	Labels      map[string]string
	Annotations map[string]string
}

func alerts(t *testing.T) []rule {
	t.Helper()
	var file struct {
		Groups []struct {
			Name  string
			Rules []rule
		}
	}
	if n := decodeAll(t, "prometheus/meshnetd.rules.yaml", &file); n != 1 || len(file.Groups) != 1 {
		t.Fatalf("%d documents, %d groups", n, len(file.Groups))
	}
	return file.Groups[0].Rules
}

type panel struct {
	ID      int
	Title   string
	GridPos struct{ H, W, X, Y int }
	Targets []struct{ Expr string }
}

func panels(t *testing.T) []panel {
	t.Helper()
	text, err := os.ReadFile("grafana/meshnetd.json")
	if err != nil {
		t.Fatal(err)
	}
	var dashboard struct{ Panels []panel }
	if err := json.Unmarshal(text, &dashboard); err != nil {
		t.Fatal(err)
	}
	return dashboard.Panels
}

// A query that names what does not exist is empty for ever, and nobody notices.
func TestQueriesAskForWhatIsExported(t *testing.T) {
	known := exported(t)
	queries := map[string]string{}
	for _, r := range alerts(t) {
		queries["alert "+r.Alert] = r.Expr
	}
	for _, p := range panels(t) {
		for i, target := range p.Targets {
			queries[fmt.Sprintf("panel %q %d", p.Title, i)] = target.Expr
		}
	}
	used := map[string]bool{}
	for where, query := range queries {
		names, problems := check(query, known)
		for _, problem := range problems {
			t.Errorf("%s: %s, in %s", where, problem, query)
		}
		for _, name := range names {
			used[name] = true
		}
	}
	for _, name := range slices.Sorted(maps.Keys(known)) {
		base := regexp.MustCompile(`_(bucket|sum|count)$`).ReplaceAllString(name, "")
		shown := used[name] || used[base+"_bucket"]
		if strings.HasPrefix(name, "meshnetd_") && shown == (notShown[name] != "") {
			t.Errorf("%s is shown: %v, and reason not to: %q", name, shown, notShown[name])
		}
	}
}

func TestAlerts(t *testing.T) {
	known := exported(t)
	seen := map[string]bool{}
	for _, r := range alerts(t) {
		if !strings.HasPrefix(r.Alert, "Meshnetd") || seen[r.Alert] {
			t.Errorf("%s: its name is no Meshnetd..., or another one's", r.Alert)
		}
		seen[r.Alert] = true
		if s := r.Labels["severity"]; s != "critical" && s != "warning" && s != "info" {
			t.Errorf("%s: severity %q", r.Alert, s)
		}
		if _, err := time.ParseDuration(r.For); err != nil {
			t.Errorf("%s: for: %v", r.Alert, err)
		}
		if r.Annotations["summary"] == "" || !regexp.MustCompile(`(?i)on (the|a) node: (meshnetd|journalctl|systemctl) `).MatchString(r.Annotations["description"]) {
			t.Errorf("%s: no summary, or no command to begin with: %v", r.Alert, r.Annotations)
		}
		// A label that the query leaves out, or no metric of it has, is shown as nothing.
		names, _ := check(r.Expr, known)
		for _, label := range regexp.MustCompile(`\$labels\.(\w+)`).FindAllStringSubmatch(fmt.Sprint(r.Annotations), -1) {
			by := regexp.MustCompile(`sum by \(([^)]*)\)`).FindStringSubmatch(r.Expr)
			if by != nil && !slices.Contains(strings.Split(by[1], ", "), label[1]) {
				t.Errorf("%s: the query leaves out %s", r.Alert, label[1])
			}
			if !slices.ContainsFunc(names, func(name string) bool { _, has := known[name][label[1]]; return has }) {
				t.Errorf("%s: no metric of the query has %s", r.Alert, label[1])
			}
		}
	}
}

func TestPanels(t *testing.T) {
	all := panels(t)
	ids := map[int]bool{}
	for i, p := range all {
		if p.Title == "" || len(p.Targets) == 0 || ids[p.ID] || p.GridPos.W == 0 || p.GridPos.H == 0 || p.GridPos.X+p.GridPos.W > 24 {
			t.Errorf("panel %d: %+v", i, p)
		}
		ids[p.ID] = true
		for _, q := range all[:i] {
			a, b := p.GridPos, q.GridPos
			if a.X < b.X+b.W && b.X < a.X+a.W && a.Y < b.Y+b.H && b.Y < a.Y+a.H {
				t.Errorf("%q lies on %q", p.Title, q.Title)
			}
		}
	}
}

// Each state that somebody has to look at has an alert that counts its pods. What is ready again after some seconds, whatever
// becomes of a pod, waits for none.
func TestBadStatesHaveAlerts(t *testing.T) {
	for _, state := range []lifecycle.State{lifecycle.StatePending, lifecycle.StateFailing, lifecycle.StateUnproven, lifecycle.StateUnprotected} {
		if !slices.ContainsFunc(alerts(t), func(r rule) bool {
			asked := regexp.MustCompile(`^meshnetd_sandboxes\{state=~?"([a-z|]+)"\} > 0$`).FindStringSubmatch(r.Expr)
			return asked != nil && slices.Contains(strings.Split(asked[1], "|"), string(state))
		}) {
			t.Errorf("no alert for pods that are %s", state)
		}
	}
	for _, r := range alerts(t) {
		if strings.Contains(r.Expr, "meshnetd_ready") {
			t.Errorf("%s waits for what a pending pod changes for some seconds only", r.Alert)
		}
	}
}

// A pod that was refused at its sandbox has none by which a command on the node could name it.
func TestAlertsNameRefusedPodsByManifest(t *testing.T) {
	for _, r := range alerts(t) {
		if said := r.Annotations["description"]; strings.Contains(r.Expr, "pod_blocked") && (!strings.Contains(said, "meshnetd explain -f pod.yaml") || strings.Contains(said, "explain NAMESPACE")) {
			t.Errorf("%s: %s", r.Alert, said)
		}
	}
}
