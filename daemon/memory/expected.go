// SPDX-License-Identifier: Apache-2.0

//go:build linux

package memory

import (
	"slices"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
)

// Expect remembers a pod that is to be taken over, with what its containers say, and reports whether it is new. Nothing is
// decided yet: the runtime waits, and the pod's author can make a decision slow.
func (s *Sandboxes) Expect(by *policy.Policy, pod rules.Pod) (pending bool) {
	if pod.NetNS == "" {
		return false // there will be nothing to remember
	}
	s.Update(pod.SandboxID, func(sb *Sandbox) {
		if sb.State == "" {
			now := time.Now()
			*sb = Sandbox{Pod: by.Node.Deciding(pod), State: lifecycle.StatePending, Since: now, Turn: fair.Turn{Looked: now}}
			sb.Pod.Containers = nil
		}
		said := by.Refining(pod.Containers)
		if pending = sb.State == lifecycle.StatePending; pending {
			said, sb.Decision = by.Naming(pod.Containers), rules.Decision{}
		}
		sb.Running = slices.ContainsFunc(pod.Containers, func(c rules.Container) bool { return c.Running })
		sb.Found = sb.Found || pending && sb.Running
		sb.news = sb.news || sb.State.Enrolled() && !sb.knows(said)
		sb.Pod.Containers = policy.Overlay(sb.Pod.Containers, said)
		sb.Admitted = policy.Overlay(sb.Admitted, policy.Identities(pod.Containers...))
	})
	return pending
}

// Undecided reports whether a pending sandbox has not been decided about yet. It is remembered with all of its containers
// until then.
func (s Sandbox) Undecided() bool {
	return s.State == lifecycle.StatePending && s.Decision.Action == ""
}

// Decided keeps of a sandbox that is to be taken over what its containers say more about it, now that this is known.
func (s *Sandboxes) Decided(by *policy.Policy, o outcome.Look) {
	said := by.Naming(o.Pod.Containers)
	if !o.OwnInit(by, o.Trigger == lifecycle.Takeover) {
		said = by.Refining(said)
	}
	s.UpdateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
		if sb.Undecided() {
			sb.Decision, sb.Pod = o.Decision, by.Node.Remembered(sb.Pod, o.Decision)
			sb.Pod.Containers = said
		}
	})
}
