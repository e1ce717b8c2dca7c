// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/meshnetd/meshnetd/rules"
)

// bad is a plugin that does something when it is asked about a sandbox.
type bad struct{ does func(context.Context) error }

func (b *bad) RunPodSandbox(ctx context.Context, _ *api.PodSandbox) error { return b.does(ctx) }

// Whatever another plugin does and wherever it stands: meshnetd's session goes on, and its word counts for the next pod.
// What neighbours adjust is TestNeighbours'.
func TestBadNeighbours(t *testing.T) {
	requestTimeout(t, 200*time.Millisecond)
	for seat, at := range map[string]struct{ name, index string }{
		"before": {"other", "05"}, "after": {"other", "99"}, "of the same index": {"other", "95"}, "of the same name": {"meshnetd", "50"}, "of both": {"meshnetd", "95"},
	} {
		for what, does := range map[string]func(stub.Stub) func(context.Context) error{
			"times out": func(stub.Stub) func(context.Context) error {
				return func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }
			},
			"vanishes": func(s stub.Stub) func(context.Context) error {
				return func(context.Context) error { s.Stop(); return nil }
			},
			"refuses": func(stub.Stub) func(context.Context) error {
				return func(context.Context) error { return errors.New("not today") }
			},
		} {
			t.Run(what+" "+seat, func(t *testing.T) {
				noLeaks(t)
				socket := socketPath(t)
				rt := startRuntime(t, socket, "containerd", "v2.4.2")
				var asked atomic.Int64
				enforcer := &pods{enforce: func(context.Context, rules.Pod) error { asked.Add(1); return nil },
					admit: func(context.Context, rules.Pod, rules.Container) error { return errors.New("refused by meshnetd") }}
				p := run(t, socket, enforcer)
				rt.connected(t)
				neighbour := &bad{}
				other, err := stub.New(neighbour, stub.WithSocketPath(socket), stub.WithPluginName(at.name), stub.WithPluginIdx(at.index),
					stub.WithLogger(quiet{slog.New(slog.DiscardHandler)}), stub.WithOnClose(func() {}))
				if err != nil {
					t.Fatal(err)
				}
				neighbour.does = does(other)
				if err := other.Start(t.Context()); err != nil {
					t.Fatal(err)
				}
				defer other.Stop()
				eventually(t, "the other plugin connected", func() bool { return rt.plugins.Load() == 2 })
				if err := rt.runPod(t, meshed("a")); (err != nil) != (what == "refuses") && what != "times out" {
					t.Errorf("the sandbox: %v", err)
				}
				if err := rt.createContainer(t, meshed("a")); err == nil {
					t.Error("meshnetd's word does not count any more")
				}
				if seat == "after" && asked.Load() != 1 {
					t.Errorf("asked %d times about the sandbox", asked.Load())
				}
				if len(p.log.of("nri_lost")) > 0 {
					t.Error("the session was lost")
				}
			})
		}
	}
}
