// SPDX-License-Identifier: Apache-2.0

package cri

import (
	"cmp"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Version returns which runtime answers, as it says it: "containerd" and "v2.4.2". It ends with ctx.
func (c Client) Version(ctx context.Context) (name, version string, err error) {
	conn, err := c.connect()
	if err != nil {
		return "", "", fmt.Errorf("ask for the runtime's version over CRI at %q: %w", c.Socket, err)
	}
	defer func() { _ = conn.Close() }()
	said, err := criv1.NewRuntimeServiceClient(conn).Version(ctx, &criv1.VersionRequest{})
	if err != nil {
		return "", "", fmt.Errorf("ask for the runtime's version over CRI at %q: %w", c.Socket, err)
	}
	return said.GetRuntimeName(), said.GetRuntimeVersion(), nil
}

// connect uses a unix socket that only root can open, so it needs no encryption.
func (c Client) connect() (*grpc.ClientConn, error) {
	return grpc.NewClient("unix:"+c.Socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
}

// Canary is what became of a container that requires an NRI plugin which nobody has.
type Canary struct {
	Refused string   // the runtime's words; "" where it was not refused for that
	Created bool     // it was created; it is never started
	Err     error    // why neither of the two is known
	Left    []string // what could not be removed: "sandbox ID: why", "container ID: why"
}

// The annotation that says which plugins a container requires, and what the runtime's validator says of a missing one.
const (
	requiredAnnotation = "required-plugins.noderesource.dev"
	refusal            = "required plugin "
)

// removalLimit is how long removing may take after the canary, also where its time is over.
const removalLimit = 30 * time.Second

// Canary makes a sandbox in the node's network, and in it a container of an image that the runtime has; "" is any.
// Whatever comes of it, and whenever ctx ends, all that it made is removed.
func (c Client) Canary(ctx context.Context, image string) (came Canary) {
	conn, err := c.connect()
	if err != nil {
		return Canary{Err: fmt.Errorf("canary over CRI at %q: %w", c.Socket, err)}
	}
	defer func() { _ = conn.Close() }()
	w := canary{runtime: criv1.NewRuntimeServiceClient(conn), images: criv1.NewImageServiceClient(conn), id: strings.ToLower(rand.Text())}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removalLimit)
		defer cancel()
		came.Left = w.remove(ctx)
	}()
	if image == "" {
		if image, err = w.anyImage(ctx); err != nil {
			return Canary{Err: err}
		}
	}
	config, err := w.sandbox(ctx)
	if err != nil {
		return Canary{Err: err}
	}
	switch err := w.container(ctx, config, image); {
	case err == nil:
		return Canary{Created: true}
	case strings.Contains(err.Error(), refusal):
		return Canary{Refused: err.Error()}
	default:
		return Canary{Err: err}
	}
}

type canary struct {
	runtime criv1.RuntimeServiceClient
	images  criv1.ImageServiceClient
	id      string // random; the pod's uid, by which all of it is found again
	made    string // id of the sandbox
}

// anyImage prefers the sandboxes' own image, which no kubelet removes.
func (w *canary) anyImage(ctx context.Context) (string, error) {
	list, err := w.images.ListImages(ctx, &criv1.ListImagesRequest{})
	if err != nil {
		return "", fmt.Errorf("list images: %w", err)
	}
	images := slices.DeleteFunc(list.GetImages(), func(i *criv1.Image) bool { return len(i.GetRepoTags()) == 0 })
	if len(images) == 0 {
		return "", errors.New("the runtime has no image with a name: pull one, and name it")
	}
	best := slices.MinFunc(images, func(a, b *criv1.Image) int {
		return cmp.Or(rank(a)-rank(b), cmp.Compare(a.GetSize(), b.GetSize()))
	})
	return best.GetRepoTags()[0], nil
}

func rank(i *criv1.Image) int {
	switch {
	case i.GetPinned():
		return 0
	case strings.Contains(i.GetRepoTags()[0], "pause"):
		return 1
	}
	return 2
}

const systemdParent = "system.slice"

