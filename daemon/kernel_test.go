// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"path/filepath"
	"slices"
	"sync"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/integration/nstest"
	"github.com/meshnetd/meshnetd/rules"
)

// ruleset is what the rules of all namespaces are, for a fake kernel.
type ruleset interface {
	in(netns.ID) kernel.Firewall
}

// fake is a kernel in memory. Its namespaces are ordinary files, so that paths lead to them, or elsewhere, as to real ones.
type fake struct {
	ruleset
	*machine
}

// machine is what else namespaces hold: routes, addresses on lo, and locks.
type machine struct {
	mu     sync.Mutex
	routes map[netns.ID]rules.Plan
	locks  map[netns.ID]chan struct{}
	seen   []rules.Seen // by lockdowns, in every namespace
}

func newMachine() *machine {
	return &machine{routes: map[netns.ID]rules.Plan{}, locks: map[netns.ID]chan struct{}{}}
}

// kernelOf returns the kernel of a firewall that writes to this machine's, or to memory.
func kernelOf(t testing.TB, firewall any, locks *netns.Locks) kernel.Kernel {
	t.Helper()
	switch f := firewall.(type) {
	case interface {
		ruleset
		on() *machine
	}:
		return fake{f, f.on()}
	case ruleset:
		return fake{f, newMachine()}
	}
	host, err := netns.Host("")
	if err != nil {
		t.Fatal(err)
	}
	return kernel.Node{Host: host, Locks: locks, Firewall: firewall.(kernel.Firewall)}
}

// newNetNS returns the path of a new fake namespace. It stays open until the process ends, so that no other one has its inode.
func newNetNS(t testing.TB) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "netns")
	if _, err := unix.Open(path, unix.O_CREAT|unix.O_EXCL|unix.O_CLOEXEC, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// inKernel gives the pod a real namespace.
func inKernel(t testing.TB, pod rules.Pod) rules.Pod {
	t.Helper()
	pod.NetNS = nstest.New(t).Path
	return pod
}

func (f fake) Open(path string) (kernel.Namespace, error) {
	var st unix.Stat_t
	if err := unix.Stat(path, &st); errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("network namespace %s %w", path, netns.ErrGone)
	} else if err != nil {
		return nil, err
	}
	return fakeNetNS{f, netns.ID{Dev: st.Dev, Ino: st.Ino}}, nil
}

type fakeNetNS struct {
	fake
	id netns.ID
}

func (n fakeNetNS) ID() netns.ID    { return n.id }
func (n fakeNetNS) Backend() string { return "memory" }
func (n fakeNetNS) Close()          {}

func (n fakeNetNS) Lock(ctx context.Context) (unlock func(), err error) {
	n.mu.Lock()
	if n.locks[n.id] == nil {
		n.locks[n.id] = make(chan struct{}, 1)
	}
	lock := n.locks[n.id]
	n.mu.Unlock()
	select {
	case lock <- struct{}{}:
		return func() { <-lock }, nil
	case <-ctx.Done():
		return nil, fmt.Errorf("the lock on %s: %w", n.id, ctx.Err())
	}
}

func (n fakeNetNS) Do(fn func(kernel.Inside) error) error {
	return fn(kernel.Inside{Rules: n.in(n.id), Routes: n, Connections: n})
}

func (n fakeNetNS) Seen(int) ([]rules.Seen, error) { return n.seen, nil }

// Apply is for routes, as all that follows.
func (n fakeNetNS) Apply(plan rules.Plan) (bool, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	before := n.routes[n.id]
	now := rules.Plan{Routes: slices.Clone(before.Routes), Loopback: slices.Clone(before.Loopback)}
	now.Routes = append(slices.DeleteFunc(now.Routes, func(r rules.PolicyRoute) bool {
		return slices.Contains(plan.Footprint.Routes, r) || slices.Contains(plan.Routes, r)
	}), plan.Routes...)
	now.Loopback = append(slices.DeleteFunc(now.Loopback, func(p netip.Prefix) bool {
		return slices.Contains(plan.Footprint.Loopback, p) || slices.Contains(plan.Loopback, p)
	}), plan.Loopback...)
	n.routes[n.id] = now
	return !slices.Equal(before.Routes, now.Routes) || !slices.Equal(before.Loopback, now.Loopback), nil
}

func (n fakeNetNS) Own(footprint rules.Footprint) (rules.Plan, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	own, have := rules.Plan{Footprint: footprint}, n.routes[n.id]
	for _, r := range footprint.Routes {
		if slices.Contains(have.Routes, r) {
			own.Routes = append(own.Routes, r)
		}
	}
	for _, p := range footprint.Loopback {
		if slices.Contains(have.Loopback, p) {
			own.Loopback = append(own.Loopback, p)
		}
	}
	return own, nil
}

func (n fakeNetNS) Verify(plan rules.Plan) (diffs []string, err error) {
	both := plan.Footprint
	both.Routes, both.Loopback = slices.Concat(both.Routes, plan.Routes), slices.Concat(both.Loopback, plan.Loopback)
	have, err := n.Own(both)
	for _, r := range both.Routes {
		if slices.Contains(have.Routes, r) != slices.Contains(plan.Routes, r) {
			diffs = append(diffs, fmt.Sprint("route ", r))
		}
	}
	for _, p := range both.Loopback {
		if slices.Contains(have.Loopback, p) != slices.Contains(plan.Loopback, p) {
			diffs = append(diffs, fmt.Sprint("address ", p))
		}
	}
	return diffs, err
}

func (n fakeNetNS) addresses() []netip.Addr {
	n.mu.Lock()
	defer n.mu.Unlock()
	all := []netip.Addr{netip.MustParseAddr("127.0.0.1"), netip.IPv6Loopback()}
	for _, p := range n.routes[n.id].Loopback {
		all = append(all, p.Addr())
	}
	return all
}

func (n fakeNetNS) Interfaces() ([]rules.Interface, error) {
	return []rules.Interface{{Name: "lo", Addresses: n.addresses()}}, nil
}

func (n fakeNetNS) Network() (rules.Network, error) {
	return rules.Network{Addresses: n.addresses()}, nil
}
