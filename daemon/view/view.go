// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package view answers questions about what the daemon knows, for status, metrics and explain. It changes nothing.
package view

import (
	"slices"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// View is what the answers are taken from, as it is at this moment.
type View struct {
	Policy *policy.Policy
	Memory *memory.Sandboxes
	Counts *lockdown.Counts
	Kernel kernel.Kernel
	// Specification returns what the kubelet says of a pod; false where that is nothing.
	Specification func(uid string) (rules.Pod, bool)
}

// Sandboxes returns what is known of every pod of the mesh whose sandbox is there at this moment, by namespace and name. Nobody
// says when one ends; the auditor forgets it later.
func (v View) Sandboxes() []memory.Sandbox {
	return slices.DeleteFunc(v.Memory.All(), memory.Sandbox.Gone)
}

// Sandbox returns what is known of a sandbox; false where that is nothing.
func (v View) Sandbox(id string) (memory.Sandbox, bool) { return v.Memory.Get(id) }

// Explain decides about a sandbox once more, by the configuration that decided before, and says how. It returns
// what is known of the sandbox too; false where that is nothing.
func (v View) Explain(id string) (memory.Sandbox, rules.Decision, bool) {
	sb, known := v.Memory.Get(id)
	if !known {
		return memory.Sandbox{}, rules.Decision{}, false
	}
	return sb, sb.Explain(v.Policy.Node), true
}

// Misspelt says which annotations of a sandbox no mesh reads, and which ones are meant.
func (v View) Misspelt(sb memory.Sandbox) []string {
	if len(sb.Pod.Unread) == 0 {
		return nil
	}
	return v.Policy.Node.Misspelt(sb.Pod)
}

// ValidatorOff reports whether the runtime's last question about a pod of the mesh showed that its own validator is off.
func (v View) ValidatorOff() bool { return v.Memory.ValidatorOff() }

// Loose returns why nothing keeps the sandbox's containers back while meshnetd is away, as far as they have shown it.
func (v View) Loose(sb memory.Sandbox) memory.Loose { return v.Memory.Loose(sb, v.Policy.Required) }

// Interfaces reads the interfaces of a sandbox's network namespace, in the kernel's order.
func (v View) Interfaces(sb memory.Sandbox) (all []rules.Interface, err error) {
	ns, err := v.Kernel.Open(sb.Pod.NetNS)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	err = ns.Do(func(in kernel.Inside) (err error) {
		all, err = in.Routes.Interfaces()
		return err
	})
	return all, err
}

// Totals returns how many packets of the pods of each namespace the lockdowns have counted since the start.
func (v View) Totals() map[lockdown.Total]uint64 { return v.Counts.Totals() }

// Lacks returns what the lockdowns of today's configuration lack for what was counted, and where more was counted than is known.
func (v View) Lacks() (all []lockdown.Lack, more []string) {
	return v.Counts.Lacks(v.Policy.Node.LockdownsOf)
}

// Source says by whom a sandbox's pod is known.
func (v View) Source(sb memory.Sandbox) string {
	if spec, known := v.Specification(sb.Pod.UID); known && spec.Unreadable == "" {
		return "nri + kubelet"
	}
	return "nri"
}

// Bypasses returns the containers of a sandbox that can go around its rules, as far as the kubelet tells, and why that cannot be
// known although it tells; "" where it is known, or nobody tells.
func (v View) Bypasses(sb memory.Sandbox) (all []rules.Bypass, unreadable string) {
	if !sb.State.Enrolled() {
		return nil, ""
	}
	spec, _ := v.Specification(sb.Pod.UID)
	pod := sb.Pod.With(spec)
	return v.Policy.Node.Refusing(pod.Namespace, sb.Decision).Bypasses(pod), pod.Unreadable
}
