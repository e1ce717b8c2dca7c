// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"
	"go.uber.org/goleak"

	"github.com/meshnetd/meshnetd/rules"
)

const patience = 20 * time.Second // for what must happen, however busy the machine is

func TestMain(m *testing.M) {
	nrilog.Set(quiet{slog.New(slog.DiscardHandler)}) // the runtime side's messages
	goleak.VerifyTestMain(m)
}

// noLeaks checks, after all clean-up of the test, that no goroutine of it is left.
func noLeaks(t *testing.T) {
	t.Helper()
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) })
}

// eventually polls until a condition holds.
func eventually(t testing.TB, what string, holds func() bool) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !holds() {
		select {
		case <-ctx.Done():
			t.Fatalf("waited %s in vain: %s", patience, what)
		case <-tick.C:
		}
	}
}

// receive waits for a value.
func receive[T any](t testing.TB, what string, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(patience):
		t.Fatalf("waited %s in vain: %s", patience, what)
		panic("not reached")
	}
}

// socketPath returns a path short enough for a socket, whatever the test is called.
func socketPath(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "nri")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return filepath.Join(dir, "nri.sock")
}

// pods is an Enforcer that remembers what it was asked.
type pods struct {
	enforce     func(ctx context.Context, pod rules.Pod) error
	admit       func(ctx context.Context, pod rules.Pod, c rules.Container) error
	validate    func(ctx context.Context, pod rules.Pod, c rules.Container) error
	start       func(ctx context.Context, pod rules.Pod, container, unheeded string) error
	outside     func(pod rules.Pod) bool
	synchronize func(ctx context.Context, pods []rules.Pod)

	node rules.Node // that says what decides; without a mesh, everything

	mu        sync.Mutex
	enforced  []rules.Pod
	admitted  []containerIn
	validated []containerIn
	synced    [][]rules.Pod
}

// containerIn is what Admit and Validate are asked about.
type containerIn struct {
	Pod       rules.Pod
	Container rules.Container
}

func (p *pods) Enforce(ctx context.Context, pod rules.Pod) error {
	p.mu.Lock()
	p.enforced = append(p.enforced, pod)
	p.mu.Unlock()
	if p.enforce == nil {
		return nil
	}
	return p.enforce(ctx, pod)
}

func (p *pods) Admit(ctx context.Context, pod rules.Pod, c rules.Container) error {
	p.mu.Lock()
	p.admitted = append(p.admitted, containerIn{pod, c})
	p.mu.Unlock()
	if p.admit == nil {
		return nil
	}
	return p.admit(ctx, pod, c)
}

func (p *pods) Validate(ctx context.Context, pod rules.Pod, c rules.Container) error {
	p.mu.Lock()
	p.validated = append(p.validated, containerIn{pod, c})
	p.mu.Unlock()
	if p.validate == nil {
		return nil
	}
	return p.validate(ctx, pod, c)
}

func (p *pods) Outside(pod rules.Pod) bool { return p.outside != nil && p.outside(pod) }

func (p *pods) Start(ctx context.Context, pod rules.Pod, container, unheeded string) error {
	if p.start == nil {
		return nil
	}
	return p.start(ctx, pod, container, unheeded)
}

func (p *pods) Deciding(pod rules.Pod) rules.Pod {
	if len(p.node.Meshes) == 0 {
		return pod
	}
	return p.node.Deciding(pod)
}

func (p *pods) Bounded(c rules.Container) rules.Container {
	if len(p.node.Meshes) == 0 {
		return c
	}
	return p.node.Bounded(c)
}

func (p *pods) Synchronize(ctx context.Context, pods []rules.Pod) {
	p.mu.Lock()
	p.synced = append(p.synced, pods)
	p.mu.Unlock()
	if p.synchronize != nil {
		p.synchronize(ctx, pods)
	}
}

