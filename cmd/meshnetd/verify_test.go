// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"encoding/json"
	"errors"
	"net/netip"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// told is a sandbox of a daemon that says what it is told to.
type told struct {
	verify, repair status.Verdict
	why            status.Explanation
	plan           status.Plan
}

func (l told) Explain() status.Explanation               { return l.why }
func (l told) Recall() status.Explanation                { return l.why }
func (l told) Plan() status.Plan                         { return l.plan }
func (l told) Verify(context.Context) status.Verdict     { return l.verify }
func (l told) Repair(context.Context) (v status.Verdict) { return l.repair }
func pod(namespace, name, id string, l told) status.Sandbox {
	return status.Sandbox{Namespace: namespace, Name: name, ID: id, State: "protected", NetNS: "/nowhere", Live: l}
}

// daemonWith serves these sandboxes until the test ends.
func daemonWith(t *testing.T, sandboxes ...status.Sandbox) (socket string) {
	t.Helper()
	return serving(t, func() status.Status { return status.Status{Version: "v1", Sandboxes: sandboxes} })
}

// serving answers on a socket of its own until the test ends.
func serving(t *testing.T, answer func() status.Status) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "meshnetd.sock")
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- status.Serve(ctx, socket, answer) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := status.Read(t.Context(), socket)
		if err == nil {
			return socket
		}
		if time.Now().After(deadline) {
			t.Fatal(err)
		}
	}
}

var (
	whole    = status.Verdict{Result: status.Whole, Rules: 21}
	differs  = status.Verdict{Result: status.Different, Rules: 21, Differences: []string{"missing: a", "unexpected: b"}}
	beside   = status.Verdict{Result: status.Different, Rules: 21, Effect: "takes less", Packets: []string{"tcp x: the plan takes it, the kernel does not"}}
	alike    = status.Verdict{Result: status.Alike, Rules: 21, Differences: []string{"missing: a"}, Effect: "takes more", Packets: []string{"tcp y"}}
	repaired = status.Verdict{Result: status.Repaired, Rules: 21, Differences: []string{"missing: a"}}
	exempt   = status.Verdict{Result: status.Exempt, Detail: "a gateway"}
	failed   = status.Verdict{Result: status.Failed, Detail: "broken"}
	gone     = status.Verdict{Result: status.Gone, Detail: "network namespace does not exist"}
)

func TestVerifyPods(t *testing.T) {
	socket := daemonWith(t,
		pod("default", "broken", "0123aa", told{verify: failed, repair: failed}),
		pod("default", "ended", "0123bb", told{verify: gone, repair: gone}),
		pod("default", "web", "4567aa", told{verify: whole, repair: whole, plan: status.Plan{NetNS: "/nowhere", Key: "other"}}),
		pod("mail", "alike", "6666aa", told{verify: alike}),
		pod("mail", "beside", "7777aa", told{verify: beside}),
		pod("shop", "cart", "89abaa", told{verify: differs, repair: repaired}),
		pod("shop", "gateway", "89abcc", told{verify: exempt, repair: exempt}),
		pod("shop", "twice", "cdefaa", told{verify: whole, repair: whole}),
		pod("shop", "twice", "cdefbb", told{verify: differs, repair: failed}))
	for _, tt := range []struct {
		args string
		code int
		out  string
		err  string
	}{
		{"default/web", 0, "the kernel holds the plan: 21 rules\n", ""},
		{"4567", 0, "the kernel holds the plan: 21 rules\n", ""},
		{"shop/gateway", 0, "nothing to verify: a gateway\n", ""},
		{"shop/cart", exitDifference, "missing: a\nunexpected: b\n", "2 differences"},
		{"mail/alike", 0, "missing: a\nby what becomes of packets: takes more\n  tcp y\n", ""},
		{"mail/beside", exitDifference, "by what becomes of packets: takes less\n  tcp x: the plan takes it, the kernel does not\n", "1 differences"},
		{"shop/cart --repair", 0, "missing: a\nrepaired: the kernel holds the plan: 21 rules\n", ""},
		{"default/web --repair", 0, "the kernel holds the plan: 21 rules\n", ""},
		{"default/broken", exitFailed, "", "default/broken: broken"},
		{"default/ended", exitFailed, "", "default/ended: network namespace does not exist"},
		{"default/ended --repair", exitFailed, "", "default/ended: network namespace does not exist"},
		{"cdefbb", exitDifference, "missing: a\nunexpected: b\n", "2 differences"},
		{"cdefbb --repair", exitFailed, "", "shop/twice: broken"},
		{"shop/twice", exitFailed, "", "shop/twice is not one sandbox but 2; name one by its id: cdefaa (shop/twice, protected), cdefbb (shop/twice, protected)"},
		{"89ab", exitFailed, "", "89abaa (shop/cart, protected), 89abcc (shop/gateway, protected)"},
		{"shop/web", exitFailed, "", "no pod shop/web of the mesh runs on this node (`meshnetd status` lists those that do)"},
		{"web", exitFailed, "", "a pod is named NAMESPACE/POD"},
		{"--all", exitFailed, "default/web: the kernel holds the plan: 21 rules\nmail/alike: missing: a\nmail/alike: by what becomes of packets: takes more\n" +
			"mail/alike:   tcp y\nmail/beside: by what becomes of packets: takes less\n" +
			"mail/beside:   tcp x: the plan takes it, the kernel does not\nshop/cart: missing: a\nshop/cart: unexpected: b\n" +
			"shop/gateway: nothing to verify: a gateway\nshop/twice: the kernel holds the plan: 21 rules\nshop/twice: missing: a\nshop/twice: unexpected: b\n",
			"default/broken: broken"}, // and nothing of the one that has ended
		{"--traffic default/web", exitFailed, "", "default/web: the daemon's plan is other, and what it told of it"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			code, out, err := execute(t, "", append([]string{"verify", "--socket", socket, "--config", testdata("block.toml")}, strings.Fields(tt.args)...)...)
			if code != tt.code || out != tt.out || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
				t.Errorf("exit %d, %v\n%s\nwant %d, %q\n%s", code, err, out, tt.code, tt.err, tt.out)
			}
		})
	}
}

