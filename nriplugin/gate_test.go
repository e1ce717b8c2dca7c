// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
	"github.com/google/go-cmp/cmp"

	"github.com/meshnetd/meshnetd/rules"
)

// hook is one of the three questions of a runtime.
type hook struct {
	name string
	ask  func(t *testing.T, rt *runtimeSide, pod *api.PodSandbox) error
	set  func(p *pods, do func(context.Context, rules.Pod) error)
}

func everyHook() []hook {
	create := func(t *testing.T, rt *runtimeSide, pod *api.PodSandbox) error { return rt.createContainer(t, pod) }
	return []hook{
		{"RunPodSandbox", func(t *testing.T, rt *runtimeSide, pod *api.PodSandbox) error { return rt.runPod(t, pod) },
			func(p *pods, do func(context.Context, rules.Pod) error) { p.enforce = do }},
		{"CreateContainer", create, func(p *pods, do func(context.Context, rules.Pod) error) {
			p.admit = func(ctx context.Context, pod rules.Pod, _ rules.Container) error { return do(ctx, pod) }
		}},
		{"ValidateContainerAdjustment", create, func(p *pods, do func(context.Context, rules.Pod) error) {
			p.validate = func(ctx context.Context, pod rules.Pod, _ rules.Container) error { return do(ctx, pod) }
		}},
	}
}

// Whatever becomes of a question about one pod, the next one is answered, and in the same session.
func TestEveryHook(t *testing.T) {
	for _, h := range everyHook() {
		for _, test := range []struct {
			name  string
			do    func(ctx context.Context, release <-chan struct{}) error
			limit time.Duration
			want  []string // parts of the runtime's error
		}{
			{"refuses", func(context.Context, <-chan struct{}) error { return errors.New("no such rule") }, 0, []string{"no such rule"}},
			{"panics", func(context.Context, <-chan struct{}) error { panic("kaboom") }, 0, []string{"default/bad", "panic: kaboom"}},
			{"is too slow", func(ctx context.Context, _ <-chan struct{}) error { <-ctx.Done(); return errors.New("out of time") },
				600 * time.Millisecond, []string{"out of time"}},
			{"does not come back", func(_ context.Context, release <-chan struct{}) error { <-release; return nil },
				600 * time.Millisecond, []string{"default/bad", "in time"}},
		} {
			t.Run(h.name+" "+test.name, func(t *testing.T) {
				noLeaks(t)
				if test.limit != 0 {
					requestTimeout(t, test.limit)
				}
				socket := socketPath(t)
				rt := startRuntime(t, socket, "containerd", "v2.4.2")
				release := make(chan struct{})
				defer close(release)
				enforcer := &pods{}
				h.set(enforcer, func(ctx context.Context, pod rules.Pod) error {
					if pod.Name != "bad" {
						return nil
					}
					return test.do(ctx, release)
				})
				p := run(t, socket, enforcer)
				rt.connected(t)

				err := h.ask(t, rt, meshed("bad"))
				for _, part := range test.want {
					if err == nil || !strings.Contains(err.Error(), part) {
						t.Errorf("the runtime got %v, want %q", err, part)
					}
				}
				if err != nil && strings.Contains(err.Error(), "failed to handle") {
					t.Errorf("the runtime did not wait for the answer: %v", err)
				}
				if err := h.ask(t, rt, meshed("good")); err != nil {
					t.Errorf("the next pod: %v", err)
				}
				if rt.plugins.Load() != 1 || len(p.log.of("nri_lost")) != 0 {
					t.Error("the session was lost")
				}
			})
		}
	}
}

func TestContainersAreTold(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2")
	enforcer := &pods{}
	run(t, socket, enforcer)
	rt.connected(t)
	if err := rt.createContainer(t, meshed("a")); err != nil {
		t.Fatal(err)
	}
	want := []containerIn{{podOf(meshed("a")), ofApp()}}
	if diff := cmp.Diff(want, enforcer.admitted); diff != "" {
		t.Errorf("Admit got (-want +got):\n%s", diff)
	}
	// It is the same container: the Enforcer compares them.
	want[0].Container.Review = &rules.Review{}
	if diff := cmp.Diff(want, enforcer.validated); diff != "" {
		t.Errorf("Validate got (-want +got):\n%s", diff)
	}
}

