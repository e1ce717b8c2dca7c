// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/ttrpc"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

func TestPodOf(t *testing.T) {
	whole := &api.PodSandbox{
		Id: "0123456789abcdef", Name: "shop-1", Uid: "u-1", Namespace: "shop", RuntimeHandler: "runc",
		Labels:      map[string]string{"app": "shop"},
		Annotations: map[string]string{"sidecar.istio.io/status": "{}"},
		Pid:         4711, Ips: []string{"10.0.0.7"},
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{
			{Type: "pid"}, {Type: "network", Path: "/run/netns/cni-1"}, {Type: "user", Path: "/run/userns/1"}}},
	}
	want := rules.Pod{
		SandboxID: "0123456789abcdef", Name: "shop-1", UID: "u-1", Namespace: "shop", RuntimeHandler: "runc",
		Labels:      map[string]string{"app": "shop"},
		Annotations: map[string]string{"sidecar.istio.io/status": "{}"},
		NetNS:       "/run/netns/cni-1",
		// No addresses: the namespace is asked for them.
	}
	if diff := cmp.Diff(want, podOf(whole)); diff != "" {
		t.Errorf("a whole sandbox (-want +got):\n%s", diff)
	}

	for _, test := range []struct {
		name       string
		namespaces []*api.LinuxNamespace
		want       rules.Pod
	}{
		{"no list proves nothing", nil, rules.Pod{}},
		{"an empty list proves nothing", []*api.LinuxNamespace{}, rules.Pod{}},
		{"a list without network proves nothing", []*api.LinuxNamespace{{Type: "ipc"}, {Type: "mount"}}, rules.Pod{NetNS: "/proc/4711/ns/net", NetNSOfPause: true}},
		{"only user is a list too", []*api.LinuxNamespace{{Type: "user"}}, rules.Pod{NetNS: "/proc/4711/ns/net", NetNSOfPause: true}},
		{"network", []*api.LinuxNamespace{{Type: "network", Path: "/n"}}, rules.Pod{NetNS: "/n"}},
		{"network of a process", []*api.LinuxNamespace{{Type: "network", Path: "/proc/7/ns/net"}}, rules.Pod{NetNS: "/proc/7/ns/net"}},
		// CRI-O pins the host's namespace: it is listed like any other, and only its inode tells.
		{"pinned host network", []*api.LinuxNamespace{{Type: "ipc", Path: "/i"}, {Type: "network", Path: "/n"}}, rules.Pod{NetNS: "/n"}},
		// Listed without a path: a namespace of its own that is not there yet, or not any more.
		{"network without a path", []*api.LinuxNamespace{{Type: "ipc"}, {Type: "network"}}, rules.Pod{}},
		{"entries that are nil", []*api.LinuxNamespace{nil, {Type: "network", Path: "/n"}, nil}, rules.Pod{NetNS: "/n"}},
	} {
		sandbox := &api.PodSandbox{Pid: 4711, Linux: &api.LinuxPodSandbox{Namespaces: test.namespaces}}
		if diff := cmp.Diff(test.want, podOf(sandbox)); diff != "" {
			t.Errorf("%s (-want +got):\n%s", test.name, diff)
		}
	}
	stopped := &api.PodSandbox{Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "ipc"}}}}
	for name, sandbox := range map[string]*api.PodSandbox{"nil": nil, "empty": {}, "without linux": {Id: ""}, "stopped": stopped} {
		if diff := cmp.Diff(rules.Pod{}, podOf(sandbox)); diff != "" {
			t.Errorf("a sandbox that is %s (-want +got):\n%s", name, diff)
		}
	}
}

