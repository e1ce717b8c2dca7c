// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"fmt"
	"net"
	"net/netip"

	"github.com/meshnetd/meshnetd/daemon/netns"
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

// Interfaces reads the interfaces of a sandbox's network namespace, in the kernel's order.
func (e *Enforcer) Interfaces(sb Sandbox) ([]rules.Interface, error) {
	ns, err := netns.Open(sb.Pod.NetNS, e.host)
	if err != nil {
		return nil, err
	}
	defer ns.Close()
	var all []rules.Interface
	err = ns.Do(func() (err error) {
		all, err = interfacesHere()
		return err
	})
	return all, err
}

// interfacesHere reads the interfaces of the thread's namespace.
func interfacesHere() ([]rules.Interface, error) {
	links, err := net.Interfaces()
	if err != nil {
		return nil, fmt.Errorf("list the pod's interfaces: %w", err)
	}
	var all []rules.Interface
	for _, link := range links {
		addrs, err := link.Addrs()
		if err != nil {
			return nil, fmt.Errorf("list the addresses of the pod's %s: %w", link.Name, err)
		}
		all = append(all, rules.Interface{Name: link.Name, Addresses: addresses(addrs)})
	}
	return all, nil
}

func addresses(found []net.Addr) []netip.Addr {
	var all []netip.Addr
	for _, f := range found {
		if prefix, err := netip.ParsePrefix(f.String()); err == nil {
			all = append(all, prefix.Addr().Unmap().WithZone(""))
		}
	}
	return all
}
