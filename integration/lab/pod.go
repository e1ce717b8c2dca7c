// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// PodSpec describes a pod sandbox. Only Name is required.
type PodSpec struct {
	Name      string
	Namespace string // "default" if empty
	UID       string // random if empty
	Attempt   uint32 // counted up when a kubelet tries again
	// Labels and Annotations are added to the labels a kubelet sets.
	Labels      map[string]string
	Annotations map[string]string
	HostNetwork bool
	UserNS      bool // a user namespace of its own, as with hostUsers: false
}

// Pod is a running pod sandbox.
type Pod struct {
	ID   string
	Spec PodSpec // with the defaults filled in

	lab    *Lab
	config *criv1.PodSandboxConfig
	ips    []netip.Addr
	netns  string
}

// RunPod runs a pod sandbox as a kubelet would. The error of the runtime is
// wrapped, so that its gRPC status can be looked at.
func (l *Lab) RunPod(ctx context.Context, spec PodSpec) (*Pod, error) {
	pod, _, err := l.TimePod(ctx, spec)
	return pod, err
}

// TimePod is RunPod, and tells how long the call of RunPodSandbox took.
func (l *Lab) TimePod(ctx context.Context, spec PodSpec) (*Pod, time.Duration, error) {
	if spec.Namespace == "" {
		spec.Namespace = "default"
	}
	if spec.UID == "" {
		spec.UID = rand.Text()
	}
	logs := filepath.Join(l.path("logs"), spec.UID)
	if err := os.MkdirAll(logs, 0o755); err != nil {
		return nil, 0, fmt.Errorf("run pod %s: %w", spec.Name, err)
	}
	pod := &Pod{Spec: spec, lab: l, config: l.sandboxConfig(spec, logs)}

	began := time.Now()
	resp, err := l.CRI().RunPodSandbox(ctx, &criv1.RunPodSandboxRequest{Config: pod.config})
	took := time.Since(began)
	if err != nil {
		return nil, took, fmt.Errorf("run pod %s: %w", spec.Name, err)
	}
	pod.ID = resp.GetPodSandboxId()
	if err := pod.inspect(ctx); err != nil {
		return nil, 0, fmt.Errorf("run pod %s: %w", spec.Name, err)
	}
	return pod, took, nil
}

func (l *Lab) sandboxConfig(spec PodSpec, logs string) *criv1.PodSandboxConfig {
	labels := map[string]string{
		"io.kubernetes.pod.name":      spec.Name,
		"io.kubernetes.pod.namespace": spec.Namespace,
		"io.kubernetes.pod.uid":       spec.UID,
	}
	maps.Copy(labels, spec.Labels)
	network := criv1.NamespaceMode_POD
	if spec.HostNetwork {
		network = criv1.NamespaceMode_NODE
	}
	var users *criv1.UserNamespace
	if spec.UserNS {
		ids := []*criv1.IDMapping{{HostId: 100000, ContainerId: 0, Length: 65536}}
		users = &criv1.UserNamespace{Mode: criv1.NamespaceMode_POD, Uids: ids, Gids: ids}
	}
	return &criv1.PodSandboxConfig{
		Metadata: &criv1.PodSandboxMetadata{
			Name: spec.Name, Namespace: spec.Namespace, Uid: spec.UID, Attempt: spec.Attempt,
		},
		LogDirectory: logs,
		Labels:       labels,
		Annotations:  spec.Annotations,
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent: l.cgroup(),
			SecurityContext: &criv1.LinuxSandboxSecurityContext{
				NamespaceOptions: &criv1.NamespaceOption{Network: network, Pid: criv1.NamespaceMode_CONTAINER, UsernsOptions: users},
			},
		},
	}
}

// sandboxInfo is the part of the verbose sandbox status used here.
type sandboxInfo struct {
	RuntimeSpec struct {
		Linux struct {
			Namespaces []struct{ Type, Path string }
		}
	} `json:"runtimeSpec"`
}

