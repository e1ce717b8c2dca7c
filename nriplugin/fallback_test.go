// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
)

// meet answers the next registration up to Configure, and returns what the plugin asked for.
func meet(t *testing.T, conns <-chan net.Conn, name, version string) (raw *rawRuntime, conn net.Conn, events api.EventMask) {
	t.Helper()
	raw, conn = &rawRuntime{}, receive(t, "a connection", conns)
	raw.serve(t, conn)
	receive(t, "the registration", raw.registered)
	answer, err := raw.plugin.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: name, RuntimeVersion: version})
	if err != nil {
		t.Fatal(err)
	}
	return raw, conn, api.EventMask(answer.GetEvents())
}

// A runtime that does not know an event closes the connection without a word.
func TestUnknownRuntimeWithoutValidation(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	_, conn := expect(t, conns, "other", "1.0", validatedMask)
	_ = conn.Close()
	raw, conn := expect(t, conns, "other", "1.0", plainMask)
	if rt := synchronize(t, raw, p); rt.Validates || rt.Tier != BestEffort || !strings.Contains(rt.Limits[0], "closed the connection") {
		t.Errorf("Synced got %+v", rt)
	}
	eventually(t, "the session logged", func() bool { return len(p.log.of("nri_connected")) == 1 })
	connected := p.log.of("nri_connected")[0]
	if connected["validates"] != "false" || connected["level"] != "WARN" || !strings.Contains(connected["limits"], "closed the connection") {
		t.Errorf("logged %v", connected)
	}
	if waiting := p.log.of("nri_waiting"); len(waiting) != 1 || !strings.Contains(waiting[0]["error"], "tried without") {
		t.Errorf("logged %v", waiting)
	}

	// The connection may have ended for another reason: it is asked again in the next session.
	_ = conn.Close()
	_, conn = expect(t, conns, "other", "1.0", validatedMask)
	_ = conn.Close()
	_, conn = expect(t, conns, "other", "1.0", plainMask)
	_ = conn.Close() // so that was not it
	expect(t, conns, "other", "1.0", validatedMask)
}

// What one runtime declined, another is asked for, and one that is known to have validators is never used
// without them.
func TestOnlyWhoDeclinedIsSpared(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	_, conn := expect(t, conns, "other", "1.0", validatedMask)
	_ = conn.Close()
	raw, conn := expect(t, conns, "other", "1.1", validatedMask)
	if rt := synchronize(t, raw, p); !rt.Validates {
		t.Errorf("Synced got %+v", rt)
	}
	_ = conn.Close() // it had accepted
	_, conn = expect(t, conns, "other", "1.1", validatedMask)
	_ = conn.Close()
	_, conn = expect(t, conns, "containerd", "v2.4.2", validatedMask)
	_ = conn.Close()
	expect(t, conns, "containerd", "v2.4.2", validatedMask)
}

func expect(t *testing.T, conns <-chan net.Conn, name, version string, want api.EventMask) (*rawRuntime, net.Conn) {
	t.Helper()
	raw, conn, got := meet(t, conns, name, version)
	if got != want {
		t.Errorf("%s %s was asked for the events %b, want %b", name, version, got, want)
	}
	return raw, conn
}

func synchronize(t *testing.T, raw *rawRuntime, p *running) Runtime {
	t.Helper()
	if _, err := raw.plugin.Synchronize(t.Context(), &api.SynchronizeRequest{}); err != nil {
		t.Fatal(err)
	}
	return receive(t, "Synced", p.synced)
}

// The one that ends before it was configured has declined nothing, nor has one that keeps us waiting.
func TestDeclines(t *testing.T) {
	for _, test := range []struct {
		name, runtime string
		accepted      bool
		err           error
		want          string
	}{
		{"closed", "other", false, errClosed, "other 1.0"},
		{"closed during the registration", "other", false, fmt.Errorf("failed to register: %w", ttrpc.ErrClosed), "other 1.0"},
		{"closed after it had accepted", "other", true, errClosed, ""},
		{"silent", "other", false, errors.New("no answer"), ""},
		{"stopped", "other", false, context.Canceled, ""},
		{"not configured", "", false, errClosed, ""},
	} {
		h := newHooks(&pods{}, &events{})
		if test.runtime != "" {
			h.runtime = Runtime{Name: test.runtime, Version: "1.0", Validates: true, guessed: true}
		}
		if test.accepted {
			if _, err := h.Synchronize(t.Context(), nil, nil); err != nil {
				t.Fatal(err)
			}
		}
		if got := h.declines(isGone(test.err)); got != test.want {
			t.Errorf("%s: %q, want %q", test.name, got, test.want)
		}
	}
}

// Lost ends what Synced began, whoever ended the session, and nothing else.
func TestLost(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	_ = receive(t, "a connection", conns).Close() // never ready

	raw, conn, _ := meet(t, conns, "containerd", "v2.4.2")
	synchronize(t, raw, p)
	if len(p.lost) != 0 {
		t.Error("Lost was called for a session that never was")
	}
	_ = conn.Close()
	if err := receive(t, "Lost", p.lost); err == nil {
		t.Error("Lost got no error")
	}

	raw = &rawRuntime{}
	raw.serve(t, receive(t, "another connection", conns))
	raw.accept(t, "cri-o", "1.36.0")
	receive(t, "Synced", p.synced)
	stopPromptly(t, p)
	if err := receive(t, "Lost", p.lost); !errors.Is(err, context.Canceled) {
		t.Errorf("a stop was told as %v", err)
	}
	if len(p.lost) != 0 {
		t.Errorf("Lost was called %d times more", len(p.lost))
	}
}
