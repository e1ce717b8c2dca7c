// SPDX-License-Identifier: Apache-2.0

//go:build linux

package faults

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"github.com/containerd/nri/pkg/api"
	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// daemonRows are what can happen to the daemon itself.
func daemonRows() []Row {
	return []Row{
		{Fault: "none: a pod outside the mesh, to see that the capture sees", Outside: true},
		{Fault: "none", Everywhere: true},
		{Fault: "meshnetd absent from the beginning", Absent: true, end: comeBack},
		{Fault: "killed while idle", begin: killNow, end: comeBack},
		{Fault: "terminated (SIGTERM) while idle", begin: terminate, end: comeBack},
		{Fault: "killed in RunPodSandbox, nothing written yet", Programs: true, begin: killedBy("iptables-nft-save", "ip6tables-nft-save"), end: comeBack},
		{Fault: "killed in the middle of apply", Programs: true, begin: killedBy("ip6tables-nft-restore"), end: comeBack},
		{Fault: "killed in CreateContainer before its answer, and the rules flushed", begin: killedInCreate(before), end: comeBack},
		{Fault: "killed in CreateContainer after its answer, and the rules flushed", begin: killedInCreate(after), end: comeBack},
		{Fault: "killed while 20 pods start", Pods: 20, begin: killedAtSandbox(10), end: comeBack},
		{Fault: "stopped (SIGSTOP): timeout in RunPodSandbox", begin: stoppedInRunPod, end: goOn},
		{Fault: "stopped (SIGSTOP): timeout in CreateContainer, and the rules flushed", begin: stoppedInCreate(before), end: goOn},
		{Fault: "stopped (SIGSTOP): timeout in Validate, and the rules flushed", Validators: true, begin: stoppedInCreate(after), end: goOn},
		{Fault: "disk full: the log cannot be written", Absent: true, Everywhere: true, begin: diskFull},
		{Fault: "broken configuration at reload", Everywhere: true, begin: brokenReload, end: mendedReload},
		{Fault: "two daemons at once, and one leaves", Pods: 10, Everywhere: true, begin: handOver},
		{Fault: "meshnetd away, another plugin takes its name", Hole: true, begin: impostor, end: comeBack},
	}
}

// comeBack ends other plugins and starts a daemon, as its supervisor does.
func comeBack(ctx context.Context, s *stage) error {
	if err := errors.Join(unhook(ctx, s), s.programs.obey()); err != nil {
		return err
	}
	_, err := s.runDaemon(ctx)
	return err
}

func killNow(_ context.Context, s *stage) error {
	s.daemon.Kill()
	return nil
}

func terminate(ctx context.Context, s *stage) error { return s.daemon.Terminate(ctx) }

// killedBy lets the first of these programs kill the daemon that runs it.
func killedBy(programs ...string) func(context.Context, *stage) error {
	return func(_ context.Context, s *stage) error { return s.tell(kill, programs...) }
}

// killedInCreate kills it between two answers to the same call: that of the plugin before it and its own, or
// its own and that of the plugin after it. The sandbox has its rules by then; only without them is there
// anything to see.
func killedInCreate(index string) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		return s.inCreate(ctx, index, s.daemon.Kill)
	}
}

// inCreate flushes the sandbox's rules and calls do when the first container is created.
func (s *stage) inCreate(ctx context.Context, index string, do func()) error {
	var once sync.Once
	return s.hook(ctx, "vandal", index, &plugin{create: func(sandbox *api.PodSandbox, _ *api.Container) (*api.ContainerAdjustment, error) {
		once.Do(func() {
			s.failed(flush(ctx, sandbox))
			do()
		})
		return nil, nil
	}})
}

func killedAtSandbox(count int64) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error {
		var sandboxes atomic.Int64
		return s.hook(ctx, "killer", after, &plugin{runPod: func(*api.PodSandbox) error {
			if sandboxes.Add(1) == count {
				s.daemon.Kill()
			}
			return nil
		}})
	}
}

func stoppedInRunPod(ctx context.Context, s *stage) error {
	var once sync.Once
	return s.hook(ctx, "stopper", before, &plugin{runPod: func(*api.PodSandbox) error {
		once.Do(s.stop)
		return nil
	}})
}

// stoppedInCreate stops the daemon before it is asked, or, by the plugin after it, when it has answered and
// is to be asked again in Validate.
func stoppedInCreate(index string) func(context.Context, *stage) error {
	return func(ctx context.Context, s *stage) error { return s.inCreate(ctx, index, s.stop) }
}

