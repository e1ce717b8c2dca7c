// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/rules"
)

// unreadable says of a pod that starts that nobody can know what its containers are given.
func unreadable(o outcome.Outcome) string {
	if o.Trigger != lifecycle.SandboxStarted || o.Result != lifecycle.Protected || o.Pod.Unreadable == "" {
		return ""
	}
	return "whether the pod can go around its rules cannot be known: what the kubelet tells of it is not taken in (" + judge.Short(o.Pod.Unreadable) + ")"
}

// untoldUser reports whether the runtime leaves it to the kubelet to say as whom a container runs.
func untoldUser(c rules.Container) bool { return c.UID == nil && c.GID == nil }

// hidesUser says why nobody knows as whom a container of the mesh runs although the kubelet tells of its pod. "" where that is
// known, or nobody tells.
func hidesUser(o *outcome.Look, c rules.Container) string {
	if o.Decision.Action != rules.Enrol || !untoldUser(c) || o.Spec.UID == "" {
		return ""
	}
	const unknown = "as whom container %s runs cannot be known: this runtime does not tell it, and "
	switch {
	case o.Spec.Unreadable != "":
		return fmt.Sprintf(unknown+"what the kubelet tells of the pod is not taken in (%s). Give the pod, and others of its namespace, fewer and smaller containers, "+
			"or ask whoever runs the node to exempt the namespace (proxy_identity_exempt in the configuration)", judge.Short(c.Name), judge.Short(o.Spec.Unreadable))
	case o.Spec.Container(c.Name) == nil:
		o.Untold = true
		return fmt.Sprintf(unknown+"the kubelet does not tell of it yet", judge.Short(c.Name))
	}
	return ""
}
