// SPDX-License-Identifier: Apache-2.0

package nriplugin

import (
	"cmp"
	"fmt"
	"strings"

	"github.com/containerd/nri/pkg/api"

	"github.com/meshnetd/meshnetd/rules"
)

// podOf keeps what the flow needs of a sandbox. Its addresses are read from the namespace: the runtime
// does not always tell them, and never those of secondary interfaces.
func podOf(sandbox *api.PodSandbox) rules.Pod {
	pod := rules.Pod{
		SandboxID:      sandbox.GetId(),
		UID:            sandbox.GetUid(),
		Namespace:      sandbox.GetNamespace(),
		Name:           sandbox.GetName(),
		RuntimeHandler: sandbox.GetRuntimeHandler(),
		Labels:         sandbox.GetLabels(),
		Annotations:    sandbox.GetAnnotations(),
	}
	namespaces := sandbox.GetLinux().GetNamespaces()
	path, listed := networkOf(namespaces)
	pod.NetNS = path
	// A specification without a network namespace means the runtime's own, which is the host's; but containerd also leaves
	// out a path that is gone. The pause process is in the right one. No list at all proves nothing: containerd sends
	// none where it could not read the specification.
	if len(namespaces) > 0 && !listed && sandbox.GetPid() != 0 {
		pod.NetNS, pod.NetNSOfPause = fmt.Sprintf("/proc/%d/ns/net", sandbox.GetPid()), true
	}
	return pod
}

const (
	network       = "network"                      // the type of a network namespace
	containerName = "io.kubernetes.container.name" // label and annotation
	unknownMover  = "another plugin"               // where the runtime does not record which
)

// containerOf keeps what the flow needs of a container, as the runtime and the plugins before us made it.
func containerOf(container *api.Container) rules.Container {
	c := rules.Container{Name: nameOf(container), Image: container.GetImage().GetName(), Args: container.GetArgs(), Env: environment(container.GetEnv())}
	if user := container.GetUser(); user != nil { // absent does not mean root: not every runtime tells
		uid, gid := int64(user.GetUid()), int64(user.GetGid())
		c.UID, c.GID, c.Groups = &uid, &gid, user.GetAdditionalGids()
	}
	state := container.GetState()
	c.Running = state == api.ContainerState_CONTAINER_RUNNING || state == api.ContainerState_CONTAINER_PAUSED
	c.NetNS, _ = networkOf(container.GetLinux().GetNamespaces())
	return c
}

// nameOf returns the container's name, which CRI-O fills from an annotation, and not in every version.
func nameOf(container *api.Container) string {
	return cmp.Or(container.GetName(), container.GetLabels()[containerName], container.GetAnnotations()[containerName])
}

// environment reads NAME=value; the last one of a name counts, as for most programs.
func environment(list []string) map[string]string {
	if len(list) == 0 {
		return nil
	}
	env := make(map[string]string, len(list))
	for _, variable := range list {
		name, value, _ := strings.Cut(variable, "=")
		env[name] = value
	}
	return env
}

func networkOf(namespaces []*api.LinuxNamespace) (path string, listed bool) {
	for _, ns := range namespaces {
		if ns.GetType() == network {
			path, listed = ns.GetPath(), true
		}
	}
	return path, listed
}

// adjusted returns the container as all plugins left it: the request has it as it was before any of them,
// and what they want changed.
func adjusted(req *api.ValidateContainerAdjustmentRequest) rules.Container {
	c := containerOf(req.GetContainer())
	if args := req.GetAdjust().GetArgs(); len(args) > 0 {
		c.Args = args
	}
	for _, variable := range req.GetAdjust().GetEnv() {
		if name, removed := api.IsMarkedForRemoval(variable.GetKey()); removed {
			delete(c.Env, name)
		} else {
			if c.Env == nil {
				c.Env = map[string]string{}
			}
			c.Env[name] = variable.GetValue()
		}
	}
	if len(c.Env) == 0 {
		c.Env = nil // the same container is to be equal in every request
	}
	was, wasListed := networkOf(req.GetContainer().GetLinux().GetNamespaces())
	path, listed := was, wasListed
	for _, ns := range req.GetAdjust().GetLinux().GetNamespaces() { // in the order in which the runtime applies them
		if name, removed := api.IsMarkedForRemoval(ns.GetType()); name == network && removed {
			path, listed = "", false // the runtime's own: the host's
		} else if name == network {
			path, listed = ns.GetPath(), true
		}
	}
	if path == was && listed == wasListed {
		return c
	}
	c.NetNS = path
	if sandbox := podOf(req.GetPod()).NetNS; path == "" || path != sandbox {
		c.MovedBy = mover(req)
	}
	return c
}

// mover names the plugin that set the container's network namespace.
func mover(req *api.ValidateContainerAdjustmentRequest) string {
	owner, _ := req.GetOwners().GetOwners()[req.GetContainer().GetId()].NamespaceOwner(network)
	if owner = api.ClearRemovalMarker(owner); owner == "" {
		return unknownMover
	}
	return owner
}