// A runtime without validators asks about containers nevertheless.
func TestWithoutValidators(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "cri-o", "1.33.0")
	enforcer := &pods{}
	p := run(t, socket, enforcer)
	rt.connected(t)
	if err := rt.createContainer(t, meshed("a")); err != nil {
		t.Fatal(err)
	}
	if len(enforcer.admitted) != 1 || len(enforcer.validated) != 0 {
		t.Errorf("admitted %v, validated %v", enforcer.admitted, enforcer.validated)
	}
	receive(t, "Synced", p.synced)
	connected := p.log.of("nri_connected")[0]
	if connected["tier"] != "best effort" || connected["level"] != "WARN" || connected["validates"] != "false" ||
		connected["tells_user"] != "false" || !strings.Contains(connected["limits"], "upgrade to CRI-O 1.34 or newer. The user") {
		t.Errorf("logged %v", connected)
	}
}

// CreateContainer may use up its whole time, and the validation that follows still has its own.
func TestEveryRequestHasItsOwnTime(t *testing.T) {
	noLeaks(t)
	const limit = 800 * time.Millisecond
	requestTimeout(t, limit)
	socket := socketPath(t)
	rt := startRuntime(t, socket, "containerd", "v2.4.2")
	left := map[string]time.Duration{}
	note := func(ctx context.Context, what string) {
		deadline, _ := ctx.Deadline()
		left[what] = time.Until(deadline)
	}
	enforcer := &pods{
		admit: func(ctx context.Context, _ rules.Pod, _ rules.Container) error {
			note(ctx, "CreateContainer")
			<-ctx.Done()
			return nil
		},
		validate: func(ctx context.Context, _ rules.Pod, _ rules.Container) error {
			note(ctx, "ValidateContainerAdjustment")
			return nil
		},
	}
	run(t, socket, enforcer)
	rt.connected(t)
	if err := rt.createContainer(t, meshed("a")); err != nil {
		t.Error(err)
	}
	for _, what := range []string{"CreateContainer", "ValidateContainerAdjustment"} {
		if most := limit - answerMargin; left[what] > most || left[what] < most/2 {
			t.Errorf("%s had %s, want nearly %s", what, left[what], most)
		}
	}
}

