// SPDX-License-Identifier: Apache-2.0

package report

import (
	"fmt"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/internal/golden"
	"github.com/meshnetd/meshnetd/status"
)

var noon = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

// node is a node whose strings all begin with text.
func node(text string) Report {
	say := func(what string) string { return text + what }
	s := status.Status{Version: say("v0.1.0"), Started: noon, Backend: say("iptables"), Connected: true, Since: noon, Synchronized: true, Rejected: say("line 3: no such key"),
		Runtime: &status.Runtime{Name: say("containerd"), Version: say("v2.4.2"), Tier: say("reduced"), Why: say("the validator is off"), Limits: []string{say("a limit")}},
		Events:  map[string]int{say("pod_protected"): 40, say("pod_blocked"): 2},
		Audit:   &status.Audit{Last: noon, Took: status.Milliseconds(12 * time.Millisecond), Pods: 3, Drifted: 1},
		Recent: []status.Event{{Time: noon, Event: say("pod_blocked"), Namespace: say("shop"), Name: say("broken"), Reason: say("bad-input"),
			Message: say("annotation x is no port")}}}
	r := Report{Node: say("node-1"), Written: noon.Add(time.Hour), Status: s}
	for i, took := range []time.Duration{400 * time.Microsecond, 700 * time.Microsecond, 3 * time.Second} {
		sb := status.Sandbox{Namespace: say("shop"), Name: say(fmt.Sprint("cart-", i)), ID: say("abc"), State: "protected", Mesh: say("istio"), Reason: say("injected"), Plan: say("p1"),
			Rules: 21, Backend: say("iptables"), Since: noon, Took: status.Milliseconds(took), Detail: say("its author's annotation")}
		r.Pods = append(r.Pods, Pod{Sandbox: sb, Verdict: &status.Verdict{Result: status.Whole}, Explanation: &status.Explanation{
			Steps: []string{say("injected")}, Notes: []string{say("a note")}, NotCaptured: []status.Gap{{What: say("UDP, ICMP and SCTP")}}}})
	}
	r.Pods[1].Verdict = &status.Verdict{Result: status.Different, Differences: []string{say("a rule is missing")},
		Effect: say("takes less"), Packets: []string{say("tcp to 203.0.113.1:80 leaves")}}
	r.Pods[1].Drift = status.Drift{Times: 2, Last: noon}
	r.Pods[2].State, r.Pods[2].Explanation, r.Pods[2].Verdict, r.Pods[2].Error = say("unprotected"), nil, nil, say("no answer")
	return r
}

func write(t *testing.T, r Report) string {
	t.Helper()
	page, err := r.HTML()
	if err != nil {
		t.Fatal(err)
	}
	return string(page)
}

func TestPages(t *testing.T) {
	golden.Check(t, "node.html", write(t, node("")))
	golden.Check(t, "empty.html", write(t, Report{Node: "node-1", Written: noon}))
}

// Whatever a stranger writes, the page has the elements that it has for a harmless name, and nothing else.
func TestHostile(t *testing.T) {
	elements := regexp.MustCompile(`<[a-zA-Z/!][^>]*>`)
	harmless := write(t, node("x "))
	for _, hostile := range []string{"</title><script>alert(1)</script>", `"><img src=x onerror=alert(1)>`, "' onload='alert(1)", "{{.}}", "-->]]>", "\x00\x1b[31m\u202e", "</style><a href=javascript:alert(1)>"} {
		page := write(t, node(hostile))
		inert := func(page string) []string { // an attribute may have a stranger's text in quotes
			var all []string
			for _, element := range elements.FindAllString(page, -1) {
				all = append(all, regexp.MustCompile(`"[^"]*"`).ReplaceAllString(element, `""`))
			}
			return all
		}
		if diff := cmp.Diff(inert(harmless), inert(page)); diff != "" {
			t.Errorf("%q makes other elements (-harmless +hostile):\n%s", hostile, diff)
		}
		if strings.ContainsAny(page, "\x00\x1b\u202e") {
			t.Errorf("%q is on the page as it is", hostile)
		}
	}
}

// A page needs nothing from elsewhere.
func TestWholeInItself(t *testing.T) {
	page := write(t, node(""))
	for _, what := range []string{"<script", "http:", "https:", "src=", "url(", "@import", "<link"} {
		if strings.Contains(page, what) {
			t.Errorf("the page has %s", what)
		}
	}
}
