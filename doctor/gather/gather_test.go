// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	introspection "github.com/containerd/containerd/api/services/introspection/v1"
	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	grpcstatus "google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/status"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runtime is what a socket answers.
type runtime struct {
	criv1.UnimplementedRuntimeServiceServer
	introspection.UnimplementedIntrospectionServer
	name    string
	plugins []*introspection.Plugin
}

func (r runtime) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{RuntimeName: r.name, RuntimeVersion: "v2.4.2"}, nil
}

func (r runtime) Plugins(context.Context, *introspection.PluginsRequest) (*introspection.PluginsResponse, error) {
	return &introspection.PluginsResponse{Plugins: r.plugins}, nil
}

// serve answers on a socket of the tree until the test ends.
func serve(t *testing.T, root tree, socket string, register func(*grpc.Server)) {
	t.Helper()
	path := root.path(socket)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		// It may be stopped before it has begun.
		if err := <-done; err != nil && !errors.Is(err, grpc.ErrServerStopped) {
			t.Error(err)
		}
	})
}

var (
	nriPlugin = &introspection.Plugin{Type: "io.containerd.nri.v1", ID: "nri"}
	failedNRI = &introspection.Plugin{Type: "io.containerd.nri.v1", ID: "nri", InitErr: grpcstatus.New(codes.Unknown, "no socket").Proto()}
	criPlugin = &introspection.Plugin{Type: "io.containerd.grpc.v1", ID: "cri", InitErr: grpcstatus.New(codes.Unknown, "another's fault").Proto()}
)

func TestFindRuntime(t *testing.T) {
	const usual = "/run/containerd/containerd.sock"
	both := func(r runtime) func(*grpc.Server) {
		return func(s *grpc.Server) {
			criv1.RegisterRuntimeServiceServer(s, r)
			introspection.RegisterIntrospectionServer(s, r)
		}
	}
	for name, c := range map[string]struct {
		register   func(*grpc.Server)
		socket     string
		configured string
		check      func(doctor.Runtime) bool
	}{
		"containerd": {both(runtime{name: "containerd", plugins: []*introspection.Plugin{criPlugin, nriPlugin, criPlugin}}), usual, "", func(rt doctor.Runtime) bool {
			return rt.Socket == usual && rt.Name == "containerd" && rt.Version == "v2.4.2" && rt.Asked && rt.AskErr == nil && rt.NRIPlugin && rt.NRIErr == ""
		}},
		"its NRI failed": {both(runtime{name: "containerd", plugins: []*introspection.Plugin{failedNRI}}), usual, "", func(rt doctor.Runtime) bool {
			return rt.NRIPlugin && rt.NRIErr == "no socket"
		}},
		"without NRI": {both(runtime{name: "containerd", plugins: []*introspection.Plugin{criPlugin}}), usual, "", func(rt doctor.Runtime) bool { return rt.Asked && !rt.NRIPlugin }},
		"without CRI": {func(s *grpc.Server) {
			introspection.RegisterIntrospectionServer(s, runtime{})
		}, usual, "", func(rt doctor.Runtime) bool { return rt.Socket == usual && rt.Name == "" && rt.CRIErr != nil }},
		"without introspection": {func(s *grpc.Server) { criv1.RegisterRuntimeServiceServer(s, runtime{name: "containerd"}) }, usual, "", func(rt doctor.Runtime) bool {
			return rt.Socket == usual && rt.Asked && rt.AskErr != nil
		}},
		"CRI-O": {func(s *grpc.Server) { criv1.RegisterRuntimeServiceServer(s, runtime{name: "cri-o"}) }, "/var/run/crio/crio.sock", "", func(rt doctor.Runtime) bool {
			return rt.Socket == "/var/run/crio/crio.sock" && !rt.Asked && len(rt.Tried) == 3 && rt.Tried[0].Err != nil && rt.Tried[1].Err == nil
		}},
		"another socket": {both(runtime{name: "containerd"}), "/x.sock", "/x.sock", func(rt doctor.Runtime) bool {
			return rt.Socket == "/x.sock" && len(rt.Tried) == 1
		}},
		"not where it is configured": {both(runtime{name: "containerd"}), usual, "/x.sock", func(rt doctor.Runtime) bool {
			return rt.Socket == "" && len(rt.Tried) == 1 && errors.Is(rt.Tried[0].Err, os.ErrNotExist)
		}},
		"something else": {func(*grpc.Server) {}, usual, "", func(rt doctor.Runtime) bool { return rt.Socket == "" && rt.Tried[0].Err != nil }},
	} {
		t.Run(name, func(t *testing.T) {
			root := plant(t, nil)
			serve(t, root, c.socket, c.register)
			rt, process := findRuntime(t.Context(), root, c.configured)
			if !c.check(rt) {
				t.Errorf("%+v", rt)
			}
			if rt.Socket != "" && process != os.Getpid() {
				t.Errorf("process %d", process)
			}
		})
	}
}

