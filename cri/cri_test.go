// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A connection for each call must not be left behind.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// runtime serves one call of CRI.
type runtime struct {
	criv1.UnimplementedRuntimeServiceServer
	stop func(ctx context.Context, id string) error
}

func (r runtime) StopPodSandbox(ctx context.Context, req *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	return &criv1.StopPodSandboxResponse{}, r.stop(ctx, req.GetPodSandboxId())
}

// serve runs a gRPC server until the test ends, and returns its socket.
func serve(t *testing.T, register func(*grpc.Server)) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() {
		server.Stop()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func serveRuntime(t *testing.T, stop func(ctx context.Context, id string) error) Client {
	t.Helper()
	return Client{Socket: serve(t, func(s *grpc.Server) { criv1.RegisterRuntimeServiceServer(s, runtime{stop: stop}) })}
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func wantError(t *testing.T, err error, parts ...string) {
	t.Helper()
	if err == nil {
		t.Fatal("no error")
	}
	for _, part := range append([]string{"stop sandbox abc over CRI at "}, parts...) {
		if !strings.Contains(err.Error(), part) {
			t.Errorf("the error does not say %q: %v", part, err)
		}
	}
}

func TestStopPodSandbox(t *testing.T) {
	var stopped []string
	client := serveRuntime(t, func(_ context.Context, id string) error {
		stopped = append(stopped, id)
		return nil
	})
	for _, id := range []string{"abc", "def"} {
		if err := client.StopPodSandbox(within(t, 10*time.Second), id); err != nil {
			t.Fatal(err)
		}
	}
	if strings.Join(stopped, " ") != "abc def" {
		t.Errorf("the runtime was asked to stop %v", stopped)
	}
}

func TestSandboxUnknownIsStopped(t *testing.T) {
	client := serveRuntime(t, func(context.Context, string) error {
		return status.Error(codes.NotFound, "no such sandbox")
	})
	if err := client.StopPodSandbox(within(t, 10*time.Second), "abc"); err != nil {
		t.Error(err)
	}
}

func TestRuntimeRefuses(t *testing.T) {
	client := serveRuntime(t, func(context.Context, string) error {
		return status.Error(codes.Unknown, "the network cannot be taken down")
	})
	err := client.StopPodSandbox(within(t, 10*time.Second), "abc")
	wantError(t, err, client.Socket, "the network cannot be taken down", "look at the runtime's log")
	if status.Code(err) != codes.Unknown {
		t.Errorf("the runtime's own code is lost: %v", status.Code(err))
	}
}

// A call must end with its context, although the runtime does not.
func TestRuntimeHangs(t *testing.T) {
	asked := make(chan struct{})
	client := serveRuntime(t, func(ctx context.Context, _ string) error {
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	})
	ctx, cancel := context.WithCancel(within(t, 10*time.Second))
	go func() {
		<-asked
		cancel()
	}()
	err := client.StopPodSandbox(ctx, "abc")
	wantError(t, err, "no answer in time", "look whether the runtime is stuck")
	if !errors.Is(err, context.Canceled) {
		t.Errorf("does not wrap the error of its context: %v", err)
	}
}

// Something listens and never speaks: a runtime that is stopped by a signal.
func TestSocketSilent(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "cri.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = listener.Close() }()
	err = Client{Socket: socket}.StopPodSandbox(within(t, 50*time.Millisecond), "abc")
	wantError(t, err, "no answer in time")
	if !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("does not wrap the error of its context: %v", err)
	}
}

func TestSocketUnusable(t *testing.T) {
	check := []string{"check cri_socket", "that the runtime runs", "may open its socket"}
	t.Run("missing", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "cri.sock")
		err := Client{Socket: socket}.StopPodSandbox(within(t, 10*time.Second), "abc")
		wantError(t, err, append(check, socket, "no such file")...)
	})
	t.Run("nobody listens", func(t *testing.T) {
		socket := filepath.Join(t.TempDir(), "cri.sock")
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		_ = listener.Close()
		if _, err := os.Stat(socket); err != nil {
			t.Fatal(err)
		}
		err = Client{Socket: socket}.StopPodSandbox(within(t, 10*time.Second), "abc")
		wantError(t, err, append(check, "connection refused")...)
	})
	t.Run("no CRI", func(t *testing.T) {
		client := Client{Socket: serve(t, func(*grpc.Server) {})}
		wantError(t, client.StopPodSandbox(within(t, 10*time.Second), "abc"), "does not serve CRI v1", "check cri_socket")
	})
	t.Run("not known", func(t *testing.T) {
		wantError(t, Client{}.StopPodSandbox(within(t, 10*time.Second), "abc"), "set cri_socket")
	})
}

func TestSocket(t *testing.T) {
	for runtime, want := range map[string]string{
		"containerd": "/run/containerd/containerd.sock",
		"cri-o":      "/var/run/crio/crio.sock",
		"crio":       "/var/run/crio/crio.sock",
		"CRI-O":      "/var/run/crio/crio.sock",
		"another":    "",
		"":           "",
	} {
		if got := Socket(runtime); got != want {
			t.Errorf("Socket(%q) = %q, want %q", runtime, got, want)
		}
	}
}