// asked returns the sandboxes that Enforce was called for, in order.
func (p *pods) asked() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var ids []string
	for _, pod := range p.enforced {
		ids = append(ids, pod.SandboxID)
	}
	return ids
}

// events is a log handler that keeps what is logged, from level info on.
type events struct {
	mu   sync.Mutex
	list []map[string]string
}

func (e *events) Enabled(_ context.Context, level slog.Level) bool { return level >= slog.LevelInfo }
func (e *events) WithAttrs([]slog.Attr) slog.Handler               { return e }
func (e *events) WithGroup(string) slog.Handler                    { return e }

func (e *events) Handle(_ context.Context, r slog.Record) error {
	entry := map[string]string{"level": r.Level.String()}
	r.Attrs(func(a slog.Attr) bool { entry[a.Key] = a.Value.String(); return true })
	e.mu.Lock()
	defer e.mu.Unlock()
	e.list = append(e.list, entry)
	return nil
}

// of returns what was logged of one event.
func (e *events) of(event string) []map[string]string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.DeleteFunc(slices.Clone(e.list), func(entry map[string]string) bool { return entry["event"] != event })
}

// running is a plugin whose Run was called.
type running struct {
	log    *events
	synced chan Runtime
	lost   chan error
	waits  chan Waiting
	stop   context.CancelFunc
	done   chan error
}

// run runs a plugin until the test ends, and checks that it then ends promptly.
func run(t testing.TB, socket string, enforcer Enforcer, change ...func(*Plugin)) *running {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	r := &running{log: &events{}, synced: make(chan Runtime, 100), lost: make(chan error, 100),
		waits: make(chan Waiting, 1000), stop: cancel, done: make(chan error, 1)}
	p := &Plugin{Socket: socket, Name: "meshnetd", Index: "95", Pods: enforcer, Log: slog.New(r.log),
		Synced: func(rt Runtime) { r.synced <- rt }, Lost: func(err error) { r.lost <- err }, Waits: func(w Waiting) { r.waits <- w }}
	for _, c := range change {
		c(p)
	}
	go func() { r.done <- p.Run(ctx); close(r.done) }()
	t.Cleanup(func() {
		cancel()
		if err := receive(t, "the end of Run", r.done); err != nil {
			t.Errorf("Run: %v", err)
		}
	})
	return r
}

// runtimeSide is a container runtime as far as NRI goes. Plugins reach it through a relay: the adaptation
// has no way to end the connections of plugins, other than that its process ends.
type runtimeSide struct {
	*adaptation.Adaptation
	plugins atomic.Int64 // connected and synchronized
	cut     func()       // ends the connections, and lets none be made
	end     func()

	mu   sync.Mutex
	took map[string][]time.Duration // by what the plugin was asked
}

// startRuntime starts a runtime that listens at socket, with these sandboxes already there.
func startRuntime(t testing.TB, socket, name, version string, existing ...*api.PodSandbox) *runtimeSide {
	t.Helper()
	return startRuntimeWith(t, socket, name, version, existing, nil)
}