// Rules that a pod's own container wrote are printed, and errors that quote them, to the terminal of somebody who is root.
func TestVerifyLeavesTheTerminalAlone(t *testing.T) {
	const hostile = "-A OUTPUT -o e\x1b[2J\u009b31m\nthe kernel holds the plan -j RETURN"
	const plain = "-A OUTPUT -o e [2J 31m the kernel holds the plan -j RETURN"
	socket := daemonWith(t, pod("shop", "cart", "89abaa", told{verify: status.Verdict{Result: status.Different, Differences: []string{hostile}, Effect: hostile,
		Packets: []string{hostile}, Beside: []string{hostile}}}), pod("shop", "broken", "0123aa", told{verify: status.Verdict{Result: status.Failed, Detail: hostile}}))
	_, out, err := execute(t, "", "verify", "--all", "--socket", socket, "--config", testdata("block.toml"))
	want := "shop/cart: " + plain + "\nshop/cart: by what becomes of packets: " + plain + "\nshop/cart:   " + plain + "\nshop/cart: beside the pod's rules: " + plain + "\n"
	if out != want {
		t.Errorf("got %q", out)
	}
	var errs strings.Builder
	complain(&errs, err)
	if errs.String() != "meshnetd: shop/broken: "+plain+"\n" {
		t.Errorf("standard error: %q", errs.String())
	}
	errs.Reset()
	if complain(&errs, errSaid); errs.String() != "" {
		t.Errorf("of nothing: %q", errs.String())
	}
	errs.Reset()
	if complain(&errs, errors.New("\x1b[2J")); strings.Contains(errs.String(), "\x1b") {
		t.Errorf("of any command: %q", errs.String())
	}
}

func TestVerifyPodsAsJSON(t *testing.T) {
	socket := daemonWith(t, pod("default", "gone", "0123aa", told{verify: failed}), pod("shop", "cart", "89abaa", told{verify: differs}))
	code, out, err := execute(t, "", "verify", "--all", "--json", "--socket", socket, "--config", testdata("block.toml"))
	if code != exitFailed {
		t.Errorf("exit %d, %v", code, err)
	}
	var got struct{ Pods []answer }
	if err := json.Unmarshal([]byte(out), &got); err != nil {
		t.Fatalf("%v:\n%s", err, out)
	}
	bad, worse := differs, failed
	worse.Differences = []string{}
	want := []answer{{Namespace: "default", Name: "gone", ID: "0123aa", NetNS: "/nowhere", Verdict: &worse},
		{Namespace: "shop", Name: "cart", ID: "89abaa", NetNS: "/nowhere", Verdict: &bad}}
	if diff := cmp.Diff(want, got.Pods, cmp.AllowUnexported(answer{})); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}

