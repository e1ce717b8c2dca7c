// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
)

func TestReconnect(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	enforcer := &pods{}
	var p *running
	for i, version := range []string{"v2.3.9", "v2.4.2", "v2.2.3"} { // an upgrade, and a downgrade
		rt := startRuntime(t, socket, "containerd", version, meshed("old"))
		if p == nil {
			p = run(t, socket, enforcer)
		}
		rt.connected(t)
		if got := receive(t, "Synced", p.synced); got.Version != version {
			t.Errorf("session %d: Synced got %v", i, got)
		}
		if err := rt.runPod(t, meshed("new")); err != nil {
			t.Error(err)
		}
		rt.end()
		eventually(t, "the loss noticed", func() bool { return len(p.log.of("nri_lost")) == i+1 })
		if connected := p.log.of("nri_connected"); len(connected) != i+1 || connected[i]["version"] != version {
			t.Errorf("session %d: logged %v", i, connected)
		}
	}
	if len(enforcer.synced) != 3 || len(enforcer.asked()) != 3 {
		t.Errorf("synchronized %d times, asked about %v", len(enforcer.synced), enforcer.asked())
	}
}

func TestWaitForTheSocket(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	p := run(t, socket, &pods{})
	eventually(t, "the waiting logged", func() bool { return len(p.log.of("nri_waiting")) == 1 })

	// A socket that nobody serves is another thing to say, once; the plugin's attempts are not seen, so
	// let it be one that also counts them.
	conns := listen(t, socket)
	for range 3 {
		_ = receive(t, "an attempt", conns).Close()
	}
	eventually(t, "the other failure logged", func() bool { return len(p.log.of("nri_waiting")) == 2 })
	if err := os.Remove(socket); err != nil {
		t.Fatal(err)
	}
	rt := startRuntime(t, socket, "cri-o", "1.36.0")
	rt.connected(t)
	receive(t, "Synced", p.synced)

	waiting := p.log.of("nri_waiting")
	if first := waiting[0]["error"]; !strings.Contains(first, socket) || !strings.Contains(first, "disable = false") {
		t.Errorf("%q does not say what to do", first)
	}
	if len(waiting) > 3 { // no socket, closed, and maybe no socket again
		t.Errorf("it logged its waiting %d times: %v", len(waiting), waiting)
	}
	if len(p.log.of("nri_lost")) != 0 {
		t.Error("it lost what it never had")
	}
}

// The same failure is no news, however often it happens.
func TestWaitingIsSaidOnce(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	for range 5 {
		_ = receive(t, "an attempt", conns).Close()
	}
	if waiting := p.log.of("nri_waiting"); len(waiting) != 1 || !strings.Contains(waiting[0]["error"], "closed") {
		t.Errorf("logged %v", waiting)
	}
}

func TestUnsupportedRuntime(t *testing.T) {
	for _, runtime := range [][2]string{{"containerd", "v1.7.25"}, {"containerd", "v2.0.2"}, {"cri-o", "1.29.9"}} {
		t.Run(runtime[0]+" "+runtime[1], func(t *testing.T) {
			noLeaks(t)
			socket := socketPath(t)
			startRuntime(t, socket, runtime[0], runtime[1])
			enforcer, log := &pods{}, &events{}
			p := &Plugin{Socket: socket, Name: "meshnetd", Index: "95", Pods: enforcer, Log: slog.New(log)}
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			err := p.Run(ctx)
			var unsupported *Unsupported
			if !errors.As(err, &unsupported) || unsupported.Runtime != runtime[0] || unsupported.Version != runtime[1] {
				t.Errorf("Run: %v, want *Unsupported", err)
			}
			if len(enforcer.synced) != 0 || len(log.of("nri_connected")) != 0 {
				t.Error("a session was held")
			}
		})
	}
}

// The runtime accepts the connection, and that is all: it is waited for, and the wait can be ended.
func TestSilentRuntime(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	conn := receive(t, "a connection", conns)
	defer conn.Close()
	if _, err := conn.Read(make([]byte, 1)); err != nil { // it has begun to register
		t.Fatal(err)
	}
	stopPromptly(t, p)
}

// The connection ends between Register and Configure, where the stub waits for ever.
func TestClosedAfterRegister(t *testing.T) {
	for _, stopped := range []bool{false, true} {
		t.Run(fmt.Sprintf("stopped %t", stopped), func(t *testing.T) {
			noLeaks(t)
			socket := socketPath(t)
			conns := listen(t, socket)
			p := run(t, socket, &pods{})
			last := &lastWords{Conn: receive(t, "a connection", conns)}
			last.left.Store(2) // header and body of the answer to RegisterPlugin
			raw := &rawRuntime{}
			raw.serve(t, last)
			receive(t, "the registration", raw.registered)
			eventually(t, "the end of the connection", func() bool { return last.left.Load() <= 0 })
			if !stopped {
				eventually(t, "the failure logged", func() bool { return len(p.log.of("nri_waiting")) == 1 })
				// The plugin is as good as new.
				next := &rawRuntime{}
				next.serve(t, receive(t, "another connection", conns))
			}
			stopPromptly(t, p)
		})
	}
}

