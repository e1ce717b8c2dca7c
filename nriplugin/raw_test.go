// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/net/multiplex"
	"github.com/containerd/ttrpc"
)

// rawRuntime speaks the protocol of a runtime message by message, for what the real one never does, or
// never at the same time: it asks plugins one thing after the other.
type rawRuntime struct {
	timeout    time.Duration // told to the plugin; 0 is nothing
	plugin     api.PluginService
	onRegister func(ctx context.Context) error
	registered chan struct{}
}

func (r *rawRuntime) RegisterPlugin(ctx context.Context, _ *api.RegisterPluginRequest) (*api.Empty, error) {
	close(r.registered)
	if r.onRegister != nil {
		if err := r.onRegister(ctx); err != nil {
			return nil, err
		}
	}
	return &api.Empty{}, nil
}

func (r *rawRuntime) UpdateContainers(context.Context, *api.UpdateContainersRequest) (*api.UpdateContainersResponse, error) {
	return &api.UpdateContainersResponse{}, nil
}

// serve takes over a connection until end is called, or the test ends. The plugin is to be used after
// registered only.
func (r *rawRuntime) serve(t *testing.T, conn net.Conn) (end func()) {
	t.Helper()
	r.registered = make(chan struct{})
	mux := multiplex.Multiplex(conn, multiplex.WithBlockedRead())
	toPlugin, err := mux.Open(multiplex.PluginServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	fromPlugin, err := mux.Listen(multiplex.RuntimeServiceConn)
	if err != nil {
		t.Fatal(err)
	}
	client := ttrpc.NewClient(toPlugin)
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	r.plugin = api.NewPluginClient(client)
	api.RegisterRuntimeService(server, r)
	served := make(chan struct{})
	go func() { _ = server.Serve(context.Background(), fromPlugin); close(served) }()
	mux.Unblock()
	end = sync.OnceFunc(func() {
		_, _, _ = client.Close(), server.Close(), mux.Close()
		<-served
	})
	t.Cleanup(end)
	return end
}

// accept configures and synchronizes the plugin as a runtime with NRI before 0.7 does, without any timeouts.
func (r *rawRuntime) accept(t *testing.T, name, version string, existing ...*api.PodSandbox) *api.ConfigureResponse {
	t.Helper()
	receive(t, "the registration", r.registered)
	configured, err := r.plugin.Configure(t.Context(), &api.ConfigureRequest{RuntimeName: name, RuntimeVersion: version, RequestTimeout: r.timeout.Milliseconds()})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.plugin.Synchronize(t.Context(), &api.SynchronizeRequest{Pods: existing}); err != nil {
		t.Fatal(err)
	}
	return configured
}

// listen listens at a socket and passes on the connections that are made.
func listen(t *testing.T, socket string) (conns <-chan net.Conn) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	accepted := make(chan net.Conn, 1000)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			accepted <- conn
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-done
		close(accepted)
		for conn := range accepted {
			_ = conn.Close()
		}
	})
	return accepted
}

// lastWords is a connection that is closed after so many writes.
type lastWords struct {
	net.Conn
	left atomic.Int32
}

func (c *lastWords) Write(b []byte) (int, error) {
	n, err := c.Conn.Write(b)
	if c.left.Add(-1) == 0 {
		_ = c.Close()
	}
	return n, err
}
