// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestSession(t *testing.T) {
	noLeaks(t)
	stopped, host, namespaceless := meshed("stopped"), meshed("host"), meshed("nothing")
	stopped.Linux.Namespaces[1].Path = ""
	host.Linux.Namespaces = host.Linux.Namespaces[:1]
	namespaceless.Linux = nil
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2", meshed("old"), stopped, host, namespaceless)

	refuse := errors.New(`annotation traffic.sidecar.istio.io/includeOutboundIPRanges: "x" is no network`)
	enforcer := &pods{enforce: func(_ context.Context, pod rules.Pod) error {
		if pod.Name == "bad" {
			return fmt.Errorf("pod %s: %w", pod, refuse)
		}
		return nil
	}}
	p := run(t, socket, enforcer)
	rt.connected(t)

	if diff := cmp.Diff([][]rules.Pod{{podOf(meshed("old"))}}, enforcer.synced); diff != "" {
		t.Errorf("Synchronize got (-want +got):\n%s", diff)
	}
	if got := receive(t, "Synced", p.synced); got.Name != "containerd" || got.Version != "v2.4.2" || got.RefuseLate {
		t.Errorf("Synced got %+v", got)
	}
	good := meshed("good")
	good.Labels, good.Annotations = map[string]string{"l": "1"}, map[string]string{"a": "2"}
	if err := rt.runPod(t, good); err != nil {
		t.Errorf("a pod that may run: %v", err)
	}
	if diff := cmp.Diff([]rules.Pod{podOf(good)}, enforcer.enforced); diff != "" {
		t.Errorf("Enforce got (-want +got):\n%s", diff)
	}
	// This text is what a developer reads in kubectl describe pod.
	if err := rt.runPod(t, meshed("bad")); err == nil || !strings.Contains(err.Error(), "pod default/bad: "+refuse.Error()) {
		t.Errorf("a pod that may not run: %v", err)
	}
	if err := rt.createContainer(t, meshed("bad")); err != nil {
		t.Errorf("a container was refused: %v", err)
	}
	if err := rt.runPod(t, meshed("next")); err != nil {
		t.Errorf("the pod after a refused one: %v", err)
	}
	if got := enforcer.asked(); !slices.Equal(got, []string{"good", "bad", "next"}) {
		t.Errorf("asked about %v", got)
	}
	connected := p.log.of("nri_connected")
	if len(connected) != 1 || connected[0]["runtime"] != "containerd" || connected[0]["version"] != "v2.4.2" ||
		connected[0]["request_timeout"] != "2s" || connected[0]["refuse_late"] != "false" || connected[0]["level"] != "INFO" ||
		connected[0]["tier"] != "guaranteed" || connected[0]["validates"] != "true" || connected[0]["tells_user"] != "true" ||
		!strings.Contains(connected[0]["why"], "containers of the mesh show") || connected[0]["limits"] != "" {
		t.Errorf("logged %v", connected)
	}
}

// An Enforcer that cannot finish must still refuse in time: a late answer lets the pod run.
func TestAnswerBeforeTheDeadline(t *testing.T) {
	for _, limit := range []time.Duration{400 * time.Millisecond, time.Second} {
		t.Run(limit.String(), func(t *testing.T) {
			noLeaks(t)
			requestTimeout(t, limit)
			socket := socketPath(t)
			rt := startRuntime(t, socket, "containerd", "v2.4.2")
			enforcer := &pods{enforce: func(ctx context.Context, pod rules.Pod) error {
				if pod.Name == "slow" {
					<-ctx.Done()
					return fmt.Errorf("pod %s: out of time", pod)
				}
				return nil
			}}
			p := run(t, socket, enforcer)
			rt.connected(t)
			for range 3 {
				start := time.Now()
				err := rt.runPod(t, meshed("slow"))
				took := time.Since(start)
				if err == nil || !strings.Contains(err.Error(), "pod default/slow: out of time") {
					t.Errorf("after %s: %v, want the Enforcer's own error", took, err)
				}
				t.Logf("limit %s: refused %s before it", limit, limit-took)
			}
			if err := rt.runPod(t, meshed("next")); err != nil {
				t.Errorf("the next pod: %v", err)
			}
			if got := enforcer.asked(); len(got) != 4 || rt.plugins.Load() != 1 || len(p.log.of("nri_lost")) != 0 {
				t.Errorf("asked about %v with %d plugins: the session was lost", got, rt.plugins.Load())
			}
		})
	}
}

