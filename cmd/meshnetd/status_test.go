// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// podsIn returns the names of the pods that a table shows.
func podsIn(table string) []string {
	_, table, _ = strings.Cut(table, "\nPOD ")
	_, table, _ = strings.Cut(table, "\n")
	var names []string
	for line := range strings.SplitSeq(table, "\n") {
		if fields := strings.Fields(line); len(fields) > 0 {
			names = append(names, fields[0])
		}
	}
	return names
}

func TestStatusSelection(t *testing.T) {
	failing := pod("shop", "cart-2", "c", told{})
	failing.State = "failing"
	socket := daemonWith(t, pod("default", "web", "a", told{}), pod("shop", "cart-1", "b", told{}), failing, pod("shop", "db", "d", told{}))
	for args, want := range map[string][]string{
		"":                            {"default/web", "shop/cart-1", "shop/cart-2", "shop/db"},
		"shop":                        {"shop/cart-1", "shop/cart-2", "shop/db"},
		"s*":                          {"shop/cart-1", "shop/cart-2", "shop/db"},
		"shop/cart-*":                 {"shop/cart-1", "shop/cart-2"},
		"*/*-1":                       {"shop/cart-1"},
		"/web":                        {"default/web"},
		"--namespace default":         {"default/web"},
		"--name cart-?":               {"shop/cart-1", "shop/cart-2"},
		"--namespace shop --name db":  {"shop/db"},
		"--outcome failing":           {"shop/cart-2"},
		"--outcome protected,failing": {"default/web", "shop/cart-1", "shop/cart-2", "shop/db"},
		"shop --outcome protected":    {"shop/cart-1", "shop/db"},
		"nobody":                      nil,
	} {
		all := append([]string{"status", "--socket", socket, "--config", testdata("default.toml")}, strings.Fields(args)...)
		code, out, err := execute(t, "", all...)
		if diff := cmp.Diff(want, podsIn(out)); code != 0 || diff != "" || !strings.Contains(out, "meshnetd") {
			t.Errorf("%s: exit %d, %v (-want +got):\n%s", args, code, err, diff)
		}
		_, out, _ = execute(t, "", append(all, "--json")...)
		var s status.Status
		if err := json.Unmarshal([]byte(out), &s); err != nil || len(s.Sandboxes) != len(want) {
			t.Errorf("%s: %v, %d pods in\n%s", args, err, len(s.Sandboxes), out)
		}
	}
}

func TestStatusBadInput(t *testing.T) {
	for args, want := range map[string]string{
		"a b":                               "accepts at most 1 arg",
		"shop --name x":                     "not both",
		"shop --namespace x":                "not both",
		"sh[op":                             "is no pattern",
		"a/b/c":                             "is no pattern",
		"--name a/b":                        "is no pattern",
		"--outcome dead":                    `--outcome "dead" is none of protected, outdated, unproven, unprotected, pending, failing, exempt`,
		"--config " + testdata("none.toml"): "none.toml",
	} {
		code, out, err := execute(t, "", append([]string{"status"}, strings.Fields(args)...)...)
		if code != exitBadConfig || out != "" || err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: exit %d, %v, %q", args, code, err, out)
		}
	}
	for _, args := range [][]string{nil, {"--watch"}, {"--json"}} {
		code, out, err := execute(t, "", append([]string{"status", "--config", testdata("default.toml"), "--socket", t.TempDir() + "/none"}, args...)...)
		if code != exitFailed || out != "" || !strings.Contains(err.Error(), "meshnetd is not running (`systemctl status meshnetd`)") {
			t.Errorf("%v: exit %d, %v, %q", args, code, err, out)
		}
	}
}

// shared is a buffer that two goroutines use.
type shared struct {
	mu   sync.Mutex
	text bytes.Buffer
	more chan struct{}
}

func (s *shared) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	defer func() {
		select {
		case s.more <- struct{}{}:
		default:
		}
	}()
	return s.text.Write(p)
}

