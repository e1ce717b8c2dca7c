// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// runtimeRows are what can happen to the runtime.
func runtimeRows() []Row {
	return []Row{
		{Fault: "NRI socket gone, and meshnetd restarted", begin: socketGone, end: restartRuntime},
		{Fault: "containerd restarted while 10 pods start", Pods: 10, begin: runtimeRestarted, end: unhook},
		{Fault: "containerd killed in RunPodSandbox, while 10 pods start", Pods: 10, begin: runtimeKilled, end: resumeRuntime},
	}
}

// kernelRows are what can happen to the sandbox and to the programs that write into it.
func kernelRows() []Row {
	return []Row{
		{Fault: "network namespace vanishes in RunPodSandbox", Everywhere: true, begin: vanishInRunPod, end: unhook},
		{Fault: "network namespace vanishes in CreateContainer", begin: vanishInCreate, end: afterVanishing(unhook)},
		{Fault: "network namespace vanishes before the first container, and the rules flushed", begin: vanishAfterRunPod(func(*stage) {}), end: afterVanishing(unhook)},
		{Fault: "network namespace vanishes before the first container, the rules flushed, and meshnetd restarted", begin: vanishAfterRunPod(func(s *stage) { s.daemon.Kill() }), end: afterVanishing(comeBack)},
		// NRI has let plugins do that for as long as it has had validators.
		{Fault: "another plugin moves a container to another network namespace", Validators: true, begin: thief, end: unhook},
		{Fault: "rules flushed between two containers", begin: flushedInCreate(before), end: unhook},
		{Fault: "rules flushed in CreateContainer, after meshnetd's answer", Validators: true, begin: flushedInCreate(after), end: unhook},
		{Fault: "iptables-restore hangs", Programs: true, Everywhere: true, begin: told(hang), end: mendPrograms},
		{Fault: "iptables-restore fails", Programs: true, Everywhere: true, begin: told(fail), end: mendPrograms},
		{Fault: "iptables-restore says well done and does nothing", Programs: true, Everywhere: true, begin: told(lie), end: mendPrograms},
		{Fault: "the lock on the namespace is held by another process", Everywhere: true, begin: lockHeld, end: letGo},
	}
}

// Rows returns every fault, then every attack.
func Rows() []Row {
	return slices.Concat(daemonRows(), runtimeRows(), queueRows(), kernelRows(), lockdownRows(), neighbourRows(), attacks())
}

// Rows returns the faults that are some on this runtime.
func (w *World) Rows() []Row {
	return slices.DeleteFunc(Rows(), func(r Row) bool { return r.Validators && !w.lab.Runtime().Validates() })
}

// socketGone removes the socket under a living session, and restarts the daemon: it cannot come back before
// the runtime makes a new one.
func socketGone(ctx context.Context, s *stage) error {
	if err := os.Remove(s.lab.NRISocket()); err != nil {
		return fmt.Errorf("remove the NRI socket: %w", err)
	}
	s.daemon.Kill()
	s.background(ctx, func(ctx context.Context) error {
		_, err := s.runDaemon(ctx)
		return err
	})
	return nil
}

func restartRuntime(ctx context.Context, s *stage) error { return s.lab.Restart(ctx) }

// runtimeRestarted restarts the runtime when it has started some of the sandboxes. Nobody waits for it: the
// pods go on in the first moment in which it answers.
func runtimeRestarted(ctx context.Context, s *stage) error {
	var sandboxes atomic.Int64
	return s.hook(ctx, "updater", after, &plugin{runPod: func(*api.PodSandbox) error {
		if sandboxes.Add(1) == 3 {
			s.background(ctx, s.lab.Restart)
		}
		return nil
	}})
}

// runtimeKilled kills the runtime once meshnetd has answered for one of the pods.
func runtimeKilled(ctx context.Context, s *stage) error {
	var once sync.Once
	return s.hook(ctx, "killer", after, &plugin{runPod: func(*api.PodSandbox) error {
		once.Do(func() { s.failed(s.lab.Kill()) })
		return nil
	}})
}

func resumeRuntime(ctx context.Context, s *stage) error {
	if err := unhook(ctx, s); err != nil {
		return err
	}
	s.background(ctx, s.lab.Restart)
	return nil
}

// background does something beside the pods, which may be up before it is done: that does not end it.
func (s *stage) background(ctx context.Context, do func(context.Context) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), rowLimit)
	done := make(chan error, 1)
	go func() { done <- do(ctx) }()
	s.later(func() {
		s.failed(<-done)
		cancel()
	})
}