func TestVerifyNothing(t *testing.T) {
	socket := daemonWith(t)
	for args, want := range map[string]string{"--all": "no pod of the mesh runs on this node\n", "--all --json": "{\n  \"pods\": []\n}\n"} {
		code, out, err := execute(t, "", append([]string{"verify", "--socket", socket, "--config", testdata("block.toml")}, strings.Fields(args)...)...)
		if code != 0 || out != want {
			t.Errorf("%s: exit %d, %v, %q", args, code, err, out)
		}
	}
}

func TestVerifyWithoutADaemon(t *testing.T) {
	code, out, err := execute(t, "", "verify", "--all", "--socket", filepath.Join(t.TempDir(), "none"), "--config", testdata("block.toml"))
	if code != exitFailed || out != "" || !strings.Contains(err.Error(), "meshnetd is not running") {
		t.Errorf("exit %d, %v, %q", code, err, out)
	}
}

func TestVerifyBadCommandLine(t *testing.T) {
	for args, want := range map[string]string{
		"":                                "name a pod as NAMESPACE/POD",
		"a/b --all":                       "name a pod as NAMESPACE/POD",
		"a/b c/d":                         "accepts at most 1 arg",
		"--netns /x":                      "--netns and -f go together",
		"-f x":                            "--netns and -f go together",
		"a/b --netns /x -f x":             "--netns is for a namespace that no daemon knows",
		"--all --netns /x -f x":           "--netns is for a namespace that no daemon knows",
		"--repair --netns /x -f x":        "`meshnetd apply` repairs",
		"--traffic --repair a/b":          "call one after the other",
		"--config testdata/none.toml a/b": "none.toml",
	} {
		code, out, err := execute(t, "", append([]string{"verify"}, strings.Fields(args)...)...)
		if code != exitBadConfig || out != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit %d, %v, %q; want %q", args, code, err, out, want)
		}
	}
}

// Packets that went wrong count as differences, and each is told in text and in JSON.
func TestVerifyPackets(t *testing.T) {
	sent := rules.Packet{Direction: rules.Inbound, Protocol: rules.TCP, In: "eth0", Source: netip.MustParseAddrPort("192.0.2.1:1"), Destination: netip.MustParseAddrPort("10.0.0.1:80")}
	end := rules.End{Kind: rules.Delivered, Port: 80, To: sent.Destination, Original: sent.Destination}
	want := rules.End{Kind: rules.Redirected, Port: 15006, Original: sent.Destination}
	one := answer{Namespace: "shop", Name: "cart", sent: true}
	one.take([]traffic.Check{{About: "into the pod", Packet: sent, Seen: end, Rules: rules.Path{End: want}, Verdict: traffic.Wrong},
		{About: "out by net1", Verdict: traffic.Unproven, Note: "nobody"}})
	var text, document strings.Builder
	for _, a := range []*answers{{out: &text, prefix: true}, {out: &document, json: true}} {
		if err := a.add(one); err != nil {
			t.Fatal(err)
		}
		var coded *exit
		if err := a.end(); !errors.As(err, &coded) || coded.code != exitDifference {
			t.Errorf("ends with %v", err)
		}
	}
	if diff := cmp.Diff("shop/cart: WRONG         into the pod: tcp 192.0.2.1:1 to 10.0.0.1:80 in by eth0: delivered to 10.0.0.1:80; "+
		"the rules say: redirected to port 15006, original destination 10.0.0.1:80\n"+
		"shop/cart: not provable  out by net1; nobody\nshop/cart: 2 checks: 0 as the rules say, 1 wrong, 1 not provable\n", text.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for _, part := range []string{`"verdict": "wrong"`, `"seen": "delivered to 10.0.0.1:80"`, `"rules": "redirected to port 15006`, `"verdict": "not-provable"`, `"note": "nobody"`} {
		if !strings.Contains(document.String(), part) {
			t.Errorf("no %s in\n%s", part, document.String())
		}
	}
	none := answers{out: &text}
	text.Reset()
	if err := none.add(answer{sent: true}); err != nil || text.String() != "nothing to send: the pod is to have no rules\n" || none.end() != nil {
		t.Errorf("%v, %q", err, text.String())
	}
}