// inspect learns what only the running sandbox knows. None of it changes.
func (p *Pod) inspect(ctx context.Context) error {
	resp, err := p.lab.CRI().PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: p.ID, Verbose: true})
	if err != nil {
		return fmt.Errorf("read sandbox status: %w", err)
	}
	network := resp.GetStatus().GetNetwork()
	texts := []string{network.GetIp()}
	for _, additional := range network.GetAdditionalIps() {
		texts = append(texts, additional.GetIp())
	}
	for _, text := range texts {
		if addr, err := netip.ParseAddr(text); err == nil {
			p.ips = append(p.ips, addr)
		}
	}

	var info sandboxInfo
	if err := json.Unmarshal([]byte(resp.GetInfo()["info"]), &info); err != nil {
		return fmt.Errorf("read verbose sandbox status: %w", err)
	}
	for _, ns := range info.RuntimeSpec.Linux.Namespaces {
		if ns.Type == "network" && !p.Spec.HostNetwork { // of which CRI-O has a path too
			p.netns = ns.Path
		}
	}
	return nil
}

// NetNS returns the path of the network namespace, "" for a hostNetwork pod.
func (p *Pod) NetNS() string { return p.netns }

// IPs returns the pod's addresses, IPv4 first; none for a hostNetwork pod.
func (p *Pod) IPs() []netip.Addr { return p.ips }

// IP returns the pod's first address, or the zero Addr.
func (p *Pod) IP() netip.Addr {
	if len(p.ips) == 0 {
		return netip.Addr{}
	}
	return p.ips[0]
}

// Ready reports whether the runtime still holds the sandbox to be running.
func (p *Pod) Ready(ctx context.Context) (bool, error) {
	resp, err := p.lab.CRI().PodSandboxStatus(ctx, &criv1.PodSandboxStatusRequest{PodSandboxId: p.ID})
	if err != nil {
		return false, fmt.Errorf("status of pod %s: %w", p.Spec.Name, err)
	}
	return resp.GetStatus().GetState() == criv1.PodSandboxState_SANDBOX_READY, nil
}

// Stop stops the pod's containers and gives its network up, but keeps the
// record of it.
func (p *Pod) Stop(ctx context.Context) error {
	if _, err := p.lab.CRI().StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: p.ID}); err != nil {
		return fmt.Errorf("stop pod %s: %w", p.Spec.Name, err)
	}
	return nil
}

// Remove stops the pod and removes it with all its containers.
func (p *Pod) Remove(ctx context.Context) error {
	if err := p.lab.RemoveSandbox(ctx, p.ID); err != nil {
		return fmt.Errorf("remove pod %s: %w", p.Spec.Name, err)
	}
	return nil
}

// RemoveSandbox removes a sandbox with its containers.
func (l *Lab) RemoveSandbox(ctx context.Context, id string) error {
	return removeSandbox(ctx, l.CRI(), id)
}

// removeSandbox tries again as a kubelet does: containerd 1.7 fails to stop a container that ends in that
// very moment.
func removeSandbox(ctx context.Context, client criv1.RuntimeServiceClient, id string) error {
	const attempts = 3
	var err error
	for range attempts {
		if err = removeSandboxOnce(ctx, client, id); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

func removeSandboxOnce(ctx context.Context, client criv1.RuntimeServiceClient, id string) error {
	// Stopping the sandbox would grant every container its grace period.
	containers, err := client.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{PodSandboxId: id}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	for _, c := range containers.GetContainers() {
		// Not left to RemovePodSandbox: containerd 2.4.2 hangs for good where that has containers to remove
		// while a plugin registers.
		if err := removeContainer(ctx, client, c.GetId(), c.GetMetadata().GetName()); err != nil {
			return err
		}
	}
	if _, err := client.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("stop sandbox: %w", err)
	}
	if _, err := client.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: id}); err != nil {
		return fmt.Errorf("remove sandbox: %w", err)
	}
	return nil
}
