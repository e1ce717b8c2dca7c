// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStatus(t *testing.T) {
	f := &fake{nodes: []string{"node-a", "node-b", "old", "by-systemd", "down"}, daemons: map[string]http.Handler{
		"node-a": healthy(sandbox("web", "protected"), sandbox("cart", "outdated"), sandbox("left-alone", "skipped")),
		"node-b": healthy(sandbox("bare", "unprotected"), sandbox("slow", "failing"), sandbox("new", "a state of a newer daemon")),
		"old":    http.NotFoundHandler(),
		"down":   unreachable,
	}}
	code, out, errs := f.asked(t, "status", "--parallel", "1")
	if code != exitUnprotected {
		t.Errorf("exit %d", code)
	}
	if diff := cmp.Diff(`NODE        VERSION         RUNTIME             TIER         BACKEND       PROTECTED  FAILING  UNPROTECTED  LOOSENED  GAPS
node-a      v0.3.0          containerd v2.4.2   guaranteed   iptables-nft  2          0        0            0         0
node-b      v0.3.0          containerd v2.4.2   guaranteed   iptables-nft  0          2        1            0         0
total       2 nodes         -                   -            -             2          2        1            0         0
`, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, want := range []string{"node by-systemd: no pod of meshnetd is there: it runs by systemd", "node down: ask meshnetd-down: ", "nobody listens on port 15990",
		"node old: ask meshnetd-old: ", "its status is not served there: metrics.status", "3 pods are not protected, and nothing is known of 3 nodes"} {
		if !strings.Contains(errs, want) {
			t.Errorf("no %q in\n%s", want, errs)
		}
	}
	one := sandbox("six", "protected")
	one.Around, one.NotHeld = true, "the pod does not require meshnetd"
	powerful, loose, left := sandbox("powerful", "protected"), sandbox("loose", "outdated"), sandbox("left", "exempt")
	powerful.CanBypass, loose.Loosened, left.Loosened = "container app (net_admin)", "port 80", "the proxy's mode is NONE"
	f = &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy(one, powerful, loose, left)}}
	if code, out, errs := f.asked(t, "status", "-o", "wide"); code != 0 || errs != "" || !strings.Contains(out, "CAN-BYPASS  OUTDATED  NOT-HELD") || !strings.Contains(out, "connected") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	var document struct{ Total tally }
	if code, out, _ := f.asked(t, "status", "-o", "json"); code != 0 || json.Unmarshal([]byte(out), &document) != nil {
		t.Errorf("exit %d: %s", code, out)
	}
	if diff := cmp.Diff(tally{Protected: 3, Outdated: 1, Loosened: 2, Gaps: 3, Around: 1, CanBypass: 1, NotHeld: 1}, document.Total); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// Whatever becomes of the nodes, each is in the answer once, as one that answers or as one that does not; and a node that does not
// makes the exit code another one than 0.
func TestNoNodeIsLeftOut(t *testing.T) {
	draw := rand.New(rand.NewPCG(1, 26))
	for range 5 {
		f := &fake{daemons: map[string]http.Handler{}}
		answers := map[string]bool{}
		for i := range draw.IntN(2 * pageSize) {
			name := fmt.Sprintf("node-%d", i)
			f.nodes = append(f.nodes, name)
			switch draw.IntN(30) {
			case 0:
			case 1:
				f.daemons[name] = unreachable
			case 2:
				f.daemons[name] = http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, `{"version": "cut o`) })
			case 3:
				f.daemons[name] = http.HandlerFunc(func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) })
			default:
				f.daemons[name] = healthy()
				answers[name] = true
			}
		}
		f.nodes = append(f.nodes, "last")
		f.daemons["last"], answers["last"] = healthy(), true
		code, out, errs := f.asked(t, "status", "-o", "json")
		var told struct{ Nodes []node }
		if err := json.Unmarshal([]byte(out), &told); err != nil {
			t.Fatalf("%v in %s%s", err, out, errs)
		}
		var names []string
		for _, n := range told.Nodes {
			names = append(names, n.Node)
			if answers[n.Node] != (n.Error == "") {
				t.Errorf("%s: %q", n.Node, n.Error)
			}
		}
		slices.Sort(names)
		if diff := cmp.Diff(slices.Sorted(slices.Values(f.nodes)), names); diff != "" {
			t.Fatalf("(-there +told):\n%s", diff)
		}
		if silent := len(f.nodes) - len(answers); (code != 0) != (silent > 0) {
			t.Errorf("exit %d with %d nodes that do not answer", code, silent)
		}
	}
}

// A node that hangs holds nobody up: it answers nothing before all others have, two at once.
func TestOneSlowNodeHoldsNobodyUp(t *testing.T) {
	const others = 200
	var answered atomic.Int64
	all := make(chan struct{})
	f := &fake{nodes: []string{"slow"}, daemons: map[string]http.Handler{}}
	f.daemons["slow"] = http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-all:
		case <-r.Context().Done():
			t.Error("the others waited for the slow one")
		}
		panic(http.ErrAbortHandler)
	})
	for i := range others {
		name := fmt.Sprintf("node-%d", i)
		f.nodes = append(f.nodes, name)
		f.daemons[name] = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			healthy(sandbox("web", "protected")).ServeHTTP(w, r)
			if answered.Add(1) == others {
				close(all)
			}
		})
	}
	code, out, errs := f.asked(t, "status", "--parallel", "2", "--node-timeout", "1m")
	if code != exitFailed || !strings.Contains(out, fmt.Sprintf("total     %d nodes", others)) || !strings.Contains(errs, "node slow: ") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// A node that never answers is left after its time.
