// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"time"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// commit is the one place where a look changes what is remembered, and where it is settled what is told of it.
func (s *sandboxes) commit(by *policy.Policy, o *outcome.Look, f lifecycle.Facts, step lifecycle.Step, row lifecycle.Row) {
	o.Settle(f, step, row)
	switch {
	case step.Keep:
		s.updateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
			if o.Err != nil && (sb.State == StatePending || sb.State == StateFailing) {
				sb.Detail = o.Err.Error()
			}
		})
	case step.Then == lifecycle.StateNew:
		s.forgetIf(o.Pod.SandboxID, func(sb Sandbox) bool { return sb.State == f.State })
		if f.Trouble == lifecycle.Gone || f.Trouble == lifecycle.Stopped {
			s.receipts.Remove(o.ReceiptID())
		}
	case step.Then == StateSkipped:
		s.forgetIf(o.Pod.SandboxID, func(sb Sandbox) bool { return sb.State == f.State && sb.State != StateSkipped })
		s.rememberSkipped(by, *o)
	case f.Trouble != lifecycle.NoTrouble && f.Trouble != lifecycle.Hidden:
		s.updateKnown(o.Pod.SandboxID, func(sb *Sandbox) {
			if sb.State != step.Then {
				sb.Since = time.Now()
			}
			sb.State, sb.lack, sb.Detail, sb.Why, sb.generation = step.Then, step.Lack, o.Err.Error(), row.Why, ""
		})
	default:
		s.remember(by, o, step)
	}
}

func (s *sandboxes) remember(by *policy.Policy, o *outcome.Look, step lifecycle.Step) {
	detail := o.Decision.Detail
	switch {
	case o.Err != nil:
		detail = o.Err.Error()
	case step.Then == StateOutdated:
		detail = o.Outdated()
	}
	if step.Result == Protected && o.Judged.Same {
		s.receipts.Write(o.ReceiptID(), receipts.Receipt{NetNS: o.NetNS, Plan: o.Key})
	}
	generation := ""
	switch step.Then {
	case StateProtected, StateOutdated, StateUnproven:
		generation = o.Generation
	case StateExempt:
		s.receipts.Remove(o.ReceiptID())
	case lifecycle.StateNew, StateUnprotected, StatePending, StateFailing, StateSkipped:
	}
	pod := by.Node.Remembered(o.Pod, o.Decision)
	if o.Decision.Reason != rules.ReasonInitContainer { // known from containers that need not be kept
		pod.Containers = by.Refining(pod.Containers)
	}
	if pod.NetNS == "" { // nothing would show when it is gone
		return
	}
	s.update(pod.SandboxID, func(sb *Sandbox) {
		since := time.Now()
		if sb.State == step.Then && sb.Detail == detail {
			since = sb.Since
		}
		*sb = Sandbox{Pod: pod, State: step.Then, lack: step.Lack, Why: o.Why, Decision: o.Decision, Plan: o.Plan, key: o.Key, earlier: o.Earlier, network: o.Network,
			NetNS: o.NetNS, Since: since, Took: time.Since(o.Began), Detail: detail, Admitted: sb.Admitted, Drift: sb.Drift, node: o.Node,
			Changes: sb.Changes, Beside: o.Judged.Beside, Counted: sb.Counted, reviewed: sb.reviewed, required: sb.required,
			running: sb.running, generation: generation, Backend: o.Backend, turn: sb.turn}
	})
}

// rememberSkipped remembers a pod that is skipped although it bears an injector's mark, so that the status shows it.
func (s *sandboxes) rememberSkipped(by *policy.Policy, o outcome.Look) {
	if o.Pod.NetNS == "" || o.Pod.HostNetwork { // nothing would show when it is gone
		return
	}
	pod := by.Node.Remembered(o.Pod, o.Decision)
	pod.Containers = nil
	s.update(pod.SandboxID, func(sb *Sandbox) {
		if sb.State == "" || sb.State == StateSkipped && sb.Decision.Reason != o.Decision.Reason {
			*sb = Sandbox{Pod: pod, State: StateSkipped, Why: o.Why, Decision: o.Decision, Since: time.Now(), Detail: o.Decision.Detail, node: o.Node}
		}
	})
}
