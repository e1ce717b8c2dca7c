// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// node is a runtime with images, sandboxes and containers.
type node struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer

	images  []*criv1.Image
	driver  error // why it does not say how it manages cgroups
	systemd bool
	run     func(ctx context.Context, config *criv1.PodSandboxConfig) error // after it was made
	create  func(ctx context.Context, req *criv1.CreateContainerRequest) error
	stuck   error // why nothing is removed

	mu         sync.Mutex
	sandboxes  map[string]*criv1.PodSandboxConfig
	containers map[string]*criv1.CreateContainerRequest
	parents    []string // of cgroups, that were asked for
}

func (n *node) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{RuntimeName: "containerd", RuntimeVersion: "v2.4.2"}, nil
}

func (n *node) ListImages(context.Context, *criv1.ListImagesRequest) (*criv1.ListImagesResponse, error) {
	return &criv1.ListImagesResponse{Images: n.images}, nil
}

func (n *node) RuntimeConfig(context.Context, *criv1.RuntimeConfigRequest) (*criv1.RuntimeConfigResponse, error) {
	driver := criv1.CgroupDriver_CGROUPFS
	if n.systemd {
		driver = criv1.CgroupDriver_SYSTEMD
	}
	return &criv1.RuntimeConfigResponse{Linux: &criv1.LinuxRuntimeConfiguration{CgroupDriver: driver}}, n.driver
}

func (n *node) RunPodSandbox(ctx context.Context, req *criv1.RunPodSandboxRequest) (*criv1.RunPodSandboxResponse, error) {
	n.mu.Lock()
	n.parents = append(n.parents, req.GetConfig().GetLinux().GetCgroupParent())
	n.sandboxes["sandbox-1"] = req.GetConfig()
	n.mu.Unlock()
	if n.run != nil {
		if err := n.run(ctx, req.GetConfig()); err != nil {
			return nil, err
		}
	}
	return &criv1.RunPodSandboxResponse{PodSandboxId: "sandbox-1"}, nil
}

func (n *node) CreateContainer(ctx context.Context, req *criv1.CreateContainerRequest) (*criv1.CreateContainerResponse, error) {
	if n.create != nil {
		if err := n.create(ctx, req); err != nil {
			return nil, err
		}
	}
	if req.GetConfig().GetImage().GetUserSpecifiedImage() == "" { // as CRI-O has it
		return nil, errors.New("user specified image not specified")
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.containers["container-1"] = req
	return &criv1.CreateContainerResponse{ContainerId: "container-1"}, nil
}

func matches(labels, selector map[string]string) bool {
	for key, value := range selector {
		if labels[key] != value {
			return false
		}
	}
	return len(selector) > 0
}

func (n *node) ListContainers(_ context.Context, req *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*criv1.Container
	for id, c := range n.containers {
		if matches(c.GetConfig().GetLabels(), req.GetFilter().GetLabelSelector()) {
			found = append(found, &criv1.Container{Id: id})
		}
	}
	return &criv1.ListContainersResponse{Containers: found}, nil
}

func (n *node) ListPodSandbox(_ context.Context, req *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	var found []*criv1.PodSandbox
	for id, config := range n.sandboxes {
		if matches(config.GetLabels(), req.GetFilter().GetLabelSelector()) {
			found = append(found, &criv1.PodSandbox{Id: id})
		}
	}
	return &criv1.ListPodSandboxResponse{Items: found}, nil
}

func (n *node) RemoveContainer(_ context.Context, req *criv1.RemoveContainerRequest) (*criv1.RemoveContainerResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.stuck == nil {
		delete(n.containers, req.GetContainerId())
	}
	return &criv1.RemoveContainerResponse{}, n.stuck
}

func (n *node) StopPodSandbox(context.Context, *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	return &criv1.StopPodSandboxResponse{}, n.stuck
}

func (n *node) RemovePodSandbox(_ context.Context, req *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.sandboxes, req.GetPodSandboxId())
	return &criv1.RemovePodSandboxResponse{}, nil
}

func (n *node) serve(t *testing.T) Client {
	t.Helper()
	n.sandboxes, n.containers = map[string]*criv1.PodSandboxConfig{"others": {}}, map[string]*criv1.CreateContainerRequest{"others": {}}
	if n.images == nil {
		n.images = []*criv1.Image{image("app:1", 10, false)}
	}
	return Client{Socket: serve(t, func(s *grpc.Server) {
		criv1.RegisterRuntimeServiceServer(s, n)
		criv1.RegisterImageServiceServer(s, n)
	})}
}

func image(name string, size uint64, pinned bool) *criv1.Image {
	i := &criv1.Image{Id: "id", Size: size, Pinned: pinned}
	if name != "" {
		i.RepoTags = []string{name}
	}
	return i
}

// left is what is there beside what others made.
func (n *node) left() []string {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := append(slices.Collect(maps.Keys(n.sandboxes)), slices.Collect(maps.Keys(n.containers))...)
	slices.Sort(all)
	return all
}

func TestVersion(t *testing.T) {
	name, version, err := (&node{}).serve(t).Version(within(t, 10*time.Second))
	if err != nil || name != "containerd" || version != "v2.4.2" {
		t.Errorf("%s, %s, %v", name, version, err)
	}
	if _, _, err := (Client{Socket: t.TempDir() + "/none"}).Version(within(t, 10*time.Second)); err == nil || !strings.Contains(err.Error(), "ask for the runtime's version over CRI at") {
		t.Errorf("nobody: %v", err)
	}
}

