// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/status"
)

// daemonSaying answers with that status alone.
func daemonSaying(t *testing.T, s status.Status) (socket string) {
	t.Helper()
	return serving(t, func() status.Status { return s })
}

// A probe is told yes only when the runtime has accepted the daemon and the pods that were there are taken over.
func TestReady(t *testing.T) {
	now, start := time.Now(), time.Date(2026, 11, 21, 10, 0, 0, 0, time.UTC)
	waiting := pod("shop", "cart", "a", told{})
	waiting.State = "pending"
	bad := waiting // nobody but its author can do anything about it
	bad.Reason = "bad-input"
	settled := pod("shop", "db", "b", told{})
	runtime := &status.Runtime{Name: "containerd", Version: "v2.4.2", Tier: "guaranteed"}
	for name, tt := range map[string]struct {
		status status.Status
		code   int
		want   string // in what it prints, or in the error
	}{
		"ready":            {status.Status{Connected: true, Since: now, Runtime: runtime, Sandboxes: []status.Sandbox{settled}}, 0, "ready: connected to containerd v2.4.2, tier guaranteed\n"},
		"never connected":  {status.Status{Started: start}, exitFailed, "no session with the runtime since 2026-11-21T10:00:00Z: look at"},
		"session lost":     {status.Status{Started: start, Since: start.Add(time.Hour), Runtime: runtime}, exitFailed, "no session with the runtime since 2026-11-21T11:00:00Z: look at"},
		"in the queue":     {status.Status{Started: start, Waiting: &status.Waiting{Cause: "queue", Why: "waiting in the runtime's queue\n"}}, exitFailed, "since 2026-11-21T10:00:00Z: waiting in the runtime's queue"},
		"being taken over": {status.Status{Connected: true, Since: now, Runtime: runtime, Sandboxes: []status.Sandbox{settled, waiting, waiting}}, exitFailed, "not taken over yet: 2, such as shop/cart"},
		// It is named for ever, and holds up nothing for ever.
		"one broken pod": {status.Status{Connected: true, Since: now.Add(-takeoverPatience), Sandboxes: []status.Sandbox{waiting}}, 0, "ready: connected\n"},
		"its author's":   {status.Status{Connected: true, Since: now, Sandboxes: []status.Sandbox{bad}}, 0, "ready: connected\n"},
		"a terminal":     {status.Status{Connected: true, Runtime: &status.Runtime{Name: "a\x1b[31m", Version: "1", Tier: "t"}}, 0, "connected to a [31m 1, tier t"},
	} {
		t.Run(name, func(t *testing.T) {
			code, out, err := execute(t, "", "ready", "--config", testdata("default.toml"), "--socket", daemonSaying(t, tt.status))
			if err != nil {
				if out != "" {
					t.Errorf("a failure is no output: %q", out)
				}
				out = err.Error()
			}
			if code != tt.code || !strings.Contains(out, tt.want) {
				t.Errorf("exit %d: %q, want %d and %q", code, out, tt.code, tt.want)
			}
		})
	}
}

func TestReadyBadInput(t *testing.T) {
	for args, want := range map[string]struct {
		code int
		text string
	}{
		"--config " + testdata("default.toml") + " --socket " + t.TempDir() + "/none": {exitFailed, "meshnetd is not running"},
		"now":                                 {exitBadConfig, `"now"`},
		"--config " + testdata("nobody.toml"): {exitBadConfig, "nobody.toml"},
	} {
		code, out, err := execute(t, "", append([]string{"ready"}, strings.Fields(args)...)...)
		if code != want.code || out != "" || err == nil || !strings.Contains(err.Error(), want.text) {
			t.Errorf("%s: exit %d, %v, %q", args, code, err, out)
		}
	}
}