func (s *shared) String() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Without a terminal a watch writes one table after the other, with an empty line between, or one line of JSON each,
// and its interruption is no failure.
func TestStatusWatch(t *testing.T) {
	t.Parallel()
	socket := daemonWith(t, pod("default", "web", "a", told{}))
	for _, tt := range []struct{ flags, each, between string }{{"--watch", "meshnetd  v1", "\n\nmeshnetd  v1"}, {"--watch --json", `{"version":"v1"`, "}\n{\"version\""}} {
		ctx, cancel := context.WithCancel(t.Context())
		out := &shared{more: make(chan struct{}, 1)}
		c := root()
		c.SetArgs(append([]string{"status", "--socket", socket, "--config", testdata("default.toml")}, strings.Fields(tt.flags)...))
		c.SetOut(out)
		done := make(chan error, 1)
		go func() { done <- c.ExecuteContext(ctx) }()
		deadline := time.After(20 * time.Second)
		for strings.Count(out.String(), tt.each) < 2 {
			select {
			case <-out.more:
			case err := <-done:
				t.Fatalf("ends by itself: %v\n%s", err, out)
			case <-deadline:
				t.Fatalf("not again:\n%s", out)
			}
		}
		cancel()
		if err := <-done; err != nil {
			t.Errorf("ends with %v", err)
		}
		if got := out.String(); !strings.Contains(got, tt.between) || strings.Contains(got, "\x1b") || !strings.HasSuffix(got, "\n") {
			t.Errorf("%q", got)
		}
	}
}

// Nor is it one in the middle of a question that nobody answers.
func TestStatusWatchOfASilentDaemon(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "silent.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	ctx, cancel := context.WithCancel(t.Context())
	c := root()
	c.SetArgs([]string{"status", "--watch", "--socket", socket, "--config", testdata("default.toml")})
	c.SetOut(t.Output())
	done := make(chan error, 1)
	go func() { done <- c.ExecuteContext(ctx) }()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("ends with %v", err)
	}
}

// On a terminal it is drawn over what was there, and nothing wraps or scrolls.
func TestScreen(t *testing.T) {
	var out strings.Builder
	s := &screen{out: &out, size: func() (int, int, bool) { return 5, 4, true }}
	for _, text := range []string{"one\ntoo long\n", "1\n2\n3\n4\n5\n"} {
		if err := s.draw(text); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.sorry(nil, errors.New("no\x1b")); err != nil {
		t.Fatal(err)
	}
	want := "\x1b[H\x1b[2Jone\x1b[K\ntoo l\x1b[K\n\x1b[J" + "\x1b[H1\x1b[K\n2\x1b[K\n... a\x1b[K\n\x1b[J" + "\x1b[Hmeshn\x1b[K\nretry\x1b[K\n\x1b[J"
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	var aside strings.Builder
	plain := newScreen(&out)
	if err := plain.sorry(&aside, errors.New("gone")); err != nil || aside.String() != "meshnetd: gone\n" {
		t.Errorf("%v, %q", err, aside.String())
	}
}

// The last outcomes are remembered, those of the mesh only, and no more than a bound.
func TestRecent(t *testing.T) {
	w := newWatch("iptables")
	counted := 0
	record := w.counting(func(outcome.Outcome) { counted++ })
	failed := func(i int) outcome.Outcome {
		return outcome.Outcome{Result: lifecycle.Failed, Said: lifecycle.EventBlocked, Pod: rules.Pod{Namespace: "shop", Name: fmt.Sprint(i), SandboxID: "id"}, Err: errors.New("broken"),
			Decision: rules.Decision{Mesh: "istio", Reason: rules.ReasonInjected, Detail: "d"}}
	}
	for i := range 3 {
		record(failed(i))
		record(outcome.Outcome{Result: lifecycle.Skipped, Said: lifecycle.EventSkipped})
	}
	names := func() (names []string) {
		for _, e := range w.recent.all() {
			names = append(names, e.Name)
		}
		return names
	}
	if diff := cmp.Diff([]string{"0", "1", "2"}, names()); diff != "" || counted != 6 {
		t.Errorf("%d recorded (-want +got):\n%s", counted, diff)
	}
	e := w.recent.all()[0]
	e.Time = time.Time{}
	if diff := cmp.Diff(status.Event{Event: "pod_blocked", Namespace: "shop", Name: "0", Sandbox: "id", Mesh: "istio", Reason: "injected", Message: "broken"}, e); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	for i := range mostRecent + 7 {
		record(failed(i))
	}
	if got := names(); len(got) != mostRecent || got[0] != "7" || got[mostRecent-1] != fmt.Sprint(mostRecent+6) {
		t.Errorf("remembers %v", got)
	}
	record(outcome.Outcome{Result: lifecycle.Refused, Said: lifecycle.EventBlocked, Impostor: "as the proxy", Err: errors.New("as the proxy")})
	record(outcome.Outcome{Result: lifecycle.Protected, Said: lifecycle.EventProtected, Decision: rules.Decision{Detail: "stamped"}})
	if last := w.recent.all()[mostRecent-2:]; last[0].Message != "as the proxy" || last[1].Message != "stamped" {
		t.Errorf("says %+v", last)
	}
}
