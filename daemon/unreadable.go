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
	return "whether the pod can go around its rules cannot be known: the kubelet tells of it what cannot be read (" + judge.Short(o.Pod.Unreadable) + ")"
}

// hidesUser says why nobody knows as whom a container of the mesh runs, where its pod is what hides that: a runtime that tells no
// user leaves it to the kubelet, whose word of this pod cannot be read. "" where it is known, or nobody tells.
func hidesUser(k Kubelet, o outcome.Outcome, c rules.Container) string {
	if o.Decision.Action != rules.Enrol || c.UID != nil || c.GID != nil {
		return ""
	}
	spec, _ := specification(k, o.Pod.UID)
	if spec.Unreadable == "" || spec.Namespace != o.Pod.Namespace || spec.Name != o.Pod.Name {
		return ""
	}
	return fmt.Sprintf("as whom container %s runs cannot be known: this runtime does not tell it, and the kubelet tells of the pod what cannot be read (%s). "+
		"Give the pod fewer and smaller containers, or ask whoever runs the node to exempt the namespace (proxy_identity_exempt in the configuration)", judge.Short(c.Name), judge.Short(spec.Unreadable))
}
