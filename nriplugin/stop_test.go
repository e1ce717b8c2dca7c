// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/rules"
)

// blocked is an Enforcer that keeps the pod "slow" until it is released or out of time.
func blocked() (enforcer *pods, entered, release chan struct{}) {
	entered, release = make(chan struct{}), make(chan struct{})
	return &pods{enforce: func(ctx context.Context, pod rules.Pod) error {
		if pod.Name != "slow" {
			return ctx.Err()
		}
		close(entered)
		select {
		case <-release:
			return errors.New("refused at last")
		case <-ctx.Done():
			return ctx.Err()
		}
	}}, entered, release
}

func TestStopFinishesWhatItBegan(t *testing.T) {
	noLeaks(t)
	requestTimeout(t, 5*time.Second)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2")
	enforcer, entered, release := blocked()
	p := run(t, socket, enforcer)
	rt.connected(t)

	answer := make(chan error, 1)
	go func() { answer <- rt.runPod(t, meshed("slow")) }()
	receive(t, "the pod in the Enforcer", entered)
	p.stop()
	select {
	case err := <-p.done:
		t.Fatalf("Run ended with an answer owed: %v", err)
	case err := <-answer:
		t.Fatalf("the runtime was answered already: %v", err)
	case <-time.After(50 * time.Millisecond): // nothing can be waited for: it is to stay as it is
	}
	close(release)
	if err := receive(t, "the answer", answer); err == nil || !strings.Contains(err.Error(), "refused at last") {
		t.Errorf("the runtime got %v, want the Enforcer's answer", err)
	}
	if err := receive(t, "the end of Run", p.done); err != nil {
		t.Errorf("Run: %v", err)
	}
	eventually(t, "the runtime noticed", func() bool {
		_ = rt.runPod(t, meshed("other")) // it looks for closed plugins after each request
		return rt.plugins.Load() == 0
	})
	if len(p.log.of("nri_lost")) != 0 {
		t.Error("an ordinary stop was logged as a loss")
	}
}

// New requests are refused while the last ones are finished, by a runtime that asks them side by side. It
// is also one from before NRI 0.7 and 0.12: no timeouts, and StateChange instead of RunPodSandbox.
func TestStopRefusesNewWork(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	enforcer, entered, release := blocked()
	p := run(t, socket, enforcer)
	raw := &rawRuntime{}
	raw.serve(t, receive(t, "a connection", conns))
	if got := raw.accept(t, "containerd", "1.7.35", meshed("old")).GetEvents(); got != plainMask {
		t.Errorf("asked for the events %b", got)
	}
	receive(t, "Synced", p.synced)
	if connected := p.log.of("nri_connected"); connected[0]["request_timeout"] != "0s" {
		t.Errorf("logged %v", connected)
	}

	runPod := func(id string) error {
		_, err := raw.plugin.StateChange(t.Context(), &api.StateChangeEvent{Event: api.Event_RUN_POD_SANDBOX, Pod: meshed(id)})
		return err
	}
	if err := runPod("good"); err != nil {
		t.Error(err)
	}
	answer := make(chan error, 1)
	go func() { answer <- runPod("slow") }()
	receive(t, "the pod in the Enforcer", entered)
	p.stop()
	eventually(t, "new pods refused", func() bool {
		err := runPod("late")
		return err != nil && strings.Contains(err.Error(), errStopping.Error())
	})
	close(release)
	if err := receive(t, "the answer", answer); err == nil || !strings.Contains(err.Error(), "refused at last") {
		t.Errorf("the runtime got %v, want the Enforcer's answer", err)
	}
	if err := receive(t, "the end of Run", p.done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// Even an Enforcer at work until its very end leaves time for the answer, and Run ends.
func TestStopIsBounded(t *testing.T) {
	noLeaks(t)
	requestTimeout(t, 700*time.Millisecond)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2")
	enforcer, entered, _ := blocked()
	p := run(t, socket, enforcer)
	rt.connected(t)
	answer := make(chan error, 1)
	go func() { answer <- rt.runPod(t, meshed("slow")) }()
	receive(t, "the pod in the Enforcer", entered)
	p.stop()
	// The Enforcer's error, not the runtime's own about a plugin that failed to handle the request.
	if err := receive(t, "the answer", answer); err == nil || strings.Contains(err.Error(), "failed to handle") {
		t.Errorf("the runtime got %v", err)
	}
	if err := receive(t, "the end of Run", p.done); err != nil {
		t.Errorf("Run: %v", err)
	}
}

// A connection that is lost with a pod in the Enforcer ends the work on it: its answer reaches nobody.
func TestLostWhileBusy(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	enforcer, entered, _ := blocked()
	p := run(t, socket, enforcer)
	conn := receive(t, "a connection", conns)
	raw := &rawRuntime{}
	raw.serve(t, conn)
	raw.accept(t, "containerd", "v2.4.2")
	answer := make(chan error, 1)
	go func() {
		_, err := raw.plugin.RunPodSandbox(t.Context(), &api.RunPodSandboxRequest{Pod: meshed("slow")})
		answer <- err
	}()
	receive(t, "the pod in the Enforcer", entered)
	_ = conn.Close()
	if err := receive(t, "the failure", answer); err == nil {
		t.Error("the runtime got an answer")
	}
	eventually(t, "the loss noticed", func() bool { return len(p.log.of("nri_lost")) == 1 })
	next := &rawRuntime{}
	next.serve(t, receive(t, "another connection", conns))
	next.accept(t, "containerd", "v2.4.2")
	eventually(t, "a new session", func() bool { return len(p.log.of("nri_connected")) == 2 })
}

// A panic must neither end the process nor let the pod run.
func TestPanicRefusesThePod(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2", meshed("old"))
	run(t, socket, &pods{
		enforce: func(_ context.Context, pod rules.Pod) error {
			if pod.Name == "odd" {
				panic("kaboom")
			}
			return nil
		},
		synchronize: func(context.Context, []rules.Pod) { panic("kaboom") },
	})
	rt.connected(t)
	if err := rt.runPod(t, meshed("odd")); err == nil || !strings.Contains(err.Error(), "default/odd") {
		t.Errorf("the runtime got %v, want an error with the pod", err)
	}
	if err := rt.runPod(t, meshed("next")); err != nil {
		t.Errorf("the next pod: %v", err)
	}
}