func (s *stage) stop() { s.failed(s.signal(syscall.SIGSTOP)) }

func goOn(ctx context.Context, s *stage) error {
	if err := unhook(ctx, s); err != nil {
		return err
	}
	return s.signal(syscall.SIGCONT)
}

func (s *stage) signal(sig syscall.Signal) error {
	if err := syscall.Kill(s.daemon.PID(), sig); err != nil {
		return fmt.Errorf("signal %s to meshnetd: %w", sig, err)
	}
	return nil
}

// diskFull starts a daemon whose log is a file, and fills its disk once it is connected.
func diskFull(ctx context.Context, s *stage) error {
	disk := filepath.Join(s.lab.Dir(), "full")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return fmt.Errorf("full disk: %w", err)
	}
	if err := unix.Mount("tmpfs", disk, "tmpfs", 0, "size=64k"); err != nil {
		return fmt.Errorf("full disk: %w", err)
	}
	s.later(func() { s.failed(unix.Unmount(disk, unix.MNT_DETACH)) })
	log, err := os.Create(filepath.Join(disk, "log"))
	if err != nil {
		return fmt.Errorf("full disk: %w", err)
	}
	defer log.Close()
	d := exec.Command(s.programs.launcher, "run", "--config", s.configFile())
	d.Stderr = log
	d.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := d.Start(); err != nil {
		return fmt.Errorf("meshnetd on a full disk: %w", err)
	}
	s.later(func() { _ = d.Process.Kill(); _ = d.Wait() })
	err = lab.Poll(ctx, func() (bool, error) {
		text, err := os.ReadFile(log.Name())
		return strings.Contains(string(text), "nri_connected"), err
	})
	if err != nil {
		return fmt.Errorf("meshnetd on a full disk: %w", err)
	}
	return fill(filepath.Join(disk, "ballast"))
}

// fill writes until the disk is full, but for what is left of the log's last page.
func fill(path string) error {
	ballast, err := os.Create(path)
	if err != nil {
		return fmt.Errorf("fill the disk: %w", err)
	}
	defer ballast.Close()
	for {
		if _, err := ballast.Write(make([]byte, os.Getpagesize())); errors.Is(err, syscall.ENOSPC) {
			return nil
		} else if err != nil {
			return fmt.Errorf("fill the disk: %w", err)
		}
	}
}

// configFile is the file that the lab has written for the last daemon.
func (s *stage) configFile() string { return filepath.Join(s.lab.Dir(), "meshnetd.toml") }

func brokenReload(ctx context.Context, s *stage) error {
	good, err := os.ReadFile(s.configFile())
	if err != nil {
		return fmt.Errorf("broken configuration: %w", err)
	}
	s.later(func() { s.failed(os.WriteFile(s.configFile(), good, 0o600)) })
	if err := os.WriteFile(s.configFile(), []byte("istio.outbound_port = \"a hundred\"\n[no"), 0o600); err != nil {
		return fmt.Errorf("broken configuration: %w", err)
	}
	return s.reload(ctx, "config_rejected")
}

func mendedReload(ctx context.Context, s *stage) error {
	s.restore() // the good one
	return s.reload(ctx, "config_reloaded")
}

func (s *stage) reload(ctx context.Context, event string) error {
	if err := s.signal(syscall.SIGHUP); err != nil {
		return err
	}
	_, err := s.daemon.Wait(ctx, func(l lab.Line) bool { return l.Event == event })
	return err
}

// handOver is a rolling update: a second daemon is there before the first one leaves, which it does while
// pods start.
func handOver(ctx context.Context, s *stage) error {
	if _, err := s.runDaemon(ctx); err != nil {
		return err
	}
	var sandboxes atomic.Int64
	left := make(chan error, 1)
	s.later(func() {
		if sandboxes.Load() < 5 {
			s.failed(errors.New("the first daemon was not told to leave"))
			return
		}
		s.failed(<-left)
	})
	return s.hook(ctx, "updater", before, &plugin{runPod: func(*api.PodSandbox) error {
		if sandboxes.Add(1) == 5 {
			go func() {
				// It may still be leaving when all pods are up and the row is over.
				ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanLimit)
				defer cancel()
				left <- s.daemon.Terminate(ctx)
			}()
		}
		return nil
	}})
}

// impostor connects a plugin with meshnetd's name that does nothing, which any root process of the node
// can: NRI asks nobody who he is.
func impostor(ctx context.Context, s *stage) error {
	s.daemon.Kill()
	return s.hook(ctx, "meshnetd", same, &plugin{})
}
