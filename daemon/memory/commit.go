// SPDX-License-Identifier: Apache-2.0

//go:build linux

package memory

import (
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// Commit is the one place where a look changes what is remembered, and where it is settled what is told of it.
func (s *Sandboxes) Commit(by *policy.Policy, o *outcome.Look, f lifecycle.Facts, step lifecycle.Step, row lifecycle.Row) {
	o.Settle(f, step, row)
	switch {
	case step.Keep:
		s.UpdateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
			if o.Err != nil && (sb.State == lifecycle.StatePending || sb.State == lifecycle.StateFailing) {
				sb.Detail = o.Err.Error()
			}
		})
	case step.Then == lifecycle.StateNew:
		s.forgetIf(o.Pod.SandboxID, func(sb Sandbox) bool { return sb.State == f.State })
		if f.Trouble == lifecycle.Gone || f.Trouble == lifecycle.Stopped {
			s.Receipts.Remove(o.ReceiptID())
		}
	case step.Then == lifecycle.StateSkipped:
		s.forgetIf(o.Pod.SandboxID, func(sb Sandbox) bool { return sb.State == f.State && sb.State != lifecycle.StateSkipped })
		s.rememberSkipped(by, *o)
	case f.Trouble != lifecycle.NoTrouble && f.Trouble != lifecycle.Hidden:
		s.UpdateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
			if sb.State != step.Then {
				sb.Since = time.Now()
			}
			sb.State, sb.Lack, sb.Detail, sb.Why, sb.Generation = step.Then, step.Lack, o.Err.Error(), row.Why, ""
		})
	default:
		s.remember(by, o, step)
	}
}

func (s *Sandboxes) remember(by *policy.Policy, o *outcome.Look, step lifecycle.Step) {
	detail := o.Decision.Detail
	switch {
	case o.Err != nil:
		detail = o.Err.Error()
	case step.Then == lifecycle.StateOutdated:
		detail = o.Outdated()
	}
	if step.Result == lifecycle.Protected && o.Judged.Same {
		s.Receipts.Write(o.ReceiptID(), receipts.Receipt{NetNS: o.NetNS, Plan: o.Key})
	}
	generation := ""
	switch step.Then {
	case lifecycle.StateProtected, lifecycle.StateOutdated, lifecycle.StateUnproven:
		generation = o.Generation
	case lifecycle.StateExempt:
		s.Receipts.Remove(o.ReceiptID())
	case lifecycle.StateNew, lifecycle.StateUnprotected, lifecycle.StatePending, lifecycle.StateFailing, lifecycle.StateSkipped:
	}
	pod := by.Node.Remembered(o.Pod, o.Decision)
	if o.Decision.Reason == rules.ReasonInitContainer { // known from containers that say nothing else
		pod.Containers = by.Naming(pod.Containers)
	} else {
		pod.Containers = by.Refining(pod.Containers)
	}
	if pod.NetNS == "" { // nothing would show when it is gone
		return
	}
	s.Update(pod.SandboxID, func(sb *Sandbox) {
		since := time.Now()
		if sb.State == step.Then && sb.Detail == detail {
			since = sb.Since
		}
		*sb = Sandbox{Pod: pod, State: step.Then, Lack: step.Lack, Why: o.Why, Decision: o.Decision, Plan: o.Plan, Key: o.Key, Earlier: o.Earlier, Network: o.Network,
			NetNS: o.NetNS, Since: since, Took: time.Since(o.Began), Detail: detail, Admitted: sb.Admitted, Drift: sb.Drift, Node: o.Node,
			Changes: sb.Changes, Beside: o.Judged.Beside, Counted: sb.Counted, Reviewed: sb.Reviewed, Required: sb.Required,
			Running: sb.Running, Found: sb.Spared(o.Decision), Generation: generation, Around: o.Around, Backend: o.Backend, Turn: sb.Turn}
	})
}

// rememberSkipped remembers a pod that is skipped although it bears an injector's mark, so that the status shows it.
func (s *Sandboxes) rememberSkipped(by *policy.Policy, o outcome.Look) {
	if o.Pod.NetNS == "" || o.Pod.HostNetwork { // nothing would show when it is gone
		return
	}
	pod := by.Node.Remembered(o.Pod, o.Decision)
	pod.Containers = nil
	s.Update(pod.SandboxID, func(sb *Sandbox) {
		if sb.State == "" || sb.State == lifecycle.StateSkipped && sb.Decision.Reason != o.Decision.Reason {
			*sb = Sandbox{Pod: pod, State: lifecycle.StateSkipped, Why: o.Why, Decision: o.Decision, Since: time.Now(), Detail: o.Decision.Detail, Node: o.Node}
		}
	})
}

// Drifted counts drift of a sandbox's rules, before they are repaired: that may fail.
func (s *Sandboxes) Drifted(id string) {
	s.UpdateKnown(id, func(sb *Sandbox) {
		sb.Lack, sb.Drift = lifecycle.Lost, Drift{sb.Drift.Times + 1, time.Now()}
	})
}
