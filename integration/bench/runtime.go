// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/containerd/nri/pkg/adaptation"
	"github.com/containerd/nri/pkg/api"
	nrilog "github.com/containerd/nri/pkg/log"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// nriRuntime is what meshnetd meets of a runtime.
type nriRuntime struct {
	*adaptation.Adaptation
	dir, program string
	sandboxes    []*api.PodSandbox
	existing     []*api.PodSandbox // that a plugin is told of when it connects
	synchronized atomic.Int64      // what the last one took for them, in nanoseconds; 0 while it is not done
	plugins      atomic.Int64      // connected and synchronized
}

// The metrics of NRI.
func (r *nriRuntime) UpdatePluginCount(n int)                          { r.plugins.Store(int64(n)) }
func (r *nriRuntime) RecordPluginInvocation(_, _ string, _ error)      {}
func (r *nriRuntime) RecordPluginLatency(_, _ string, _ time.Duration) {}
func (r *nriRuntime) RecordPluginAdjustments(_, _ string, _ *api.ContainerAdjustment, _, _ int) {
}

func (b *bench) startRuntime() (_ *nriRuntime, err error) {
	nrilog.Set(quiet{})
	r := &nriRuntime{program: b.program}
	if r.dir, err = os.MkdirTemp("", "meshnetd-bench-"); err != nil {
		return nil, err
	}
	synchronize := func(ctx context.Context, plugins adaptation.SyncCB) error {
		began := time.Now()
		_, err := plugins(ctx, r.existing, nil)
		r.synchronized.Store(int64(time.Since(began)))
		return err
	}
	update := func(context.Context, []*api.ContainerUpdate) ([]*api.ContainerUpdate, error) { return nil, nil }
	r.Adaptation, err = adaptation.New("containerd", "v2.4.2", synchronize, update, adaptation.WithSocketPath(r.path("nri.sock")),
		adaptation.WithPluginPath(r.dir), adaptation.WithPluginConfigPath(r.dir), adaptation.WithMetrics(r))
	if err == nil {
		err = r.Start()
	}
	if err != nil {
		_ = os.RemoveAll(r.dir)
		return nil, fmt.Errorf("start a runtime: %w", err)
	}
	return r, nil
}

func (r *nriRuntime) close() {
	r.Stop()
	_ = os.RemoveAll(r.dir)
}

func (r *nriRuntime) path(name string) string { return filepath.Join(r.dir, name) }

// meeting calls fn while a meshnetd runs that was told of these sandboxes.
func (r *nriRuntime) meeting(ctx context.Context, existing []*api.PodSandbox, fn func(*lab.Daemon) error) (err error) {
	r.existing = existing
	r.synchronized.Store(0)
	text := fmt.Sprintf("nri.socket = %q\nstatus_socket = %q\nlock_dir = %q\nlog.format = \"json\"\naudit_interval = %q\nistio.dual_stack = true\n",
		r.path("nri.sock"), r.path("meshnetd.sock"), r.path("locks"), auditedEach)
	if err := os.WriteFile(r.path("meshnetd.toml"), []byte(text), 0o600); err != nil {
		return err
	}
	d, err := lab.StartConfigured(r.program, r.path("meshnetd.toml"))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, 5*patience)
	defer cancel()
	defer func() { err = errors.Join(err, d.Terminate(ctx)) }()
	if _, err := d.Wait(ctx, func(l lab.Line) bool { return l.Event == "nri_connected" }); err != nil {
		return err
	}
	if err := lab.Poll(ctx, func() (bool, error) { return r.synchronized.Load() > 0 && r.plugins.Load() == 1, nil }); err != nil { // the runtime would ask it
		return fmt.Errorf("meshnetd does not connect: %w\n%s", err, d.Log())
	}
	return fn(d)
}

// status is what the command takes that an operator waits for.
func (r *nriRuntime) status(ctx context.Context) (took time.Duration, err error) {
	err = lab.Poll(ctx, func() (bool, error) { // the socket may follow the session
		began := time.Now()
		err := exec.CommandContext(ctx, r.program, "status", "--config", r.path("meshnetd.toml")).Run()
		took = time.Since(began)
		return err == nil, nil
	})
	if err != nil {
		return 0, fmt.Errorf("meshnetd status: %w", err)
	}
	return took, nil
}

func sandbox(name, path string) *api.PodSandbox {
	return &api.PodSandbox{Id: name, Name: name, Uid: name, Namespace: "default", Annotations: lab.Injected(nil),
		Linux: &api.LinuxPodSandbox{Namespaces: []*api.LinuxNamespace{{Type: "network", Path: path}}}}
}

// quiet keeps what NRI says of itself out of the figures.
type quiet struct{}

func (quiet) Debugf(context.Context, string, ...any) {}
func (quiet) Infof(context.Context, string, ...any)  {}
func (quiet) Warnf(context.Context, string, ...any)  {}
func (quiet) Errorf(context.Context, string, ...any) {}
