// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// pod is a sandbox under test.
type pod struct {
	verify func(context.Context) Verdict
	repair func(context.Context) Verdict
	plan   Plan
	why    Explanation
}

func (p pod) Explain() Explanation               { return p.why }
func (p pod) Recall() Explanation                { return p.why }
func (p pod) Plan() Plan                         { return p.plan }
func (p pod) Verify(ctx context.Context) Verdict { return p.verify(ctx) }
func (p pod) Repair(ctx context.Context) Verdict { return p.repair(ctx) }

var (
	someVerdict = Verdict{Result: Different, Differences: []string{"missing: -j X"}, Rules: 21, Plan: "0123", Took: Milliseconds(3 * time.Millisecond), Detail: "d"}
	somePlan    = Plan{NetNS: "/run/netns/a", Inode: 4026532000, Device: 4, Key: "0123", Rules: []Rule{{4, "nat", "OUTPUT", "-j ISTIO_OUTPUT", "why"}},
		Routes: []Route{{4, 1337, 133}}, Loopback: []string{"::6/128"}, Interfaces: []Interface{{"eth0", []string{"10.0.0.1"}}}}
	someReasons = Explanation{Namespace: "shop", Name: "cart", Mesh: "istio", Action: "redirect", Reason: "injected", Detail: "d", Steps: []string{"s"},
		Settings: []Setting{{"tproxy", "false", "built-in default"}}, Notes: []string{"n"}, Rules: somePlan.Rules, Routes: somePlan.Routes, Loopback: somePlan.Loopback,
		NotCaptured: []Gap{{What: "UDP", Trace: []string{"--out"}}}, Beside: []string{"table inet x: harmless"}, Key: "0123"}
)

func servePods(t *testing.T, pods map[string]Live) (socket string) {
	t.Helper()
	socket = socketIn(t)
	serveFunc(t, socket, "v1", func() Status {
		s := Status{Version: "v1"}
		for id, live := range pods {
			s.Sandboxes = append(s.Sandboxes, Sandbox{ID: id, Live: live})
		}
		return s
	})
	return socket
}

