// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"
)

// The places of a plugin beside meshnetd, which is called as "95".
const (
	before = "05"
	same   = "95"
	after  = "99"
)

// plugin is another NRI plugin of the node, in this process: it is called at an exact moment of a pod's
// start. A function that is nil does nothing.
type plugin struct {
	runPod func(*api.PodSandbox) error
	create func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error)
	start  func(*api.PodSandbox) error

	stub   stub.Stub
	synced chan struct{}
	once   sync.Once
	called atomic.Bool
}

var (
	_ stub.SynchronizeInterface     = (*plugin)(nil)
	_ stub.RunPodInterface          = (*plugin)(nil)
	_ stub.CreateContainerInterface = (*plugin)(nil)
	_ stub.StartContainerInterface  = (*plugin)(nil)
)

// connect registers the plugin and returns when it is called for every pod to come.
func (p *plugin) connect(ctx context.Context, socket, name, index string) error {
	p.synced = make(chan struct{})
	var err error
	p.stub, err = stub.New(p, stub.WithPluginName(name), stub.WithPluginIdx(index), stub.WithSocketPath(socket),
		stub.WithOnClose(func() {}), stub.WithLogger(silence{}))
	if err != nil {
		return fmt.Errorf("plugin %s-%s: %w", index, name, err)
	}
	if err := p.stub.Start(ctx); err != nil {
		return fmt.Errorf("plugin %s-%s: %w", index, name, err)
	}
	select {
	case <-p.synced: // the runtime holds its lock from here until the plugin counts
		return nil
	case <-ctx.Done():
		p.stub.Stop()
		return fmt.Errorf("plugin %s-%s is not synchronized: %w", index, name, ctx.Err())
	}
}

func (p *plugin) disconnect() { p.stub.Stop() }

// idle reports whether the plugin has something to do and never did it.
func (p *plugin) idle() bool {
	return (p.runPod != nil || p.create != nil || p.start != nil) && !p.called.Load()
}

// Synchronize says that the plugin is known.
func (p *plugin) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	p.once.Do(func() { close(p.synced) })
	return nil, nil
}

// RunPodSandbox is called with the sandbox's network in place.
func (p *plugin) RunPodSandbox(_ context.Context, sandbox *api.PodSandbox) error {
	if p.runPod == nil {
		return nil
	}
	p.called.Store(true)
	return p.runPod(sandbox)
}

// CreateContainer is called for each container.
func (p *plugin) CreateContainer(_ context.Context, sandbox *api.PodSandbox, c *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	if p.create == nil {
		return nil, nil, nil
	}
	p.called.Store(true)
	adjustment, err := p.create(sandbox, c)
	return adjustment, nil, err
}

// StartContainer is called for each container whose hooks have run.
func (p *plugin) StartContainer(_ context.Context, sandbox *api.PodSandbox, _ *api.Container) error {
	if p.start == nil {
		return nil
	}
	p.called.Store(true)
	return p.start(sandbox)
}

var errNoNetNS = errors.New("the runtime names no network namespace")

// pathOf returns the path of the sandbox's network namespace.
func pathOf(sandbox *api.PodSandbox) (string, error) {
	for _, ns := range sandbox.GetLinux().GetNamespaces() {
		if ns.GetType() == "network" && ns.GetPath() != "" {
			return ns.GetPath(), nil
		}
	}
	return "", fmt.Errorf("pod %s: %w", sandbox.GetName(), errNoNetNS)
}

type silence struct{}

func (silence) Debugf(context.Context, string, ...any) {}
func (silence) Infof(context.Context, string, ...any)  {}
func (silence) Warnf(context.Context, string, ...any)  {}
func (silence) Errorf(context.Context, string, ...any) {}
