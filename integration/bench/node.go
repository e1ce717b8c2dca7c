// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/backend"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/daemon/xtables"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/integration/lab"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/istio"
)

// node is what the daemon is made of, without a runtime.
type node struct {
	namespaces
	isolated *netns.Isolated
	host     []netns.ID
	dir      string // of the locks
	locks    *netns.Locks
	backends []writer
}

// writer is one way to write rules.
type writer struct {
	kernel.Firewall
	label string
	exec  bool  // it runs programs
	err   error // why it is not to be had here
}

// ready finds out what can write rules here.
func (b *bench) ready() (*node, error) {
	if b.node != nil {
		return b.node, nil
	}
	n := &node{}
	var err error
	if n.isolated, err = netns.Isolate(); err != nil {
		return nil, err
	}
	b.node = n
	if n.host, err = netns.Host(""); err != nil {
		return nil, err
	}
	// In memory, as lock_dir is on a node.
	if n.dir, err = os.MkdirTemp("/dev/shm", "meshnetd-bench-"); err != nil {
		return nil, err
	}
	if n.locks, err = netns.MakeLocks(filepath.Join(n.dir, "locks")); err != nil {
		return nil, err
	}
	for _, name := range []string{backend.IPTables, backend.NFTables, xtables.NFT, xtables.Legacy} {
		w := writer{label: name, exec: name == xtables.NFT || name == xtables.Legacy}
		if w.exec {
			w.label += " (programs)"
		}
		found, err := backend.Find(b.ctx, backend.Want{Name: name, Plan: explain.Node(config.Default()).Widest()}, n.isolated)
		if err == nil {
			err = found.IPv6()
		}
		w.Firewall, w.err = found, firstLine(err)
		n.backends = append(n.backends, w)
	}
	return n, nil
}

// firstLine keeps a table in shape.
func firstLine(err error) error {
	if err == nil {
		return nil
	}
	line, _, _ := strings.Cut(err.Error(), "\n")
	return fmt.Errorf("not yet: %s", line)
}

func (n *node) close() {
	n.end()
	n.isolated.Close()
	if n.locks != nil {
		n.locks.Close()
	}
	_ = os.RemoveAll(n.dir)
}

// unbounded is a budget for lists that are longer than a node allows: what they would cost is measured.
var unbounded = rules.Budget{Bytes: 1 << 20, Items: 1 << 12, Rules: 1 << 13}

// enforcer returns a flow that has seen no pod yet.
func (n *node) enforcer(w writer, k kind) *daemon.Enforcer {
	return daemon.New(k.policy(), kernel.Node{Host: n.host, Locks: n.locks, Firewall: w}, receipts.In(n.dir), func(outcome.Outcome) {})
}

// policy enrols the pods of one Istio.
func (k kind) policy() policy.Policy {
	k.defaults.Budget = unbounded
	return policy.Policy{Node: rules.Node{Meshes: []rules.Mesh{istio.New(k.defaults)}, RuntimeHandlers: []string{""}, Budget: unbounded,
		Lockdowns: k.lockdowns, Addresses: nodeAddresses}}
}

// dualStack is a mesh whose proxies speak IPv6 too, so that both families have rules.
func dualStack() istio.Defaults {
	d := istio.Standard()
	d.DualStack = true
	return d
}

// pod makes a dual-stack namespace and returns a pod of the mesh that has it.
func (n *node) pod(id string, annotations map[string]string) (rules.Pod, error) {
	path, err := n.open("10.0.0.1/24", "fd00::1/64")
	return rules.Pod{SandboxID: id, Namespace: "default", Name: id, NetNS: path, Annotations: lab.Injected(annotations)}, err
}

// planOf returns the plan of a pod with these addresses.
func planOf(defaults istio.Defaults, pod rules.Pod) (rules.Plan, error) {
	d := istio.New(defaults).Decide(pod)
	if d.Action != rules.Enrol {
		return rules.Plan{}, errors.New(d.Detail)
	}
	return d.Planner(rules.Network{Addresses: pod.IPs})
}
