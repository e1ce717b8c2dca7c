// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// ContainerSpec describes a container. Only Name is required.
type ContainerSpec struct {
	Name string
	// Command is the program, and what comes before Args. If empty, it is what a mesh's injector gives to a container
	// of that name, and the stand-in for any other.
	Command []string
	// Args are the arguments of the stand-in program, "pause" if empty.
	Args []string
	// User and Group are the ids the container runs as, and Groups additional ones.
	User, Group int64
	Groups      []int64
	// Env entries have the form NAME=value.
	Env []string
	// Capabilities are added to the runtime's default ones: "NET_ADMIN".
	Capabilities []string
	// Labels and Annotations are added to those a kubelet sets.
	Labels      map[string]string
	Annotations map[string]string
	// Attempt counts the restarts of the container.
	Attempt uint32
}

// Container is a container of a Pod.
type Container struct {
	ID   string
	Spec ContainerSpec

	pod     *Pod
	logPath string
}

// CreateContainer creates the container without starting it.
func (p *Pod) CreateContainer(ctx context.Context, spec ContainerSpec) (*Container, error) {
	config, err := p.containerConfig(spec)
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	resp, err := p.lab.CRI().CreateContainer(ctx, &criv1.CreateContainerRequest{
		PodSandboxId: p.ID, Config: config, SandboxConfig: p.config,
	})
	if err != nil {
		return nil, fmt.Errorf("create container %s: %w", spec.Name, err)
	}
	return &Container{
		ID: resp.GetContainerId(), Spec: spec, pod: p,
		logPath: filepath.Join(p.config.GetLogDirectory(), config.GetLogPath()),
	}, nil
}

// RunContainer creates the container and starts it.
func (p *Pod) RunContainer(ctx context.Context, spec ContainerSpec) (*Container, error) {
	container, err := p.CreateContainer(ctx, spec)
	if err != nil {
		return nil, err
	}
	if err := container.Start(ctx); err != nil {
		return nil, err
	}
	return container, nil
}

func (p *Pod) containerConfig(spec ContainerSpec) (*criv1.ContainerConfig, error) {
	env, err := keyValues(spec.Env)
	if err != nil {
		return nil, err
	}
	command := spec.Command
	if len(command) == 0 {
		command = commands[spec.Name]
	}
	options := p.config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	labels := map[string]string{
		"io.kubernetes.container.name": spec.Name,
		"io.kubernetes.pod.name":       p.Spec.Name,
		"io.kubernetes.pod.namespace":  p.Spec.Namespace,
		"io.kubernetes.pod.uid":        p.Spec.UID,
	}
	// CRI-O of some releases takes the container's name from the annotation.
	annotations := map[string]string{"io.kubernetes.container.name": spec.Name}
	for key, value := range spec.Labels {
		labels[key] = value
	}
	for key, value := range spec.Annotations {
		annotations[key] = value
	}
	return &criv1.ContainerConfig{
		Metadata:    &criv1.ContainerMetadata{Name: spec.Name, Attempt: spec.Attempt},
		Image:       &criv1.ImageSpec{Image: Image, UserSpecifiedImage: Image},
		Command:     command,
		Args:        spec.Args,
		Envs:        env,
		Labels:      labels,
		Annotations: annotations,
		LogPath:     fmt.Sprintf("%s_%d.log", spec.Name, spec.Attempt),
		Linux: &criv1.LinuxContainerConfig{
			Resources: &criv1.LinuxContainerResources{},
			SecurityContext: &criv1.LinuxContainerSecurityContext{
				NamespaceOptions:   options,
				Capabilities:       &criv1.Capability{AddCapabilities: spec.Capabilities},
				RunAsUser:          &criv1.Int64Value{Value: spec.User},
				RunAsGroup:         &criv1.Int64Value{Value: spec.Group},
				SupplementalGroups: spec.Groups,
			},
		},
	}, nil
}

// Start starts the container.
func (c *Container) Start(ctx context.Context) error {
	_, err := c.pod.lab.CRI().StartContainer(ctx, &criv1.StartContainerRequest{ContainerId: c.ID})
	if err != nil {
		return fmt.Errorf("start container %s: %w", c.Spec.Name, err)
	}
	return nil
}

// Wait waits until the container has ended and returns its exit status.
func (c *Container) Wait(ctx context.Context) (int32, error) {
	var status *criv1.ContainerStatus
	err := Poll(ctx, func() (bool, error) {
		resp, err := c.pod.lab.CRI().ContainerStatus(ctx, &criv1.ContainerStatusRequest{ContainerId: c.ID})
		if err != nil {
			return false, err
		}
		status = resp.GetStatus()
		return status.GetState() == criv1.ContainerState_CONTAINER_EXITED, nil
	})
	if err != nil {
		return 0, fmt.Errorf("wait for container %s: %w", c.Spec.Name, err)
	}
	return status.GetExitCode(), nil
}

// Remove stops the container at once and removes it.
func (c *Container) Remove(ctx context.Context) error {
	return removeContainer(ctx, c.pod.lab.CRI(), c.ID, c.Spec.Name)
}

// removeContainer stops and removes a container, as often as it takes: right after it was stopped, containerd may
// still count it as running.
func removeContainer(ctx context.Context, client criv1.RuntimeServiceClient, id, name string) error {
	var last error
	err := Poll(ctx, func() (bool, error) {
		if _, err := client.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: id, Timeout: 0}); err != nil {
			return false, fmt.Errorf("stop container %s: %w", name, err)
		}
		_, last = client.RemoveContainer(ctx, &criv1.RemoveContainerRequest{ContainerId: id})
		if last != nil && strings.Contains(last.Error(), "still running") {
			return false, nil
		}
		return true, last
	})
	if err != nil {
		return fmt.Errorf("remove container %s: %w", name, errors.Join(err, last))
	}
	return nil
}
