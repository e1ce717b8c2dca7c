// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/manifest"
	"github.com/meshnetd/meshnetd/status"
)

// holding is a pod as its daemon knows it, with the rules that the built-in configuration gives it.
func holding(t testing.TB, item string) status.Sandbox {
	t.Helper()
	read, err := manifest.Item([]byte(item))
	if err != nil {
		t.Fatal(err)
	}
	v := explain.Plan(config.Default(), read)
	return status.Sandbox{Namespace: read.Namespace, Name: read.Name, ID: "id-" + read.Name, State: "protected", Mesh: "istio", Plan: v.Plan.Key(),
		Live: reasons{x: explain.Of(v, explain.Assumed(read.IPs)).Complete()}}
}

// planned pods are compared with what their daemons say they hold.
func TestPlan(t *testing.T) {
	const less = `,"traffic.sidecar.istio.io/excludeOutboundPorts":"443"`
	const more = `,"traffic.sidecar.istio.io/includeInboundPorts":"8080"`
	items := []string{
		meshed("same", "a", ""), meshed("bad", "a", `,"traffic.sidecar.istio.io/includeInboundPorts":"http"`), meshed("new", "a", ""),
		meshed("less", "a", less), meshed("more", "a", ""), meshed("quiet", "b", ""),
		`{"metadata":{"namespace":"shop","name":"outside"},"spec":{"nodeName":"a","containers":[{"name":"app"}]}}`,
		`{"metadata":{"namespace":"shop","name":"left"},"spec":{"nodeName":"a","containers":[{"name":"app"}]}}`,
		strings.Replace(meshed("over", "a", ""), "Running", "Succeeded", 1),
	}
	left := holding(t, meshed("left", "a", ""))
	f := &fake{nodes: []string{"a", "b"}, daemons: map[string]http.Handler{"b": unreachable,
		"a": healthy(holding(t, items[0]), holding(t, meshed("less", "a", "")), holding(t, meshed("more", "a", more)), left)},
		pods: func(_ string, page int) ([]string, bool) { return items[page*3 : page*3+3], page < 2 }}
	code, out, errs := f.asked(t, "plan", "-o", "json")
	var told struct {
		Pods  []planned
		Total map[outcome]int
	}
	if err := json.Unmarshal([]byte(out), &told); err != nil || code != exitRefused || !strings.Contains(errs, "node b: ") {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, errs)
	}
	got := map[string]string{}
	for _, p := range told.Pods {
		got[p.Name] = string(p.Outcome) + ": " + p.Why
	}
	for name, want := range map[string][]string{
		"bad": {"refused: ", "is not a port"}, "new": {"new: without rules of its daemon's as yet"}, "quiet": {"new: its node does not say what it has"},
		"less": {"loosened: tcp ", ":443"}, "more": {"changed: other rules, which let go nothing"}, "left": {"loosened: it has rules, and would be left alone"},
	} {
		for _, part := range want {
			if !strings.Contains(got[name], part) {
				t.Errorf("%s: %q, want %q", name, got[name], part)
			}
		}
	}
	if diff := cmp.Diff(map[outcome]int{unchanged: 1, fresh: 2, changed: 1, loosened: 2, refused: 1, outside: 1}, told.Total); diff != "" || len(told.Pods) != 6 {
		t.Errorf("%d pods (-want +got):\n%s", len(told.Pods), diff)
	}
	// Another port is another listener, and one that is bad decides nothing.
	f.nodes, f.mesh = []string{"a"}, "[istio]\noutbound_port = 15099\n"
	items = []string{items[0], items[6], items[8]}
	f.pods = func(string, int) ([]string, bool) { return items, false }
	if code, out, errs := f.asked(t, "plan"); code != exitUnprotected || !strings.Contains(out, "port 15099") || !strings.Contains(out, "ConfigMap meshnetd-system/meshnetd") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	f.mesh = "outbound = 1\n"
	if code, _, errs := f.asked(t, "plan"); code != exitFailed || !strings.Contains(errs, "ConfigMap meshnetd-system/meshnetd:1: outbound: unknown key") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// A packet is traced through the rules that the daemon tells.