func TestCanary(t *testing.T) {
	refuse := func(context.Context, *criv1.CreateContainerRequest) error {
		return status.Error(codes.Unknown, `rejected: required plugin "nobody" not present`)
	}
	for name, c := range map[string]struct {
		node *node
		want func(Canary) bool
	}{
		"refused": {&node{create: refuse}, func(c Canary) bool {
			return strings.Contains(c.Refused, `required plugin "nobody"`) && !c.Created && c.Err == nil
		}},
		"created": {&node{}, func(c Canary) bool { return c.Created && c.Refused == "" && c.Err == nil }},
		"fails for another reason": {&node{create: func(context.Context, *criv1.CreateContainerRequest) error {
			return status.Error(codes.NotFound, "no such image")
		}}, func(c Canary) bool { return c.Err != nil && !c.Created && c.Refused == "" }},
		"no sandbox, which is there all the same": {&node{run: func(context.Context, *criv1.PodSandboxConfig) error {
			return status.Error(codes.Unknown, "no network")
		}}, func(c Canary) bool { return c.Err != nil && strings.Contains(c.Err.Error(), "run a sandbox") }},
		"no image": {&node{images: []*criv1.Image{image("", 1, false)}}, func(c Canary) bool {
			return c.Err != nil && strings.Contains(c.Err.Error(), "no image with a name")
		}},
	} {
		t.Run(name, func(t *testing.T) {
			client := c.node.serve(t)
			came := client.Canary(within(t, 10*time.Second), "")
			if !c.want(came) || came.Left != nil {
				t.Errorf("%+v", came)
			}
			if left := c.node.left(); !slices.Equal(left, []string{"others", "others"}) {
				t.Errorf("left: %v", left)
			}
		})
	}
}

// Its pod asks for a plugin that nobody has, is in the node's network, and is nothing but labels and an annotation.
func TestCanaryPod(t *testing.T) {
	var asked *criv1.CreateContainerRequest
	n := &node{systemd: true, images: []*criv1.Image{image("app:1", 1, false), image("", 0, true), image("pause:3", 5, false), image("big/pause:3", 9, false)},
		create: func(_ context.Context, req *criv1.CreateContainerRequest) error { asked = req; return nil }}
	n.serve(t).Canary(within(t, 10*time.Second), "")
	sandbox := asked.GetSandboxConfig()
	value := sandbox.GetAnnotations()["required-plugins.noderesource.dev"]
	if !strings.HasPrefix(value, `["nobody-`) || len(sandbox.GetAnnotations()) != 1 {
		t.Errorf("annotations: %v", sandbox.GetAnnotations())
	}
	if got := sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions(); got.GetNetwork() != criv1.NamespaceMode_NODE || got.GetPid() != criv1.NamespaceMode_CONTAINER || got.GetIpc() != criv1.NamespaceMode_POD {
		t.Errorf("namespaces: %v", got)
	}
	if got := asked.GetConfig().GetImage().GetImage(); got != "pause:3" {
		t.Errorf("image %s", got)
	}
	if !slices.Equal(n.parents, []string{"system.slice"}) {
		t.Errorf("cgroups %v", n.parents)
	}
	n = &node{images: []*criv1.Image{image("pause:3", 5, false), image("kept:1", 9, true)},
		create: func(_ context.Context, req *criv1.CreateContainerRequest) error { asked = req; return nil }}
	client := n.serve(t)
	client.Canary(within(t, 10*time.Second), "")
	if got := asked.GetConfig().GetImage().GetImage(); got != "kept:1" {
		t.Errorf("image %s", got)
	}
	client.Canary(within(t, 10*time.Second), "mine:1")
	if got := asked.GetConfig().GetImage().GetImage(); got != "mine:1" {
		t.Errorf("image %s", got)
	}
}

// A runtime that does not say how it manages cgroups is tried both ways.
func TestCanaryOfOldRuntime(t *testing.T) {
	n := &node{driver: status.Error(codes.Unimplemented, "what?"), run: func(_ context.Context, config *criv1.PodSandboxConfig) error {
		if config.GetLinux().GetCgroupParent() == "" {
			return errors.New("expected cgroupsPath to be of format \"slice:prefix:name\"")
		}
		return nil
	}}
	if came := n.serve(t).Canary(within(t, 10*time.Second), ""); !came.Created {
		t.Errorf("%+v", came)
	}
	if !slices.Equal(n.parents, []string{"", "system.slice"}) {
		t.Errorf("cgroups %v", n.parents)
	}
}

// What cannot be removed is named; what was made by a call that was given up is removed.
func TestCanaryLeavesNothing(t *testing.T) {
	n := &node{stuck: errors.New("busy")}
	came := n.serve(t).Canary(within(t, 10*time.Second), "")
	if len(came.Left) != 2 || !strings.HasPrefix(came.Left[0], "container container-1: ") || !strings.HasPrefix(came.Left[1], "sandbox sandbox-1: ") {
		t.Errorf("%+v", came)
	}
	n = &node{run: func(ctx context.Context, _ *criv1.PodSandboxConfig) error { <-ctx.Done(); return ctx.Err() }}
	client := n.serve(t)
	if came := client.Canary(within(t, 200*time.Millisecond), ""); came.Err == nil || came.Left != nil {
		t.Errorf("%+v", came)
	}
	if left := n.left(); !slices.Equal(left, []string{"others", "others"}) {
		t.Errorf("left: %v", left)
	}
	if came := (Client{Socket: t.TempDir() + "/none"}).Canary(within(t, 10*time.Second), "x"); came.Err == nil || came.Left != nil {
		t.Errorf("nobody: %+v", came)
	}
}