// A runtime that takes the connection and says nothing does not hold doctor up for long.
func TestSilentRuntime(t *testing.T) {
	t.Parallel() // it lasts as long as a look may
	root := plant(t, nil)
	listener, err := net.Listen("unix", root.path("/x.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	began := time.Now()
	if rt, _ := findRuntime(t.Context(), root, "/x.sock"); rt.Socket != "" || rt.Tried[0].Err == nil {
		t.Errorf("%+v", rt)
	}
	if took := time.Since(began); took > 2*lookLimit {
		t.Errorf("it took %v", took)
	}
}

func TestDaemon(t *testing.T) {
	root := plant(t, map[string]string{"lib/systemd/system/meshnetd.service": ""})
	if d := daemon(t.Context(), root, "/m.sock", "/run/netns"); !d.Installed || d.Crashed || !errors.Is(d.Err, os.ErrNotExist) {
		t.Errorf("installed, never started: %+v", d)
	}
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: root.path("/m.sock")})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	_ = listener.Close()
	if d := daemon(t.Context(), root, "/m.sock", "/run/netns"); !d.Crashed || d.Err == nil {
		t.Errorf("crashed: %+v", d)
	}
	if d := daemon(t.Context(), plant(t, nil), "", "/run/netns"); d.Installed || d.Err == nil || !strings.Contains(d.Err.Error(), "status_socket is empty") {
		t.Errorf("no socket: %+v", d)
	}

	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	socket := filepath.Join(t.TempDir(), "m.sock")
	go func() {
		done <- status.Serve(ctx, socket, func() status.Status { return status.Status{Version: "v1", Connected: true} })
	}()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	for deadline := time.Now().Add(10 * time.Second); ; {
		d := daemon(t.Context(), "", socket, "/run/netns")
		if d.Err == nil {
			if d.Status.Version != "v1" || !d.Status.Connected || d.Process == nil || d.Process.PID != os.Getpid() || d.Process.Mount.Propagation == "" {
				t.Errorf("running: %+v", d)
			}
			return
		}
		if time.Now().After(deadline) {
			t.Fatal(d.Err)
		}
	}
}

// An empty node is described, whatever is missing.
func TestFacts(t *testing.T) {
	root := plant(t, map[string]string{"opt/nri/plugins/99-a": "#!/bin/sh", "opt/nri/plugins/README": "no program", "etc/cni/net.d/1.conf": `{"type":"istio-cni"}`,
		"opt/cni/bin/istio-cni": "#!/bin/sh", "proc/net/ip_tables_names": "nat\n", "proc/1/mountinfo": mountinfo})
	f := Facts(t.Context(), Options{Root: string(root), Program: "v1", Config: "/etc/meshnetd/meshnetd.toml", Canary: true})
	r := doctor.Judge(f)
	var text strings.Builder
	if err := r.Text(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"broken   runtime-found: ", "broken   nri-socket: ", "info     nri-plugins: /opt/nri/plugins/99-a", "warning  cni-redirect: istio-cni",
		"info     cni-programs: ", "info     iptables-legacy: The host has tables of iptables-legacy (nat)", "info     config: There is no /etc/meshnetd",
		"ok       netns-propagation: Namespaces that are mounted below /var/run/netns", "info     daemon-running: ", "kernel-rules: ", "kernel-version: Linux "} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("no %q in\n%s", want, text.String())
		}
	}
	if f.Canary != nil {
		t.Error("a canary without a runtime")
	}
}

func TestOwnConfig(t *testing.T) {
	root := plant(t, map[string]string{"bad.toml": "x = 1\n", "good.toml": "nri.name = \"other\"\n"})
	if c := ownConfig(root, Options{Config: "/good.toml"}); c.Err != nil || c.Missing || c.Values.NRI.Name != "other" {
		t.Errorf("good: %+v", c)
	}
	var problems config.Problems
	if c := ownConfig(root, Options{Config: "/bad.toml"}); !errors.As(c.Err, &problems) || c.Values.NRI.Name != "meshnetd" {
		t.Errorf("bad: %+v", c)
	}
	if c := ownConfig(root, Options{Config: "/no.toml"}); c.Err != nil || !c.Missing || c.Values.NRI.Name != "meshnetd" {
		t.Errorf("missing: %+v", c)
	}
	if c := ownConfig(root, Options{Config: "/no.toml", ConfigNeeded: true}); c.Err == nil || c.Missing {
		t.Errorf("missing, and asked for: %+v", c)
	}
}