func TestTrace(t *testing.T) {
	item := meshed("web", "a", "")
	f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy(holding(t, item))}, objects: map[string]string{inShop + "web": item}}
	code, out, errs := f.asked(t, "trace", "web", "tcp", "203.0.113.10:443")
	for _, want := range []string{"pod shop/web", "from 10.244.1.7:40000", "ends: to the proxy's outbound listener, port 15001"} {
		if code != 0 || !strings.Contains(out, want) {
			t.Errorf("exit %d, no %q: %s%s", code, want, out, errs)
		}
	}
	if code, _, errs := f.asked(t, "trace", "web", "icmp", "203.0.113.10:443"); code != exitBadLine || !strings.Contains(errs, "not tcp or udp") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// What is expected of a pod is tested by the rules that its daemon tells.
func TestExpected(t *testing.T) {
	item := meshed("web", "a", "")
	f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy(holding(t, item))}, objects: map[string]string{inShop + "web": item}}
	for lines, want := range map[string]struct {
		code int
		said string
	}{
		`"tcp out 443" = "proxy 15001"`:                              {0, "1 packets: 1 ended as expected, 0 elsewhere\n"},
		"\"tcp in 8080\" = \"proxy\"\n\"udp out 443\" = \"blocked\"": {exitUnprotected, "elsewhere  udp out 443: blocked\n    FILE:3, in pod shop/web\n"},
		`"tcp out 443" = "x"`:                                        {exitBadLine, "FILE:2: tcp out 443: \"x\" is no end of a packet"},
	} {
		file := filepath.Join(t.TempDir(), "expect.toml")
		if err := os.WriteFile(file, []byte("[expect]\n"+lines+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		code, out, errs := f.asked(t, "test", "-f", file, "web")
		if said := strings.ReplaceAll(out+errs, file, "FILE"); code != want.code || !strings.Contains(said, want.said) {
			t.Errorf("%s: exit %d, want %d, %q: %s", lines, code, want.code, want.said, said)
		}
	}
	if code, _, errs := f.asked(t, "test", "-f", "/nowhere.toml", "web"); code != exitFailed || !strings.Contains(errs, "expectations: open") {
		t.Errorf("exit %d: %s", code, errs)
	}
}

// Events of all nodes are one list, by time.
func TestEvents(t *testing.T) {
	event := func(second int, namespace, name string) string {
		return fmt.Sprintf(`{"time":"2026-11-28T10:00:%02dZ","event":"pod_late","namespace":%q,"name":%q,"reason":"r","message":"m"}`, second, namespace, name)
	}
	says := func(events ...string) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, `{"recentEvents":[%s]}`, strings.Join(events, ","))
		})
	}
	f := &fake{nodes: []string{"a", "b"}, daemons: map[string]http.Handler{
		"a": says(event(1, "shop", "one"), event(3, "shop", "three")), "b": says(event(2, "shop", "two"), event(4, "bank", "four"))}}
	code, out, errs := f.asked(t, "events")
	if code != 0 || errs != "" {
		t.Errorf("exit %d: %s", code, errs)
	}
	if diff := cmp.Diff(`TIME                  NODE  EVENT             POD                               REASON          MESSAGE
2026-11-28 10:00:01   a     pod_late          shop/one                          r               m
2026-11-28 10:00:02   b     pod_late          shop/two                          r               m
2026-11-28 10:00:03   a     pod_late          shop/three                        r               m
`, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	if _, out, _ := f.asked(t, "events", "-A", "-o", "json"); strings.Count(out, "\n") != 4 || !strings.Contains(out, `"node":"b"`) {
		t.Errorf("%s", out)
	}
}
