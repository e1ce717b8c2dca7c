// SPDX-License-Identifier: Apache-2.0

//go:build linux

package integration

import (
	"context"
	"strings"
	"testing"
	"time"

	"github.com/containerd/nri/pkg/api"
	"github.com/containerd/nri/pkg/stub"

	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/integration/labtest"
)

// hooking is a plugin that gives each container a hook.
type hooking struct{ synced chan struct{} }

// Synchronize is the last step of becoming a plugin that counts.
func (p hooking) Synchronize(context.Context, []*api.PodSandbox, []*api.Container) ([]*api.ContainerUpdate, error) {
	close(p.synced)
	return nil, nil
}

// CreateContainer adds the hook.
func (hooking) CreateContainer(context.Context, *api.PodSandbox, *api.Container) (*api.ContainerAdjustment, []*api.ContainerUpdate, error) {
	adjust := &api.ContainerAdjustment{}
	adjust.AddHooks(&api.Hooks{CreateRuntime: []*api.Hook{{Path: "/bin/true", Args: []string{"true"}}}})
	return adjust, nil, nil
}

// Hooks of another plugin are refused where the node says so, and explained; pods outside the mesh have them.
func TestHooksOfNeighboursAreRefused(t *testing.T) {
	l := labtest.DualStack(t, lab.Runtimes()[0])
	daemon := labtest.RunDaemon(t, l, `neighbours.hooks = "refuse"`)
	meshed, plain := labtest.RunPod(t, l, "meshed", labtest.Injected()), labtest.RunPod(t, l, "plain", nil)
	other := hooking{make(chan struct{})}
	s, err := stub.New(other, stub.WithPluginName("hooking"), stub.WithPluginIdx("99"), stub.WithSocketPath(l.NRISocket()), stub.WithOnClose(func() {}))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Start(labtest.Within(t, 30*time.Second)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(s.Stop)
	select {
	case <-other.synced:
	case <-time.After(30 * time.Second):
		t.Fatal("the plugin is not synchronized")
	}
	refused(t, meshed, "99-hooking changed hooks, and neighbours.hooks refuses hooks of other plugins")
	started(t, plain)
	if _, told, stderr := daemon.Command(t, "explain", "default/meshed"); !strings.Contains(told, "another plugin of the node: 99-hooking changed hooks") {
		t.Errorf("not explained:\n%s%s", told, stderr)
	}
}