func TestBudget(t *testing.T) {
	for _, test := range []struct {
		name            string
		timeout, theirs time.Duration // theirs is the deadline of the request; 0 is none
		want            time.Duration
	}{
		{"unknown, no deadline", 0, 0, 1700 * time.Millisecond},
		{"unknown, as old runtimes", 0, 2 * time.Second, 1700 * time.Millisecond},
		{"nonsense", -time.Second, 0, 1700 * time.Millisecond},
		{"the default", 2 * time.Second, 2 * time.Second, 1700 * time.Millisecond},
		{"generous", 10 * time.Second, 10 * time.Second, 9700 * time.Millisecond},
		{"only what is left of a request", 10 * time.Second, time.Second, 700 * time.Millisecond},
		{"the request gives more than the runtime", time.Second, time.Minute, 700 * time.Millisecond},
		{"short", 400 * time.Millisecond, 400 * time.Millisecond, 200 * time.Millisecond},
		{"very short", 100 * time.Millisecond, 100 * time.Millisecond, 50 * time.Millisecond},
		{"where the margin changes", 600 * time.Millisecond, 0, 300 * time.Millisecond},
		{"nothing left", 2 * time.Second, 100 * time.Millisecond, -200 * time.Millisecond},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		start := time.Now()
		if test.theirs != 0 {
			ctx, cancel = context.WithDeadline(t.Context(), start.Add(test.theirs))
		}
		ours, cancelOurs := budget(ctx, test.timeout)
		deadline, ok := ours.Deadline()
		got := deadline.Sub(start)
		// Without a deadline of theirs ours counts from a moment later; the error is never a late answer.
		if slack := got - test.want; !ok || slack < 0 || slack > 50*time.Millisecond {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
		if test.want < 0 && ours.Err() == nil {
			t.Errorf("%s: the context goes on", test.name)
		}
		cancelOurs()
		if test.want > 0 && ctx.Err() != nil {
			t.Errorf("%s: ends the context it was given", test.name)
		}
		cancel()
	}
}

// newHooks returns hooks as session makes them.
func newHooks(enforcer Enforcer, log *events) *hooks {
	return &hooks{pods: enforcer, log: slog.New(log), synced: func(Runtime) {},
		timeout: func() time.Duration { return 2 * time.Second }}
}

func TestPanicBecomesAnError(t *testing.T) {
	log := &events{}
	h := newHooks(&pods{
		enforce:     func(context.Context, rules.Pod) error { panic("kaboom") },
		admit:       func(context.Context, rules.Pod, rules.Container) error { panic("kaboom") },
		validate:    func(context.Context, rules.Pod, rules.Container) error { panic("kaboom") },
		synchronize: func(context.Context, []rules.Pod) { panic("kaboom") },
	}, log)

	err := h.RunPodSandbox(t.Context(), meshed("a"))
	if err == nil || !strings.Contains(err.Error(), "default/a") || !strings.Contains(err.Error(), "kaboom") {
		t.Errorf("RunPodSandbox: %v, want an error with the pod and the panic", err)
	}
	if _, _, err := h.CreateContainer(t.Context(), meshed("a"), nil); err == nil {
		t.Error("CreateContainer let a container through that nobody has looked at")
	}
	if err := h.ValidateContainerAdjustment(t.Context(), &api.ValidateContainerAdjustmentRequest{Pod: meshed("a")}); err == nil {
		t.Error("ValidateContainerAdjustment let a container through that nobody has looked at")
	}
	// The session goes on: new pods are to be protected, or refused.
	if _, err := h.Synchronize(t.Context(), []*api.PodSandbox{meshed("a")}, nil); err != nil {
		t.Errorf("Synchronize: %v", err)
	}
	logged := log.of("nri_panic")
	if len(logged) != 4 || !strings.Contains(logged[0]["stack"], "TestPanicBecomesAnError") {
		t.Errorf("logged %v, want four panics and where they were", logged)
	}
	h.drain() // a panic that stays counted as busy would block the end for ever
}

// What takes time is refused while meshnetd is being stopped; what is known is still answered.
func TestStoppingHooks(t *testing.T) {
	known := func(ctx context.Context, pod rules.Pod) error {
		if pod.SandboxID == "known" {
			return nil
		}
		return ctx.Err()
	}
	of := func(ctx context.Context, pod rules.Pod, _ rules.Container) error { return known(ctx, pod) }
	enforcer := &pods{enforce: known, admit: of, validate: of}
	h := newHooks(enforcer, &events{})
	h.drain()
	if err := h.RunPodSandbox(t.Context(), meshed("known")); err != nil {
		t.Errorf("RunPodSandbox of what is known: %v", err)
	}
	if _, _, err := h.CreateContainer(t.Context(), meshed("known"), nil); err != nil {
		t.Errorf("CreateContainer of what is known: %v", err)
	}
	if err := h.RunPodSandbox(t.Context(), meshed("a")); !errors.Is(err, errStopping) {
		t.Errorf("RunPodSandbox: %v", err)
	}
	if _, err := h.Synchronize(t.Context(), []*api.PodSandbox{meshed("a")}, nil); !errors.Is(err, errStopping) {
		t.Errorf("Synchronize: %v", err)
	}
	if _, _, err := h.CreateContainer(t.Context(), meshed("a"), nil); !errors.Is(err, errStopping) {
		t.Errorf("CreateContainer: %v", err)
	}
	if err := h.ValidateContainerAdjustment(t.Context(), &api.ValidateContainerAdjustmentRequest{Pod: meshed("a")}); !errors.Is(err, errStopping) {
		t.Errorf("ValidateContainerAdjustment: %v", err)
	}
	if len(enforcer.synced) != 0 {
		t.Errorf("pods taken over: %v", enforcer.synced)
	}
}

func TestConfigureOnce(t *testing.T) {
	configure := func(h *hooks) error {
		_, err := h.intercept(t.Context(), nil, &ttrpc.UnaryServerInfo{FullMethod: "/nri.pkg.api.v1alpha1.Plugin/Configure"},
			func(ctx context.Context, _ func(any) error) (any, error) {
				return h.Configure(ctx, "", "containerd", "v2.4.2")
			})
		return err
	}
	h := newHooks(&pods{}, &events{})
	if err := configure(h); err != nil {
		t.Errorf("the runtime's Configure: %v", err)
	}
	if err := configure(h); !errors.Is(err, errAborted) {
		t.Errorf("its second: %v", err)
	}
	if !h.abort() {
		t.Error("abort has not seen the Configure")
	}

	h = newHooks(&pods{}, &events{})
	if h.abort() {
		t.Error("abort has seen a Configure")
	}
	if err := configure(h); !errors.Is(err, errAborted) {
		t.Errorf("the runtime's Configure after abort: %v", err)
	}
	if _, err := h.Configure(t.Context(), "", "", ""); !errors.Is(err, errAborted) {
		t.Errorf("our own Configure: %v", err)
	}
}

// The runtime has an answer before it gives up, also of an Enforcer that honours no context.
func TestAnswerInTimeWhateverTheEnforcerDoes(t *testing.T) {
	const limit = 600 * time.Millisecond
	question := map[string]func(context.Context, *hooks) error{
		"RunPodSandbox": func(ctx context.Context, h *hooks) error { return h.RunPodSandbox(ctx, meshed("slow")) },
		"CreateContainer": func(ctx context.Context, h *hooks) error {
			_, _, err := h.CreateContainer(ctx, meshed("slow"), app(meshed("slow")))
			return err
		},
		"ValidateContainerAdjustment": func(ctx context.Context, h *hooks) error {
			return h.ValidateContainerAdjustment(ctx, &api.ValidateContainerAdjustmentRequest{Pod: meshed("slow"), Container: app(meshed("slow"))})
		},
	}
	for _, hook := range everyHook() {
		for heeds, want := range map[bool]time.Duration{true: limit - answerMargin, false: limit - answerMargin*2/3} {
			synctest.Test(t, func(t *testing.T) {
				release := make(chan struct{})
				defer close(release)
				enforcer := &pods{}
				hook.set(enforcer, func(ctx context.Context, _ rules.Pod) error {
					if heeds {
						<-ctx.Done()
						return errors.New("did not finish pod in time")
					}
					<-release
					return nil
				})
				ctx, cancel := context.WithTimeout(t.Context(), limit)
				defer cancel()
				start := time.Now()
				err := question[hook.name](ctx, newHooks(enforcer, &events{}))
				if took := time.Since(start); took != want || err == nil || !strings.Contains(err.Error(), "did not finish pod") {
					t.Errorf("%s, heeds %t: after %s (want %s) %v", hook.name, heeds, took, want, err)
				}
			})
		}
	}
}

// A sandbox that runs and of which nothing is known is not passed over at Synchronize.
func TestSynchronizeKeepsWhatItCannotTell(t *testing.T) {
	enforcer := &pods{}
	h := newHooks(enforcer, &events{})
	h.synced = func(Runtime) {}
	running, stopped, host := meshed("running"), meshed("stopped"), meshed("host")
	running.Linux, stopped.Linux = nil, nil
	host.Linux.Namespaces = host.Linux.Namespaces[:1]
	running.Pid, stopped.Pid, host.Pid = 7, 0, 8
	if _, err := h.Synchronize(t.Context(), []*api.PodSandbox{running, stopped, host}, nil); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]rules.Pod{{podOf(running), podOf(host)}}, enforcer.synced); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