// A runtime that waits for no answer asks and gives up on its own clock, and says with each question when that is.
func TestTheQuestionSaysWhen(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	conns := listen(t, socket)
	var left time.Duration
	run(t, socket, &pods{validate: func(ctx context.Context, _ rules.Pod, _ rules.Container) error {
		deadline, _ := ctx.Deadline()
		left = time.Until(deadline)
		return errors.New("no such rule")
	}})
	raw := &rawRuntime{timeout: time.Hour}
	raw.serve(t, receive(t, "a connection", conns))
	if got := raw.accept(t, "containerd", "v2.4.2").GetEvents(); got != validatedMask {
		t.Errorf("asked for the events %b", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := raw.plugin.ValidateContainerAdjustment(ctx, &api.ValidateContainerAdjustmentRequest{
		Pod: meshed("a"), Container: app(meshed("a"))})
	if err != nil || !answer.GetReject() || answer.GetReason() == "" {
		t.Errorf("answer %v, %v, want a refusal", answer, err)
	}
	if most := time.Minute - answerMargin; left <= 0 || left > most {
		t.Errorf("had %s, want at most %s", left, most)
	}
}

// The connection ends with the runtime waiting for us, as when the daemon is killed.
func TestCutInTheMiddle(t *testing.T) {
	for _, h := range everyHook() {
		t.Run(h.name, func(t *testing.T) {
			noLeaks(t)
			socket := socketPath(t)
			rt := startRuntime(t, socket, "containerd", "v2.4.2")
			entered := make(chan struct{})
			enforcer := &pods{}
			h.set(enforcer, func(ctx context.Context, _ rules.Pod) error {
				close(entered)
				<-ctx.Done()
				return nil
			})
			p := run(t, socket, enforcer)
			rt.connected(t)
			receive(t, "Synced", p.synced) // the runtime may ask before; only a session that was ready is lost
			answer := make(chan error, 1)
			go func() { answer <- h.ask(t, rt, meshed("a")) }()
			receive(t, "the question", entered)
			rt.cut()
			if err := receive(t, "the runtime's verdict", answer); err == nil {
				t.Error("the runtime went on without an answer")
			}
			if err := receive(t, "Lost", p.lost); err == nil {
				t.Error("Lost got no error")
			}
		})
	}
}

// With the runtime's own validator and meshnetd required, containers wait for it.
func TestRequiredPlugin(t *testing.T) {
	noLeaks(t)
	socket := socketPath(t)
	rt := startRuntimeWith(t, socket, "containerd", "v2.4.2", nil, nil, adaptation.WithDefaultValidator(
		&validator.DefaultValidatorConfig{Enable: true, RequiredPlugins: []string{"95-meshnetd"}}))
	if err := rt.createContainer(t, meshed("early")); err == nil {
		t.Error("a container was created before meshnetd came")
	}
	run(t, socket, &pods{})
	eventually(t, "the plugin connected", func() bool { return rt.plugins.Load() == 2 })
	if err := rt.createContainer(t, meshed("a")); err != nil {
		t.Error(err)
	}
	rt.cut()
	eventually(t, "containers refused", func() bool { return rt.createContainer(t, meshed("late")) != nil })
	if err := rt.createContainer(t, meshed("later")); err == nil {
		t.Error("a container was created after meshnetd had gone")
	}
}

// neighbour is another plugin that changes containers.
type neighbour struct {
	adjust func(name string) *api.ContainerAdjustment
}

func (n *neighbour) CreateContainer(_ context.Context, _ *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	return n.adjust(c.GetName()), nil, nil
}

// What other plugins want is seen in Validate, before meshnetd's turn or after it, and they are named.
func TestNeighbours(t *testing.T) {
	for _, index := range []string{"05", "99"} {
		t.Run(index, func(t *testing.T) {
			noLeaks(t)
			socket := socketPath(t)
			rt := startRuntime(t, socket, "containerd", "v2.4.2")
			enforcer := &pods{validate: func(_ context.Context, _ rules.Pod, c rules.Container) error {
				if c.MovedBy != "" {
					return errors.New("moved by " + c.MovedBy)
				}
				return nil
			}}
			run(t, socket, enforcer)
			rt.connected(t)
			other, err := stub.New(&neighbour{func(name string) *api.ContainerAdjustment {
				adjust := &api.ContainerAdjustment{}
				switch name {
				case "moved":
					adjust.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: "/run/netns/other"})
				case "bare":
					adjust.RemoveNamespace(&api.LinuxNamespace{Type: "network"})
				case "ipc":
					adjust.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "ipc", Path: "/run/ipcns/other"})
				case "args":
					adjust.SetArgs([]string{"/other"})
					adjust.AddEnv("B", "other")
				}
				return adjust
			}}, stub.WithSocketPath(socket), stub.WithPluginName("other"), stub.WithPluginIdx(index),
				stub.WithLogger(quiet{slog.New(slog.DiscardHandler)}), stub.WithOnClose(func() {}))
			if err != nil {
				t.Fatal(err)
			}
			if err := other.Start(t.Context()); err != nil {
				t.Fatal(err)
			}
			defer other.Stop()
			eventually(t, "the other plugin connected", func() bool { return rt.plugins.Load() == 2 })

			last := func(name string) (rules.Container, error) {
				c := app(meshed("a"))
				c.Name = name
				err := rt.create(t, meshed("a"), c)
				got := enforcer.validated[len(enforcer.validated)-1].Container
				got.Review = nil // of TestReview
				return got, err
			}
			for name, path := range map[string]string{"moved": "/run/netns/other", "bare": ""} {
				c, err := last(name)
				if err == nil || !strings.Contains(err.Error(), "moved by "+index+"-other") || c.NetNS != path {
					t.Errorf("%s: in %q, the runtime got %v", name, c.NetNS, err)
				}
			}
			want := ofApp()
			want.Name = "ipc"
			if c, err := last("ipc"); err != nil || !cmp.Equal(want, c) {
				t.Errorf("ipc: %v, (-want +got):\n%s", err, cmp.Diff(want, c))
			}
			want.Name, want.Args, want.Env["B"] = "args", []string{"/other"}, "other"
			if c, err := last("args"); err != nil || !cmp.Equal(want, c) {
				t.Errorf("args: %v, (-want +got):\n%s", err, cmp.Diff(want, c))
			}
			// In CreateContainer what an earlier plugin wanted is seen too.
			if c := enforcer.admitted[len(enforcer.admitted)-1].Container; cmp.Equal(want, c) != (index == "05") {
				t.Errorf("Admit got %+v", c)
			}
		})
	}
}