func vanishInRunPod(ctx context.Context, s *stage) error {
	return s.hook(ctx, "vandal", before, &plugin{runPod: func(sandbox *api.PodSandbox) error { return vanish(sandbox) }})
}

func vanishInCreate(ctx context.Context, s *stage) error {
	return s.hook(ctx, "vandal", before, &plugin{create: func(sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, error) {
		return nil, vanish(sandbox)
	}})
}

// vanishAfterRunPod lets the runtime begin the first container without a path to the namespace, which is how
// a pod of the host's network looks too.
func vanishAfterRunPod(more func(*stage)) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		return s.hook(ctx, "vandal", after, &plugin{runPod: func(sandbox *api.PodSandbox) error {
			err := errors.Join(flush(ctx, sandbox), vanish(sandbox))
			more(s)
			return err
		}})
	}
}

// afterVanishing deletes the pods on CRI-O, which holds a sandbox to be ready whose namespace has gone: no kubelet would
// make another one.
func afterVanishing(end func(context.Context, *stage) error) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		if err := end(ctx, s); err != nil || !s.lab.Runtime().IsCRIO() {
			return err
		}
		for _, p := range s.pods {
			p.drop(ctx)
		}
		return nil
	}
}

// vanish takes the path away. The namespace itself lives on as long as somebody is in it.
func vanish(sandbox *api.PodSandbox) error {
	path, err := pathOf(sandbox)
	if err != nil {
		return err
	}
	if err := unix.Unmount(path, unix.MNT_DETACH); err != nil && !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.EINVAL) {
		return fmt.Errorf("unmount %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// thief gives every container a namespace outside the mesh.
func thief(ctx context.Context, s *stage) error {
	return s.hook(ctx, "thief", after, &plugin{create: func(*api.PodSandbox, *api.Container) (*api.ContainerAdjustment, error) {
		adjustment := &api.ContainerAdjustment{}
		adjustment.AddOrReplaceNamespace(&api.LinuxNamespace{Type: "network", Path: s.outsider.NetNS()})
		return adjustment, nil
	}})
}

// flushedInCreate takes the rules away the first time a container of the pod is created.
func flushedInCreate(index string) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error { return s.inCreate(ctx, index, func() {}) }
}

func flush(ctx context.Context, sandbox *api.PodSandbox) error {
	path, err := pathOf(sandbox)
	if err != nil {
		return err
	}
	return inside(ctx, path, flushAll)
}

// flushAll flushes the redirection and the lockdown.
const flushAll = "iptables-nft -t nat -F; ip6tables-nft -t nat -F; " + flushLockdown

// within is the command that runs a script in a network namespace.
func within(path, script string) []string {
	return []string{"nsenter", "--net=" + path, "sh", "-ec", script}
}

// inside runs a script in a network namespace.
func inside(ctx context.Context, path, script string) error {
	command := within(path, script)
	if out, err := exec.CommandContext(ctx, command[0], command[1:]...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s in %s: %w: %s", script, path, err, out)
	}
	return nil
}

func told(verb string) func(context.Context, *stage) error {
	return func(_ context.Context, s *stage) error {
		return s.tell(verb, "iptables-nft-restore", "ip6tables-nft-restore")
	}
}

func mendPrograms(_ context.Context, s *stage) error { return s.programs.obey() }

// lockHeld takes the lock of each namespace before meshnetd can, as another meshnetd would that hangs in it.
func lockHeld(ctx context.Context, s *stage) error {
	return s.hook(ctx, "holder", before, &plugin{runPod: func(sandbox *api.PodSandbox) error { return s.hold(ctx, sandbox) }})
}

// hold takes the lock of the sandbox's namespace.
func (s *stage) hold(ctx context.Context, sandbox *api.PodSandbox) error {
	path, err := pathOf(sandbox)
	if err != nil {
		return err
	}
	ns, err := netns.Open(path, nil)
	if err != nil {
		return err
	}
	defer ns.Close()
	locks, err := netns.OpenLocks(s.lab.LockDir())
	if err != nil {
		return err
	}
	defer locks.Close()
	unlock, err := locks.Lock(ctx, ns)
	if err != nil {
		return err
	}
	s.later(unlock)
	return nil
}

// letGo releases the locks: another namespace may get the number of one that is gone.
func letGo(ctx context.Context, s *stage) error {
	if err := unhook(ctx, s); err != nil {
		return err
	}
	s.restore()
	return nil
}