// The runtime configures the plugin and never answers its registration: both of the stub's waits at once.
func TestConfiguredButNotRegistered(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	p := run(t, socket, &pods{})
	never := make(chan struct{})
	raw := &rawRuntime{onRegister: func(ctx context.Context) error {
		select {
		case <-never:
		case <-ctx.Done():
		}
		return nil
	}}
	raw.serve(t, receive(t, "a connection", conns))
	defer close(never)
	receive(t, "the registration", raw.registered)
	if _, err := raw.plugin.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"}); err != nil {
		t.Fatal(err)
	}
	stopPromptly(t, p)
}

// A stop in the first moments of a session finds the stub in any of its states.
func TestStopAtAnyMoment(t *testing.T) {
	noLeaks(t)
	const rounds = 150
	var ready int
	var whole time.Duration // what a session takes to be ready, roughly
	for i := range rounds {
		limit := 3 * whole * time.Duration(i) / (2 * rounds)
		if i < 2 { // the first is slower than all others
			limit = patience
		}
		socket := socketPath(t) // of its own: a late connection is not to be taken for one of the next round
		conns := listen(t, socket)
		ctx, cancel := context.WithTimeout(t.Context(), limit)
		start := time.Now()
		p := &Plugin{Socket: socket, Name: "meshnetd", Index: "95", Pods: &pods{}, Log: slog.New(slog.DiscardHandler),
			Synced: func(Runtime) {
				ready++
				if i < 2 {
					whole = time.Since(start)
					cancel()
				}
			}}
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		end, asked := func() {}, make(chan struct{})
		select {
		case conn := <-conns:
			raw := &rawRuntime{}
			end = raw.serve(t, conn)
			go func() {
				defer close(asked)
				select {
				case <-raw.registered:
					_, _ = raw.plugin.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"})
					_, _ = raw.plugin.Synchronize(t.Context(), &api.SynchronizeRequest{})
				case <-ctx.Done():
				}
			}()
		case <-ctx.Done():
			close(asked)
		}
		if err := receive(t, "the end of Run", done); err != nil {
			t.Errorf("Run: %v", err)
		}
		cancel()
		receive(t, "the end of the runtime's requests", asked)
		end()
	}
	// Both kinds must occur, or the stops came too early or too late to find anything.
	if ready < 2 || ready == rounds {
		t.Errorf("%d of %d sessions became ready", ready, rounds)
	}
	t.Logf("%d of %d sessions became ready, one takes %s", ready, rounds, whole)
}

func TestStopWhileWaiting(t *testing.T) {
	noLeaks(t)
	p := run(t, socketPath(t), &pods{})
	eventually(t, "the waiting logged", func() bool { return len(p.log.of("nri_waiting")) == 1 })
	stopPromptly(t, p)
}

func TestStopBeforeTheStart(t *testing.T) {
	noLeaks(t)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	p := &Plugin{Socket: socketPath(t), Name: "meshnetd", Index: "95", Pods: &pods{}, Log: slog.New(slog.DiscardHandler)}
	if err := p.Run(ctx); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// stopPromptly stops a plugin that has nothing to finish.
func stopPromptly(t *testing.T, p *running) {
	t.Helper()
	start := time.Now()
	p.stop()
	if err := receive(t, "the end of Run", p.done); err != nil {
		t.Errorf("Run: %v", err)
	}
	if took := time.Since(start); took > 2*time.Second {
		t.Errorf("Run went on for %s", took)
	}
}

func TestExplain(t *testing.T) {
	dir := t.TempDir()
	stale := socketPath(t)
	listener, err := net.Listen("unix", stale)
	if err != nil {
		t.Fatal(err)
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	_ = listener.Close()
	for socket, want := range map[string]string{
		filepath.Join(dir, "none.sock"): "enable_nri = true",
		stale:                           "is the runtime running?",
	} {
		p := &Plugin{Socket: socket, Name: "meshnetd", Index: "95", Log: slog.New(slog.DiscardHandler)}
		if e := p.session(t.Context(), &pace{}); e.stage != away || e.err == nil || !strings.Contains(e.err.Error(), want) || !strings.Contains(e.err.Error(), socket) {
			t.Errorf("%s: %v, want %q", socket, e.err, want)
		}
	}
	p := &Plugin{Socket: stale}
	if err := p.explain(os.ErrPermission); !strings.Contains(err.Error(), "run as root") || !errors.Is(err, os.ErrPermission) {
		t.Errorf("no permission: %v", err)
	}
}
