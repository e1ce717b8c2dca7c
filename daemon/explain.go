// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/rules"
)

// Explain decides about a sandbox once more, by the configuration that decided before, and says how. It returns
// what is known of the sandbox too; false where that is nothing.
func (e *Enforcer) Explain(id string) (Sandbox, rules.Decision, bool) {
	sb, known := e.sandboxes.get(id)
	if !known {
		return Sandbox{}, rules.Decision{}, false
	}
	node := sb.node
	if node.Meshes == nil { // nobody has decided yet
		node = e.policy.Load().Node
	}
	d := node.Explain(sb.Pod)
	if sb.State == StateExempt && d.Reason == rules.ReasonLoosened || // it was there before, and set itself up
		sb.State == StateSkipped && sb.Pod.Said > 0 { // what decided was not kept
		account := d.Account
		d = sb.Decision
		d.Account = account
	}
	return sb, d, true
}

// Misspelt says which annotations of a sandbox no mesh reads, and which ones are meant.
func (e *Enforcer) Misspelt(sb Sandbox) []string {
	if len(sb.Pod.Unread) == 0 {
		return nil
	}
	return e.policy.Load().Node.Misspelt(sb.Pod)
}

// Loosened says what a sandbox's containers took away of its rules.
func (e *Enforcer) Loosened(sb Sandbox) string {
	return sb.node.Loosened(sb.Pod, sb.Decision, sb.network, sb.Plan)
}

// Interfaces reads the interfaces of a sandbox's network namespace, in the kernel's order.
func (e *Enforcer) Interfaces(sb Sandbox) (all []rules.Interface, err error) {
	ns, err := e.kernel.Open(sb.Pod.NetNS)
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
func (e *Enforcer) Totals() map[lockdown.Total]uint64 { return e.counts.Totals() }

// Lacks returns what the lockdowns of today's configuration lack for what was counted, and where more was counted than is known.
func (e *Enforcer) Lacks() (all []lockdown.Lack, more []string) {
	return e.counts.Lacks(e.policy.Load().Node.LockdownsOf)
}
