// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/status"
)

const inShop = "/api/v1/namespaces/shop/pods/"

// meshed is a pod as the API server has it.
func meshed(name, node, annotations string) string {
	return `{"kind":"Pod","apiVersion":"v1","metadata":{"name":"` + name + `","namespace":"shop","labels":{"app":"cart"},
		"annotations":{"sidecar.istio.io/status":"{}"` + annotations + `}},"spec":{"nodeName":"` + node + `","containers":[{"name":"app","image":"a"},
		{"name":"istio-proxy","image":"b","args":["proxy","sidecar"],"securityContext":{"runAsUser":1337,"runAsGroup":1337}}]},
		"status":{"phase":"Running","podIPs":[{"ip":"10.244.1.7"}]}}`
}

func explained(t *testing.T, f *fake, args ...string) []status.Explanation {
	t.Helper()
	code, out, errs := f.asked(t, append([]string{"explain", "-o", "json"}, args...)...)
	var all []status.Explanation
	if err := json.Unmarshal([]byte(out), &all); err != nil || code != 0 {
		t.Fatalf("explain %v: exit %d, %v: %s%s", args, code, err, out, errs)
	}
	return all
}

// The pod's daemon is asked; of a workload, that of each pod that has not ended.
func TestExplain(t *testing.T) {
	f := &fake{nodes: []string{"a", "b"}, daemons: map[string]http.Handler{"a": healthy(sandbox("web-1", "protected")), "b": healthy(sandbox("web-2", "protected"))},
		objects: map[string]string{
			inShop + "web-1": meshed("web-1", "a", ""),
			"/apis/apps/v1/namespaces/shop/deployments/web": `{"spec":{"selector":{"matchLabels":{"app":"cart"},"matchExpressions":[{"key":"x","operator":"Exists"}]}}}`,
			"/apis/batch/v1/namespaces/shop/jobs/once":      `{"spec":{"selector":{"matchLabels":{"job":"once"}}}}`,
			"/api/v1/namespaces/shop/services/front":        `{"spec":{"selector":{"app":"cart"}}}`,
			"/api/v1/namespaces/shop/services/outside":      `{"spec":{}}`,
		},
		pods: func(string, int) ([]string, bool) {
			return []string{meshed("web-1", "a", ""), meshed("web-2", "b", ""), strings.Replace(meshed("web-0", "a", ""), "Running", "Succeeded", 1)}, false
		}}
	for args, want := range map[string]string{"web-1": "web-1", "pod/web-1": "web-1", "web": "web-1 web-2", "deploy/web": "web-1 web-2",
		"job/once": "web-1 web-2", "svc/front": "web-1 web-2", "front": "web-1 web-2"} {
		var names []string
		for _, x := range explained(t, f, args) {
			names = append(names, x.Name)
		}
		if got := strings.Join(names, " "); got != want {
			t.Errorf("explain %s is about %s, want %s", args, got, want)
		}
	}
	code, out, _ := f.asked(t, "explain", "web-1")
	if diff := cmp.Diff("pod shop/web-1\nmesh: istio\ndecision: redirect (injected: d)\n\n", out); code != 0 || diff != "" {
		t.Errorf("exit %d (-want +got):\n%s", code, diff)
	}
	before := sandbox("web-1", "protected") // one that the runtime has not taken away yet
	before.ID, before.Since, before.Live = "id-before", time.Unix(1, 0), reasons{}
	now := sandbox("web-1", "protected")
	now.Since = time.Unix(2, 0)
	f.daemons["a"] = healthy(now, before)
	if x := explained(t, f, "web-1"); x[0].Name != "web-1" {
		t.Errorf("the sandbox before is explained: %+v", x)
	}
	for args, want := range map[string]string{"nobody": "namespace shop has no pod nobody", "svc/outside": "it selects no pods", "bank/web": "bank is no kind that has pods",
		"deploy/nobody": "find deployment shop/nobody"} {
		if code, _, errs := f.asked(t, "explain", args); code != exitFailed || !strings.Contains(errs, want) {
			t.Errorf("explain %s: exit %d, no %q in %s", args, code, want, errs)
		}
	}
}

// A pod that its daemon does not know is decided here, as the node's configuration has it, and that is said.
func TestExplainWhatTheDaemonDoesNotKnow(t *testing.T) {
	f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy()}, mesh: "[istio]\noutbound_port = 15099\n", objects: map[string]string{
		inShop + "web":     meshed("web", "a", ""),
		inShop + "bad":     meshed("bad", "a", `,"traffic.sidecar.istio.io/includeInboundPorts":"http"`),
		inShop + "waiting": meshed("waiting", "", ""),
		inShop + "lonely":  meshed("lonely", "b", ""),
	}}
	x := explained(t, f, "web")[0]
	if x.Action != "redirect" || !strings.Contains(x.Notes[0], "node a does not know this pod") || !strings.Contains(x.Notes[0], "ConfigMap meshnetd-system/meshnetd") {
		t.Errorf("%+v", x)
	}
	ports := ""
	for _, r := range x.Rules {
		ports += r.Rule + "\n"
	}
	if !strings.Contains(ports, "--to-ports 15099") {
		t.Errorf("not by the node's configuration:\n%s", ports)
	}
	if code, out, errs := f.asked(t, "explain", "bad"); code != exitRefused || !strings.Contains(out, "is not a port") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	for name, want := range map[string]string{"waiting": "it is on no node yet", "lonely": "no pod of meshnetd is there"} {
		if code, _, errs := f.asked(t, "explain", name); code != exitFailed || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, no %q in %s", name, code, want, errs)
		}
	}
}