// startRuntimeWith starts a runtime that has containers too, or is set up in another way.
func startRuntimeWith(t testing.TB, socket, name, version string, existing []*api.PodSandbox, containers []*api.Container,
	options ...adaptation.Option) *runtimeSide {
	t.Helper()
	r := &runtimeSide{took: map[string][]time.Duration{}}
	synchronize := func(ctx context.Context, plugins adaptation.SyncCB) error {
		_, err := plugins(ctx, existing, containers)
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	inner, none := socketPath(t), t.TempDir()
	var err error
	r.Adaptation, err = adaptation.New(name, version, synchronize, update, append(options, adaptation.WithSocketPath(inner),
		adaptation.WithPluginPath(none), adaptation.WithPluginConfigPath(none), adaptation.WithMetrics(r))...)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.Start(); err != nil {
		t.Fatal(err)
	}
	r.cut = sync.OnceFunc(relay(t, socket, inner))
	r.end = sync.OnceFunc(func() {
		r.cut()
		r.Stop()
	})
	t.Cleanup(r.end)
	return r
}

func (r *runtimeSide) RecordPluginInvocation(_, _ string, _ error) {}
func (r *runtimeSide) RecordPluginLatency(_, what string, took time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took[what] = append(r.took[what], took)
}
func (r *runtimeSide) RecordPluginAdjustments(_, _ string, _ *api.ContainerAdjustment, _, _ int) {
}
func (r *runtimeSide) UpdatePluginCount(n int) { r.plugins.Store(int64(n)) }

// connected waits until the runtime would ask the plugin.
func (r *runtimeSide) connected(t testing.TB) {
	t.Helper()
	eventually(t, "the plugin connected", func() bool { return r.plugins.Load() == 1 })
}

func (r *runtimeSide) runPod(t *testing.T, sandbox *api.PodSandbox) error {
	return r.RunPodSandbox(t.Context(), &api.RunPodSandboxRequest{Pod: sandbox})
}

func (r *runtimeSide) createContainer(t testing.TB, sandbox *api.PodSandbox) error {
	return r.create(t, sandbox, app(sandbox))
}

func (r *runtimeSide) create(t testing.TB, sandbox *api.PodSandbox, container *api.Container) error {
	_, err := r.CreateContainer(t.Context(), &api.CreateContainerRequest{Pod: sandbox, Container: container})
	return err
}

func (r *runtimeSide) start(t testing.TB, sandbox *api.PodSandbox) error {
	return r.StartContainer(t.Context(), &api.StartContainerRequest{Pod: sandbox, Container: app(sandbox)})
}

// relay passes connections to one socket on to another, until it is told to end them all.
func relay(t testing.TB, from, to string) (end func()) {
	t.Helper()
	listener, err := net.Listen("unix", from)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var all sync.WaitGroup
	all.Go(func() {
		for {
			in, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				_ = in.Close()
				continue
			}
			closeBoth := sync.OnceFunc(func() { _, _ = in.Close(), out.Close() })
			context.AfterFunc(ctx, closeBoth)
			all.Go(func() { _, _ = io.Copy(out, in); closeBoth() })
			all.Go(func() { _, _ = io.Copy(in, out); closeBoth() })
		}
	})
	return func() {
		_ = listener.Close()
		cancel()
		all.Wait()
	}
}

// requestTimeout sets what the runtime gives to a request, for this test.
func requestTimeout(t *testing.T, limit time.Duration) {
	t.Helper()
	adaptation.SetPluginRequestTimeout(limit)
	t.Cleanup(func() { adaptation.SetPluginRequestTimeout(adaptation.DefaultPluginRequestTimeout) })
}

// app returns a container as a runtime describes it.
func app(sandbox *api.PodSandbox) *api.Container {
	return &api.Container{Id: "c-" + sandbox.GetId(), PodSandboxId: sandbox.GetId(), Name: "app",
		Args: []string{"/app", "serve"}, Env: []string{"A=1", "B=2"}, User: &api.User{Uid: 1000, Gid: 2000},
		Linux: &api.LinuxContainer{Namespaces: []*api.LinuxNamespace{{Type: "ipc"}, {Type: "network", Path: "/proc/4711/ns/net"}}}}
}

// ofApp is what the flow gets to know of app.
func ofApp() rules.Container {
	uid, gid := int64(1000), int64(2000)
	return rules.Container{Name: "app", Args: []string{"/app", "serve"}, Env: map[string]string{"A": "1", "B": "2"},
		UID: &uid, GID: &gid, NetNS: "/proc/4711/ns/net"}
}

// meshed returns a sandbox as a runtime describes it.
func meshed(id string) *api.PodSandbox {
	return &api.PodSandbox{Id: id, Name: id, Namespace: "default", Uid: "uid-" + id,
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{
			{Type: "ipc"}, {Type: "network", Path: "/run/netns/" + id}}}}
}