func TestSlowSynchronize(t *testing.T) {
	noLeaks(t)
	requestTimeout(t, time.Second)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2", meshed("old"))
	enforcer := &pods{synchronize: func(ctx context.Context, _ []rules.Pod) { <-ctx.Done() }}
	p := run(t, socket, enforcer)
	rt.connected(t)
	if err := rt.runPod(t, meshed("new")); err != nil {
		t.Error(err)
	}
	if len(enforcer.synced) != 1 || len(enforcer.asked()) != 1 || len(p.log.of("nri_lost")) != 0 {
		t.Errorf("synchronized %d times, asked about %v", len(enforcer.synced), enforcer.asked())
	}
}

// These versions of containerd do not survive a refused RunPodSandbox: the Enforcer is told of each
// container then, and refuses those.
func TestRefuseLate(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.2.3")
	reason := errors.New("no iptables on this node")
	refuse := reason // set between requests only
	judge := func(pod rules.Pod) error {
		if pod.Name == "bad" {
			return refuse
		}
		return nil
	}
	enforcer := &pods{
		enforce: func(_ context.Context, pod rules.Pod) error { return judge(pod) },
		admit:   func(_ context.Context, pod rules.Pod, _ rules.Container) error { return judge(pod) },
	}
	p := run(t, socket, enforcer)
	rt.connected(t)

	if err := rt.runPod(t, meshed("bad")); err != nil {
		t.Errorf("RunPodSandbox was refused: %v", err)
	}
	if err := rt.runPod(t, meshed("good")); err != nil {
		t.Error(err)
	}
	if err := rt.createContainer(t, meshed("good")); err != nil {
		t.Errorf("a container of a protected pod: %v", err)
	}
	for range 2 { // kubelet tries again
		if err := rt.createContainer(t, meshed("bad")); err == nil || !strings.Contains(err.Error(), reason.Error()) {
			t.Errorf("CreateContainer: %v, want %q", err, reason)
		}
	}
	refuse = nil
	for range 2 {
		if err := rt.createContainer(t, meshed("bad")); err != nil {
			t.Errorf("CreateContainer of a pod that is protected now: %v", err)
		}
	}
	if got := enforcer.asked(); !slices.Equal(got, []string{"bad", "good"}) || len(enforcer.admitted) != 5 {
		t.Errorf("asked about the sandboxes %v and the containers %v", got, enforcer.admitted)
	}
	connected := p.log.of("nri_connected")
	if connected[0]["refuse_late"] != "true" || connected[0]["tier"] != "reduced" || connected[0]["level"] != "WARN" {
		t.Errorf("logged %v", connected)
	}
}

// A sandbox that was let through to be refused later must not get away with a new session: the Enforcer is
// told what the sandbox holds, and asked about what it is to hold.
func TestRefuseLateSurvivesTheSession(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	waiting, running := meshed("waiting"), meshed("running")
	inside := app(running)
	inside.State = api.ContainerState_CONTAINER_RUNNING
	rt := startRuntimeWith(t, socket, "containerd", "v2.2.3", []*api.PodSandbox{waiting, running}, []*api.Container{inside})
	enforcer := &pods{admit: func(_ context.Context, pod rules.Pod, _ rules.Container) error {
		if pod.Name == "waiting" {
			return errors.New("still not")
		}
		return nil
	}}
	run(t, socket, enforcer)
	rt.connected(t)

	want := []rules.Pod{podOf(waiting), podOf(running)}
	started := ofApp()
	started.Running = true
	want[1].Containers = []rules.Container{started}
	if diff := cmp.Diff([][]rules.Pod{want}, enforcer.synced); diff != "" {
		t.Errorf("Synchronize got (-want +got):\n%s", diff)
	}
	if err := rt.createContainer(t, waiting); err == nil || !strings.Contains(err.Error(), "still not") {
		t.Errorf("a container of a sandbox that was let through: %v", err)
	}
	if err := rt.createContainer(t, running); err != nil {
		t.Errorf("a container of a sandbox that has one: %v", err)
	}
}
