// SPDX-License-Identifier: Apache-2.0

//go:build linux

package istio

import (
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/speed"
)

// way is one way to start a pod.
type way struct {
	name    string
	pod     pod
	samples []time.Duration
}

// TestNumbers writes how long pods take from their creation to Ready with a real proxy, and judges nothing. The rounds go through
// all ways, back and forth, so that a machine that becomes slower does so for all.
func TestNumbers(t *testing.T) {
	out, rounds := os.Getenv("MESHNETD_NUMBERS"), 6
	if out == "" {
		t.Skip("runs by make bench-kube")
	}
	if given, err := strconv.Atoi(os.Getenv("MESHNETD_ROUNDS")); err == nil {
		rounds = given
	}
	m := beside(t)
	m.System(t)
	meshed := pod{namespace: "transparent"} // where istio-init is allowed
	setups := []struct {
		prepare func()
		ways    []*way
	}{
		{func() {
			m.withoutAgent(t)
			m.follow(t, "istioctl install -f packaging/istio/istioctl.yaml -f packaging/istio/istioctl-without-validation.yaml")
			m.meshnetd(t, "")
		}, []*way{
			{name: "no mesh, meshnetd connected", pod: pod{namespace: "elsewhere"}},
			{name: "meshnetd, without istio-validation", pod: meshed},
			{name: "meshnetd, with istio-validation", pod: pod{namespace: "transparent", annotations: map[string]string{"inject.istio.io/templates": "sidecar"}}},
		}},
		{func() {
			m.withoutAgent(t)
			m.follow(t, "helm uninstall meshnetd -n meshnetd-system --ignore-not-found")
			m.follow(t, "istioctl install")
		}, []*way{{name: "istio-init, no meshnetd", pod: meshed}}},
		{func() {
			m.follow(t, "helm uninstall meshnetd -n meshnetd-system --ignore-not-found")
			m.follow(t, agentInstall)
			if err := m.chained(t.Context(), t); err != nil {
				t.Fatal(err)
			}
		}, []*way{{name: "istio-cni, no meshnetd", pod: meshed}}},
	}
	before := load(t)
	for round := range rounds {
		for _, s := range setups {
			s.prepare()
			for _, w := range s.ways {
				m.sample(t, w, round)
			}
		}
		slices.Reverse(setups)
	}
	if rounds%2 == 1 {
		slices.Reverse(setups)
	}
	table := "| | median | quartiles | ratio |\n|---|--:|--:|--:|\n"
	base := time.Duration(0)
	for _, s := range setups {
		for _, w := range s.ways {
			median := speed.Quantile(w.samples, 50)
			if base == 0 {
				base = median
			}
			table += fmt.Sprintf("| %s | %d ms | %d to %d | %.2f |\n", w.name, median.Milliseconds(), speed.Quantile(w.samples, 25).Milliseconds(),
				speed.Quantile(w.samples, 75).Milliseconds(), float64(median)/float64(base))
		}
	}
	table += fmt.Sprintf("\n%s, %d pods of each; the load was %s before and %s after, on %d cores.\n", time.Now().UTC().Format(time.DateOnly),
		rounds*podsOfRound, before, load(t), runtime.NumCPU())
	if err := os.WriteFile(out, []byte(table), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Log(table)
}

// podsOfRound are made one after the other.
const podsOfRound = 3

func (m *mesh) sample(t *testing.T, w *way, round int) {
	t.Helper()
	var names []string
	for i := range podsOfRound {
		p := w.pod
		p.name = fmt.Sprintf("pod-%d-%d", round, i)
		spread(t, i)
		w.samples = append(w.samples, m.Started(t, p.manifest()))
		names = append(names, p.name)
	}
	m.Kubectl(t, append([]string{"-n", w.pod.namespace, "delete", "pod", "--now"}, names...)...)
}

// spread waits for the i-th part of a second of the clock. The kubelet looks at its containers once a second, and a pod
// waits for that: one that is made as soon as the last one is ready would always wait as long as the last one did.
func spread(t *testing.T, i int) {
	t.Helper()
	now := time.Now()
	next := now.Truncate(time.Second).Add(time.Duration(i) * time.Second / podsOfRound)
	if next.Before(now) {
		next = next.Add(time.Second)
	}
	select {
	case <-time.After(next.Sub(now)):
	case <-t.Context().Done():
		t.Fatal(t.Context().Err())
	}
}

// withoutAgent takes Istio's plugin from the node.
func (m *mesh) withoutAgent(t *testing.T) {
	t.Helper()
	m.Kubectl(t, "-n", "istio-system", "delete", "daemonset", "istio-cni-node", "--ignore-not-found", "--cascade=foreground", "--wait")
	if err := m.chain(t.Context(), false); err != nil {
		t.Fatal(err)
	}
}

func load(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		t.Fatal(err)
	}
	return strings.Fields(string(text))[0]
}