func TestLive(t *testing.T) {
	repaired := someVerdict
	repaired.Result = Repaired
	socket := servePods(t, map[string]Live{"a/b c": pod{
		verify: func(context.Context) Verdict { return someVerdict },
		repair: func(context.Context) Verdict { return repaired }, plan: somePlan, why: someReasons}})
	got := map[string]any{}
	var err1, err2, err3, err4 error
	got["verify"], err1 = Verify(t.Context(), socket, "a/b c")
	got["repair"], err2 = Repair(t.Context(), socket, "a/b c")
	got["plan"], err3 = ReadPlan(t.Context(), socket, "a/b c")
	got["explain"], err4 = Explain(t.Context(), socket, "a/b c")
	if err := errors.Join(err1, err2, err3, err4); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(map[string]any{"verify": someVerdict, "repair": repaired, "plan": somePlan, "explain": someReasons}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

// The names that programs rely on.
func TestLiveJSON(t *testing.T) {
	for want, v := range map[string]any{
		`{"result":"different","differences":["missing: -j X"],"rules":21,"plan":"0123","tookMilliseconds":3,"detail":"d"}`: someVerdict,
		`{"result":"whole","differences":[],"rules":0,"plan":"","tookMilliseconds":0}`:                                      complete(Verdict{Result: Whole}),
		`{"netns":"/run/netns/a","inode":4026532000,"device":4,"plan":"0123",` +
			`"rules":[{"family":4,"table":"nat","chain":"OUTPUT","rule":"-j ISTIO_OUTPUT","why":"why"}],` +
			`"routes":[{"family":4,"mark":1337,"table":133}],"loopback":["::6/128"],"interfaces":[{"name":"eth0","addresses":["10.0.0.1"]}]}`: somePlan,
		`{"netns":"","inode":0,"device":0,"plan":"","rules":[],"routes":[],"loopback":[],"interfaces":[]}`: complete(Plan{}),
		`{"namespace":"shop","name":"cart","mesh":"istio","action":"redirect","reason":"injected","detail":"d","steps":["s"],` +
			`"settings":[{"name":"tproxy","value":"false","source":"built-in default"}],"notes":["n"],` +
			`"rules":[{"family":4,"table":"nat","chain":"OUTPUT","rule":"-j ISTIO_OUTPUT","why":"why"}],"routes":[{"family":4,"mark":1337,"table":133}],` +
			`"loopback":["::6/128"],"notCaptured":[{"what":"UDP","trace":["--out"]}],"beside":["table inet x: harmless"],"plan":"0123"}`: someReasons,
		`{"namespace":"","name":"","mesh":"","action":"","reason":"","detail":"","steps":[],"settings":[],"notes":[],"rules":[],"routes":[],"loopback":[],` +
			`"notCaptured":[{"what":"SCTP","trace":[]}],"beside":[],"plan":""}`: Explanation{NotCaptured: []Gap{{What: "SCTP"}}}.Complete(),
	} {
		if got, err := json.Marshal(v); err != nil || string(got) != want {
			t.Errorf("%v\ngot  %s\nwant %s", err, got, want)
		}
	}
}

// Only a POST changes anything, and only a sandbox that is known is looked at.
func TestLiveRequests(t *testing.T) {
	touched := pod{verify: func(context.Context) Verdict { return Verdict{} }, repair: func(context.Context) Verdict { panic("repaired") }}
	socket := servePods(t, map[string]Live{"a": touched, "dead": nil})
	for request, want := range map[string]string{
		"GET /v1/sandboxes/a/repair":   "HTTP/1.0 405",
		"POST /v1/sandboxes/a/verify":  "HTTP/1.0 405",
		"POST /v1/sandboxes/a/plan":    "HTTP/1.0 405",
		"POST /v1/sandboxes/a/explain": "HTTP/1.0 405",
		"GET /v1/sandboxes/b/explain":  "HTTP/1.0 410",
		"POST /v1/sandboxes/a/repair":  "HTTP/1.0 500",
		"GET /v1/sandboxes/b/verify":   "HTTP/1.0 410",
		"GET /v1/sandboxes/dead/plan":  "HTTP/1.0 410",
		"GET /v1/sandboxes/a":          "HTTP/1.0 404",
		"GET /v1/sandboxes/a/other":    "HTTP/1.0 404",
		"GET /v1/sandboxes/a/verify":   `"differences":[]`,
	} {
		if got := say(t, socket, request+" HTTP/1.0\r\n\r\n"); !strings.Contains(got, want) {
			t.Errorf("%s: %q, want %s", request, got, want)
		}
	}
	_, err := Verify(t.Context(), socket, "b")
	if !errors.Is(err, ErrUnknown) || !strings.Contains(err.Error(), "verify sandbox b from "+socket) {
		t.Errorf("got %v", err)
	}
}

// A look may take longer than a client may take for the answer, and ends with the client.
func TestLongLook(t *testing.T) {
	t.Parallel()
	ended := make(chan error, 1)
	socket := servePods(t, map[string]Live{
		"slow": pod{verify: func(ctx context.Context) Verdict {
			select {
			case <-time.After(answerLimit + 200*time.Millisecond):
				return someVerdict
			case <-ctx.Done():
				return Verdict{Result: Failed}
			}
		}},
		"stuck": pod{verify: func(ctx context.Context) Verdict {
			<-ctx.Done()
			ended <- ctx.Err()
			return Verdict{}
		}},
	})
	if v, err := Verify(t.Context(), socket, "slow"); err != nil || v.Result != Different {
		t.Errorf("%v, %v", v, err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(10*time.Millisecond, cancel)
	if _, err := Verify(ctx, socket, "stuck"); err == nil {
		t.Error("an answer from one that is stuck")
	}
	if err := <-ended; !errors.Is(err, context.Canceled) {
		t.Errorf("ends with %v", err)
	}
}
