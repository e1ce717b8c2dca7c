// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"
)

// output collects events of a running mode.
type output struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text.Write(p)
}

func (o *output) events(t *testing.T) []event {
	t.Helper()
	o.mu.Lock()
	defer o.mu.Unlock()
	var events []event
	for line := range bytes.Lines(o.text.Bytes()) {
		var e event
		if err := json.Unmarshal(line, &e); err != nil {
			t.Fatalf("output line %q: %v", line, err)
		}
		events = append(events, e)
	}
	return events
}

func (o *output) wait(t *testing.T, match func(event) bool) event {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ticker := time.NewTicker(time.Millisecond)
	defer ticker.Stop()
	for {
		for _, e := range o.events(t) {
			if match(e) {
				return e
			}
		}
		select {
		case <-ctx.Done():
			t.Fatalf("event did not come; got %+v", o.events(t))
		case <-ticker.C:
		}
	}
}

// start runs a mode until the test ends.
func start(t *testing.T, args ...string) *output {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	out := &output{}
	done := make(chan error, 1)
	go func() { done <- run(ctx, args, out) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("%v: %v", args, err)
		}
	})
	return out
}

// listening returns the address of an IPv4 listener.
func listening(t *testing.T, out *output, name, network string) string {
	t.Helper()
	return out.wait(t, func(e event) bool {
		return e.Event == "listening" && e.Listener == name && e.Network == network && e.Addr[0] != '['
	}).Addr
}

func port(t *testing.T, addr string) string {
	t.Helper()
	return addr[bytes.LastIndexByte([]byte(addr), ':')+1:]
}

func dial(t *testing.T, args ...string) (event, error) {
	t.Helper()
	out := &output{}
	err := run(t.Context(), append([]string{"dial"}, args...), out)
	events := out.events(t)
	if len(events) != 1 {
		t.Fatalf("dial %v wrote %d events and %v, want one event", args, len(events), err)
	}
	return events[0], err
}

func TestServeNamesItselfAndThePeer(t *testing.T) {
	for _, test := range []struct {
		addr, network, listenNetwork string
		flags                        []string
	}{
		{"127.0.0.1:0", "tcp4", "tcp", nil},
		{"127.0.0.1:0", "udp4", "udp", []string{"--udp"}},
	} {
		t.Run(test.network, func(t *testing.T) {
			out := start(t, append([]string{"serve", test.addr, "web"}, test.flags...)...)
			addr := out.wait(t, func(e event) bool { return e.Event == "listening" && e.Network == test.listenNetwork }).Addr

			got, err := dial(t, test.network, addr)

			if err != nil || got.Event != "connected" {
				t.Fatalf("event %+v, %v", got, err)
			}
			if want := "web peer=" + got.Local; got.Reply != want {
				t.Errorf("reply = %q, want %q", got.Reply, want)
			}
			if got.Started == 0 || got.At < got.Started {
				t.Errorf("started %d, connected %d: want both, in this order", got.Started, got.At)
			}
		})
	}
}

func TestDialReportsFailure(t *testing.T) {
	got, err := dial(t, "tcp4", "127.0.0.1:1", "--timeout", "2s")
	if !errors.Is(err, errReported) || got.Event != "failed" || got.Error == "" {
		t.Errorf("event %+v, %v, want a reported failure", got, err)
	}
}

func TestProxyWithoutRedirectionReportsLocalAddress(t *testing.T) {
	out := start(t, "proxy", "--outbound", "0", "--inbound", "0", "--dns", "0")
	for _, name := range []string{"outbound", "inbound"} {
		p := port(t, listening(t, out, name, "tcp"))

		got, err := dial(t, "tcp4", "127.0.0.1:"+p)

		if want := name + " original_dst=127.0.0.1:" + p; err != nil || got.Reply != want {
			t.Errorf("reply = %q, %v, want %q", got.Reply, err, want)
		}
	}
	p := port(t, listening(t, out, "dns", "udp"))
	if got, err := dial(t, "udp4", "127.0.0.1:"+p); err != nil || got.Reply != "dns peer="+got.Local {
		t.Errorf("reply of dns = %q, %v, want dns peer=%s", got.Reply, err, got.Local)
	}
}

func TestPassthroughComesFromItsOwnSource(t *testing.T) {
	out := start(t, "serve", "127.0.0.1:0", "app")
	app := out.wait(t, func(e event) bool { return e.Event == "listening" }).Addr
	// The proxy listens on every address but the application's own, so that
	// the port of the connection is the application's.
	p, err := strconv.Atoi(port(t, app))
	if err != nil {
		t.Fatal(err)
	}
	relay := &proxy{passthrough: true, out: &journal{w: &output{}}}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		relay.listen(ctx, "tcp4", "127.0.0.2:"+strconv.Itoa(p), "inbound", false)
		close(done)
	}()
	t.Cleanup(func() { cancel(); <-done })
	listening(t, relay.out.w.(*output), "inbound", "tcp")

	got, err := dial(t, "tcp4", "127.0.0.2:"+strconv.Itoa(p))

	if want := "app peer=127.0.0.6:"; err != nil || !bytes.HasPrefix([]byte(got.Reply), []byte(want)) {
		t.Errorf("reply = %q, %v, want %s...", got.Reply, err, want)
	}
}

func TestUnknownModeIsRefused(t *testing.T) {
	if err := run(t.Context(), []string{"dance"}, &output{}); err == nil {
		t.Error("no error for an unknown mode")
	}
}
