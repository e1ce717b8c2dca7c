// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package faults breaks what meshnetd needs, in every way and at every moment that we could think of, and
// looks from outside at what pods of the mesh could send meanwhile: a capture on the bridge, the server they
// want to reach, and their own proxies.
package faults

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// Options say what to run.
type Options struct {
	Lab      lab.Options // Runtime, Binaries, Standin and Log
	Meshnetd string      // path of the program
}

// World is one runtime with a server that every pod of the mesh wants to reach, and the eyes on it.
type World struct {
	lab      *lab.Lab
	programs programs
	capture  *Capture

	peer     *lab.Pod         // runs the server
	servers  []*lab.Container // one for each family
	targets  []netip.AddrPort // where they listen
	outsider *lab.Pod         // outside the mesh, and without a container
	backend  string           // that daemons are told to write rules with; "" is the default
	lockdown string           // of what daemons are told; "" is closesUDP

	mu      sync.Mutex
	daemons []*lab.Daemon
	serial  atomic.Int64
}

// serverPort is where the peer listens.
const serverPort = 8080

// Open starts a runtime and all that belongs to it. On a runtime that has NRI's default validator it
// demands meshnetd for every container, as the strict installation does.
func Open(ctx context.Context, opts Options) (_ *World, err error) {
	o := opts.Lab
	o.DualStack = true
	if o.Runtime.Validates() {
		o.DefaultValidator, o.RequiredPlugins = true, []string{"meshnetd"}
	}
	w := &World{}
	if w.lab, err = lab.Start(ctx, o); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, w.Close())
		}
	}()
	if w.programs, err = installPrograms(filepath.Join(w.lab.Dir(), "faults"), opts.Meshnetd); err != nil {
		return nil, err
	}
	if w.capture, err = NewCapture(w.lab.Bridge()); err != nil {
		return nil, err
	}
	daemon, err := w.runDaemon(ctx)
	if err != nil {
		return nil, err
	}
	defer daemon.Kill()
	return w, w.runPeer(ctx)
}

// runPeer starts what is outside the mesh.
func (w *World) runPeer(ctx context.Context) (err error) {
	if w.peer, err = w.lab.RunPod(ctx, lab.PodSpec{Name: "peer"}); err != nil {
		return err
	}
	for i, ip := range w.peer.IPs() {
		target := netip.AddrPortFrom(ip, serverPort)
		server, err := w.peer.RunContainer(ctx, lab.ContainerSpec{Name: fmt.Sprintf("server-%d", i), Args: []string{"serve", target.String(), "peer"}, User: appID, Group: appID})
		if err != nil {
			return err
		}
		if _, err := server.WaitEvent(ctx, "listening"); err != nil {
			return err
		}
		w.servers, w.targets = append(w.servers, server), append(w.targets, target)
	}
	w.outsider, err = w.lab.RunPod(ctx, lab.PodSpec{Name: "outsider"})
	return err
}

// Close takes everything away.
func (w *World) Close() error {
	w.killDaemons()
	if w.capture != nil {
		w.capture.Close()
	}
	return w.lab.Close()
}

// daemonConfig is heard by every daemon.
const daemonConfig = `audit_interval = "1s"
istio.dual_stack = true
`

// closesUDP leaves TCP to the redirection alone, so that nothing hides a hole of that one.
const closesUDP = `
[[lockdown]]
mode = "enforce"
udp = "none"
icmp = "errors"
other_protocols = "none"
`

// runDaemon starts meshnetd with the obedient programs, and waits until it is connected.
func (w *World) runDaemon(ctx context.Context) (*lab.Daemon, error) {
	return w.startDaemon(ctx, "nri_connected")
}

// startDaemon starts meshnetd with the obedient programs, and waits for an event of its own.
func (w *World) startDaemon(ctx context.Context, event string) (*lab.Daemon, error) {
	config := daemonConfig + cmp.Or(w.lockdown, closesUDP)
	if w.backend != "" {
		config = fmt.Sprintf("backend = %q\n", w.backend) + config
	}
	d, err := w.lab.StartDaemon(w.programs.launcher, config)
	if err != nil {
		return nil, err
	}
	w.mu.Lock()
	w.daemons = append(w.daemons, d)
	w.mu.Unlock()
	_, err = d.Wait(ctx, func(l lab.Line) bool { return l.Event == event })
	return d, err
}

// killDaemons ends all daemons, and returns what they wrote.
func (w *World) killDaemons() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var logs []string
	for i, d := range w.daemons {
		d.Kill()
		logs = append(logs, fmt.Sprintf("meshnetd %d:\n%s", i+1, d.Log()))
	}
	w.daemons = nil
	return strings.Join(logs, "\n")
}

// forget leaves a daemon that has ended to its log's reader.
func (w *World) forget(d *lab.Daemon) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.daemons = slices.DeleteFunc(w.daemons, func(other *lab.Daemon) bool { return other == d })
}

// unique returns a name that no other pod of this world has.
func (w *World) unique(name string) string { return fmt.Sprintf("%s-%d", name, w.serial.Add(1)) }

// seenAround returns the SYNs and datagrams to the server since the mark. Whoever sent them, it was none of those that are
// expected to be there: nobody outside the mesh has a reason to call.
func (w *World) seenAround(ctx context.Context, mark Mark) ([]Packet, error) {
	packets, err := w.capture.Since(ctx, mark, w.peer.IP())
	if err != nil {
		return nil, err
	}
	var around []Packet
	for _, p := range packets {
		for _, t := range w.targets {
			if p.Dst == t {
				around = append(around, p)
			}
		}
	}
	return around, nil
}

// kinds counts SYNs, and datagrams.
func kinds(packets []Packet) (syns, datagrams int) {
	for _, p := range packets {
		if p.Protocol == "udp" {
			datagrams++
		}
	}
	return len(packets) - datagrams, datagrams
}

// accepted counts the connections that the server itself has reported since it runs.
func (w *World) accepted() (int, error) {
	n := 0
	for _, s := range w.servers {
		events, err := s.Events()
		if err != nil {
			return 0, err
		}
		for _, e := range events {
			if e.Event == "accepted" {
				n++
			}
		}
	}
	return n, nil
}

// removePods removes every sandbox that is not the world's own, several at once.
func (w *World) removePods(ctx context.Context) error {
	list, err := w.lab.CRI().ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	const atOnce = 4
	slots := make(chan struct{}, atOnce)
	errs := make([]error, len(list.GetItems()))
	var wg sync.WaitGroup
	for i, item := range list.GetItems() {
		if item.GetId() == w.peer.ID || item.GetId() == w.outsider.ID {
			continue
		}
		wg.Go(func() {
			slots <- struct{}{}
			defer func() { <-slots }()
			errs[i] = w.removePod(ctx, item.GetId())
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// removePod tries until the sandbox is gone, as a kubelet does.
func (w *World) removePod(ctx context.Context, id string) error {
	var last error
	err := lab.Poll(ctx, func() (bool, error) {
		last = w.lab.RemoveSandbox(ctx, id)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("remove pod %s: %w", id, errors.Join(err, last))
	}
	return nil
}