func TestSilentNode(t *testing.T) {
	f := &fake{nodes: []string{"silent", "well"}, daemons: map[string]http.Handler{"well": healthy(),
		"silent": http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })}}
	code, out, errs := f.asked(t, "status", "--node-timeout", "1s")
	if code != exitFailed || !strings.Contains(out, "guaranteed") || !strings.Contains(errs, "node silent: does not answer") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
}

// Who may not ask reads which Role is missing.
func TestForbidden(t *testing.T) {
	for part, what := range map[string]string{"/nodes": "list /api/v1/nodes", fakePods: "list pods", "/proxy": "ask meshnetd-a"} {
		f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{"a": healthy()}, forbidden: part}
		code, _, errs := f.asked(t, "status")
		for _, want := range []string{what, "forbidden", "kubectl.read makes the Roles"} {
			if code != exitFailed || !strings.Contains(errs, want) {
				t.Errorf("%s: exit %d, no %q in %s", part, code, want, errs)
			}
		}
	}
}

// A daemon of another release may tell more, or less.
func TestOtherReleases(t *testing.T) {
	const newer = `{"version":"v0.9.0","connected":true,"synchronized":true,"planets":9,"runtime":{"name":"containerd","shoes":[1]},
		"sandboxes":[{"namespace":"shop","name":"a","state":"protected","colour":{"r":1}},{"namespace":"shop","name":"b"}]}`
	f := &fake{nodes: []string{"a"}, daemons: map[string]http.Handler{
		"a": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, newer) })}}
	if code, out, errs := f.asked(t, "status"); code != exitUnprotected || !strings.Contains(out, "1          1        0") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	defer func(before string) { version = before }(version)
	version = "v0.3.1"
	if code, out, errs := f.asked(t, "version"); code != 0 || !strings.Contains(out, "more than one release apart") {
		t.Errorf("exit %d: %s%s", code, out, errs)
	}
	for _, tt := range []struct {
		plugin, daemon string
		far            bool
	}{{"v0.3.1", "v0.4.0", false}, {"0.3.0-rc1", "v0.2.9", false}, {"v1.0.0", "v0.9.0", true}, {"v0.3.0", "v0.5.0", true}, {"0c2f8e7", "v0.5.0", false}} {
		if got := apart(tt.plugin, tt.daemon) != ""; got != tt.far {
			t.Errorf("%s and %s: far apart is %v", tt.plugin, tt.daemon, got)
		}
	}
}

func TestPods(t *testing.T) {
	bare := sandbox("bare", "unprotected")
	bare.Detail = "quotes\x1b[31m"
	elsewhere := sandbox("other", "protected")
	elsewhere.Namespace = "bank"
	f := &fake{nodes: []string{"a", "b"}, daemons: map[string]http.Handler{"a": healthy(sandbox("web", "protected"), elsewhere), "b": healthy(bare)},
		pods: func(string, int) ([]string, bool) {
			return []string{`{"metadata":{"namespace":"shop","name":"web"}}`}, false
		}}
	code, out, errs := f.asked(t, "pods", "--parallel", "1", "-o", "wide")
	if code != exitUnprotected || !strings.Contains(errs, "1 pods are not protected") {
		t.Errorf("exit %d: %s", code, errs)
	}
	if diff := cmp.Diff(`NAMESPACE       NAME                              NODE  OUTCOME      AGE   MESH     REASON          PLAN              BACKEND       SOURCE         WHY
shop            web                               a     protected    -     istio    injected        0123456789abcdef  iptables-nft  nri            -
shop            bare                              b     unprotected  -     istio    injected        0123456789abcdef  iptables-nft  nri            quotes [31m
`, out); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for args, want := range map[string][]string{"-A": {"bank/other", "shop/bare", "shop/web"}, "": {"shop/bare", "shop/web"},
		"-l app=web": {"shop/web"}, "--outcome unprotected,failing": {"shop/bare"}} {
		_, out, errs := f.asked(t, append([]string{"pods", "-o", "json"}, strings.Fields(args)...)...)
		var told struct{ Pods []member }
		if err := json.Unmarshal([]byte(out), &told); err != nil {
			t.Fatalf("%v: %s%s", err, out, errs)
		}
		var names []string
		for _, m := range told.Pods {
			names = append(names, m.Namespace+"/"+m.Name)
		}
		if diff := cmp.Diff(want, names); diff != "" {
			t.Errorf("pods %s (-want +got):\n%s", args, diff)
		}
	}
}

func TestBadCommandLine(t *testing.T) {
	for args, want := range map[string]string{"status -o svg": `output "svg" is none of`, "status x": "unknown command", "status --parallel 0": "--parallel",
		"explain": "accepts 1 arg", "nothing": "unknown command"} {
		if code, out, errs := new(fake).asked(t, strings.Fields(args)...); code != exitBadLine || out != "" || !strings.Contains(errs, want) {
			t.Errorf("%s: exit %d, %q, %q", args, code, out, errs)
		}
	}
}
