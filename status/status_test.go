// SPDX-License-Identifier: Apache-2.0

package status

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
)

func at(minute, second int) time.Time {
	return time.Date(2026, time.November, 21, 4, minute, second, 0, time.UTC)
}

// full has every field set.
func full() Status {
	return Status{
		Version: "v0.3.0", Started: at(10, 1), Backend: "iptables-nft",
		Runtime: &Runtime{
			Name: "containerd", Version: "v2.2.9", Tier: "guaranteed", Why: "it validates containers, and a refused sandbox is taken back",
			Validates: true, TellsUser: false, Limits: []string{"the user of a container is not told", "another limit"},
		},
		Kubelet:   &Kubelet{Socket: "/pods.sock", Condition: "complete", Since: at(10, 1), Pods: 12, Left: 1, LeftWhy: "not read", Known: 3, Asked: 1, Unanswered: 2},
		Connected: true, Since: at(10, 2), Synchronized: true, Waiting: &Waiting{"queue", "waiting in the runtime's queue"},
		Pods:   Counts{"unprotected": 1, "protected": 2, "outdated": 1},
		Events: map[string]int{"pod_protected": 14, "pod_late": 1},
		Recent: []Event{{at(9, 0), "pod_blocked", "shop", "six-events-ago", "f", "istio", "bad-input", "not shown"}, {at(11, 0), "pod_protected", "default", "web", "0123", "istio", "injected", "annotation sidecar.istio.io/status is present"},
			{at(12, 0), "pod_late", "default", "web", "0123", "istio", "injected", "m"}, {at(12, 1), "pod_late", "default", "web", "0123", "istio", "injected", "m"}, {at(12, 2), "pod_late", "default", "web", "0123", "istio", "injected", "m"},
			{at(13, 0), "pod_unprotected", "shop", "a-pod-with-a-longer-name", "abc", "", "bad-input", "quotes:\n\x1b[31mred"}},
		Audit: &Audit{Last: at(20, 0), Took: Milliseconds(12345678 * time.Nanosecond), Pods: 3, Drifted: 1},
		Sandboxes: []Sandbox{{
			Namespace: "default", Name: "web", ID: "0123456789abcdef0123456789abcdef", State: "protected", Reason: "injected",
			Mesh: "istio", Plan: "fedcba9876543210", Source: "nri + kubelet", Rules: 21, Backend: "iptables-nft", Since: at(11, 0),
			Took: Milliseconds(6912 * time.Microsecond), NetNS: "/var/run/netns/cni-0123", Drift: Drift{Times: 3, Last: at(29, 1)}, Detail: "not news",
			CanBypass: "container app (net_admin)", NotHeld: "not held back", Loosened: "port 80 is excluded", Misspelt: []string{"annotation a is read by no mesh: is b meant?"},
		}, {
			Namespace: "shop", Name: "a-pod-with-a-longer-name", ID: "abc", State: "unprotected", Reason: "bad-input", Mesh: "istio",
			Detail: "quotes its author:\n\x1b[31mred\x1b[0m\tand \u202eturned",
		}},
	}
}

func text(s Status) string {
	var b strings.Builder
	s.Text(&b, at(30, 0))
	return b.String()
}

func TestText(t *testing.T) {
	golden.Check(t, "full.text.golden", text(full()))
	golden.Check(t, "new.text.golden", text(Status{Version: "v0.3.0", Started: at(10, 1).In(time.FixedZone("there", 7200)), Backend: "iptables-nft"}))
	lost := full()
	lost.Kubelet = &Kubelet{Socket: "/pods.sock", Condition: "failing", Why: "nobody answers", Pods: 12}
	lost.Connected, lost.Synchronized, lost.Audit, lost.Sandboxes = false, false, nil, nil
	golden.Check(t, "lost.text.golden", text(lost))
	joining := full()
	joining.Kubelet = &Kubelet{Socket: "/pods.sock", Condition: "absent"}
	joining.Synchronized, joining.Runtime.TellsUser, joining.Runtime.Validates, joining.Sandboxes = false, true, false, nil
	golden.Check(t, "joining.text.golden", text(joining))
}

func TestAgo(t *testing.T) {
	for d, want := range map[time.Duration]string{-time.Second: "0s", 0: "0s", 119 * time.Second: "119s", 2 * time.Minute: "2m", 119 * time.Minute: "119m",
		2 * time.Hour: "2h", 47 * time.Hour: "47h", 48 * time.Hour: "2d", 1000 * time.Hour: "41d"} {
		if got := Ago(at(30, 0), at(30, 0).Add(-d)); got != want {
			t.Errorf("%v ago is %s, want %s", d, got, want)
		}
	}
	if got := Ago(at(30, 0), time.Time{}); got != "" {
		t.Errorf("never is %q ago", got)
	}
}

// The names and forms that programs rely on.
func TestJSON(t *testing.T) {
	raw, err := json.Marshal(full())
	if err != nil {
		t.Fatal(err)
	}
	var indented bytes.Buffer
	if err := json.Indent(&indented, raw, "", "  "); err != nil {
		t.Fatal(err)
	}
	golden.Check(t, "full.json.golden", indented.String()+"\n")
	var back Status
	if err := json.Unmarshal(raw, &back); err != nil {
		t.Fatal(err)
	}
	want := full()
	want.Audit.Took = Milliseconds(12345 * time.Microsecond) // the rest is below what is told
	if diff := cmp.Diff(want, back); diff != "" {
		t.Errorf("not what was told (-want +got):\n%s", diff)
	}
}

func TestNoDuration(t *testing.T) {
	var s Sandbox
	if err := json.Unmarshal([]byte(`{"tookMilliseconds": "6ms"}`), &s); err == nil || !strings.Contains(err.Error(), "a duration in milliseconds") {
		t.Errorf("got %v", err)
	}
}

// Absent lists are empty ones for whoever reads the JSON.
func TestEmptyStatus(t *testing.T) {
	socket := socketIn(t)
	runtime, lacks := &Runtime{Name: "containerd"}, []Lack{{}}
	serveFunc(t, socket, "v1", func() Status { return Status{Version: "v1", Runtime: runtime, Lacks: lacks} })
	got := say(t, socket, "GET /v1/status HTTP/1.0\r\n\r\n")
	for _, want := range []string{`"pods":{}`, `"events":{}`, `"recentEvents":[]`, `"sandboxes":[]`, `"limits":[]`, `"pods":[]`, "Content-Type: application/json"} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in %s", want, got)
		}
	}
	if runtime.Limits != nil || lacks[0].Pods != nil {
		t.Error("the daemon's own status was changed")
	}
}
