// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	validator "github.com/containerd/nri/plugins/default-validator/builtin"
)

// deaf is a connection that hears nothing more from when on, as that of a process that hangs.
type deaf struct {
	net.Conn
	when *atomic.Bool
}

// Read swallows what comes.
func (d deaf) Read(b []byte) (int, error) {
	for {
		n, err := d.Conn.Read(b)
		if err != nil || !d.when.Load() {
			return n, err
		}
	}
}

// deafen passes the connections at a socket of its own on to another socket, until hung is set.
func deafen(t *testing.T, to string, hung *atomic.Bool) (socket string) {
	t.Helper()
	socket = socketPath(t)
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			in, err := listener.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("unix", to)
			if err != nil {
				_ = in.Close()
				return
			}
			back := make(chan struct{})
			go func() { _, _ = io.Copy(in, deaf{out, hung}); _ = in.Close(); close(back) }()
			_, _ = io.Copy(out, in)
			_ = out.Close()
			<-back
		}
	}()
	t.Cleanup(func() { _ = listener.Close(); <-done })
	return socket
}

// A daemon that hangs is thrown out at once, also by a runtime that asks plugins whether they want to be kept: the pod
// it was asked about is refused, the rest of the node goes on, and containers of the mesh wait for the required plugin.
// The runtime here is that of the NRI which this test is built with, and knows failure policies.
func TestHungIsDroppedOnce(t *testing.T) {
	noLeaks(t)
	requestTimeout(t, 300*time.Millisecond)
	socket := socketPath(t)
	rt := startRuntimeWith(t, socket, "containerd", "v2.9.0", nil, nil,
		adaptation.WithDefaultValidator(&validator.DefaultValidatorConfig{Enable: true}))
	var hung atomic.Bool
	p := run(t, deafen(t, socket, &hung), &pods{}, func(p *Plugin) {
		p.after = func(time.Duration) <-chan time.Time { return nil } // it hangs, and does not come back
	})
	eventually(t, "the plugin connected", func() bool { return rt.plugins.Load() == 2 })
	mesh := meshed("mesh")
	mesh.Annotations = map[string]string{"required-plugins.noderesource.dev": `["meshnetd"]`}
	if err := rt.createContainer(t, mesh); err != nil {
		t.Fatal(err)
	}
	hung.Store(true)
	if err := rt.runPod(t, meshed("first")); err == nil || !strings.Contains(err.Error(), "failed to handle RunPodSandbox") {
		t.Errorf("the pod that it was asked about: %v", err)
	}
	for _, id := range []string{"second", "third"} {
		if err := rt.runPod(t, meshed(id)); err != nil {
			t.Errorf("sandbox %s: %v", id, err)
		}
		if err := rt.createContainer(t, meshed(id)); err != nil {
			t.Errorf("a container outside the mesh: %v", err)
		}
	}
	if err := rt.createContainer(t, mesh); err == nil || !strings.Contains(err.Error(), `required plugin "meshnetd" not present`) {
		t.Errorf("a container of the mesh: %v", err)
	}
	if err := receive(t, "Lost", p.lost); err == nil {
		t.Error("Lost got no error")
	}
}