func (w *canary) sandbox(ctx context.Context) (*criv1.PodSandboxConfig, error) {
	name := "meshnetd-canary-" + w.id[:8]
	config := &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{Name: name, Namespace: "default", Uid: w.id},
		Labels:   map[string]string{"io.kubernetes.pod.name": name, "io.kubernetes.pod.namespace": "default", "io.kubernetes.pod.uid": w.id},
		Annotations: map[string]string{
			requiredAnnotation: fmt.Sprintf("[%q]", "nobody-"+w.id[:8]),
		},
		Linux: &criv1.LinuxPodSandboxConfig{
			SecurityContext: &criv1.LinuxSandboxSecurityContext{
				// The node's network: CNI plugins, Istio's for one, ask the API server about a pod, and it does not know this one.
				NamespaceOptions: &criv1.NamespaceOption{Network: criv1.NamespaceMode_NODE, Pid: criv1.NamespaceMode_CONTAINER},
			},
		},
	}
	if said, err := w.runtime.RuntimeConfig(ctx, &criv1.RuntimeConfigRequest{}); err == nil &&
		said.GetLinux().GetCgroupDriver() == criv1.CgroupDriver_SYSTEMD {
		config.Linux.CgroupParent = systemdParent
	}
	made, err := w.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
	if err != nil && strings.Contains(err.Error(), "slice") && config.Linux.CgroupParent == "" && ctx.Err() == nil {
		// containerd 1.7 does not tell how it manages cgroups, other than by failing.
		config.Linux.CgroupParent, config.Metadata.Attempt = systemdParent, 1
		made, err = w.runtime.RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: config})
	}
	if err != nil {
		return nil, fmt.Errorf("run a sandbox: %w", err)
	}
	w.made = made.GetPodSandboxId()
	return config, nil
}

func (w *canary) container(ctx context.Context, sandbox *criv1.PodSandboxConfig, image string) error {
	config := &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: "canary"},
		Image:       &criv1.ImageSpec{Image: image, UserSpecifiedImage: image}, // CRI-O asks for the second
		Command:     []string{"/canary"},                                       // it is never started
		Labels:      map[string]string{"io.kubernetes.container.name": "canary"},
		Annotations: map[string]string{"io.kubernetes.container.name": "canary"},
		Linux: &criv1.LinuxContainerConfig{SecurityContext: &criv1.LinuxContainerSecurityContext{
			NamespaceOptions: sandbox.GetLinux().GetSecurityContext().GetNamespaceOptions(),
		}},
	}
	for key, value := range sandbox.GetLabels() {
		config.Labels[key] = value
	}
	if _, err := w.runtime.CreateContainer(ctx, &criv1.CreateContainerRequest{PodSandboxId: w.made, Config: config, SandboxConfig: sandbox}); err != nil {
		return fmt.Errorf("create a container of image %s: %w", image, err)
	}
	return nil
}

// remove removes everything that has the canary's uid: a call whose answer was lost may have made something too.
func (w *canary) remove(ctx context.Context) (left []string) {
	mine := map[string]string{"io.kubernetes.pod.uid": w.id}
	containers, err := w.runtime.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{LabelSelector: mine}})
	if err != nil && w.made != "" {
		return []string{fmt.Sprintf("sandbox %s: %v", w.made, err)}
	}
	for _, c := range containers.GetContainers() {
		if _, err := w.runtime.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: c.GetId()}); err != nil {
			left = append(left, fmt.Sprintf("container %s: %v", c.GetId(), err))
		}
	}
	sandboxes, err := w.runtime.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{Filter: &criv1.PodSandboxFilter{LabelSelector: mine}})
	if err != nil && w.made != "" {
		return append(left, fmt.Sprintf("sandbox %s: %v", w.made, err))
	}
	for _, sb := range sandboxes.GetItems() {
		_, err := w.runtime.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: sb.GetId()})
		if err == nil {
			_, err = w.runtime.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: sb.GetId()})
		}
		if err != nil {
			left = append(left, fmt.Sprintf("sandbox %s: %v", sb.GetId(), err))
		}
	}
	return left
}
