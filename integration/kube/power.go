// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// PowerOff leaves of the node what a machine has on its disk when it is switched on again: no process of a pod, no
// network namespace, no mount, no runtime state. The control plane, which is on other machines, goes on.
func (c *Cluster) PowerOff(ctx context.Context) error {
	at := slices.IndexFunc(c.processes, func(p *process) bool { return p.name == "kubelet" })
	if at < 0 {
		return errors.New("switch the node off: it is off")
	}
	// Killed: it is not asked to end anything.
	if err := c.processes[at].kill(); err != nil {
		return fmt.Errorf("switch the node off: %w", err)
	}
	c.processes = slices.Delete(c.processes, at, at+1)
	if err := c.lab.Stop(ctx); err != nil {
		return fmt.Errorf("switch the node off: %w", err)
	}
	for _, find := range []func() ([]int, error){c.shims, c.podProcesses} { // shims would report the death of containers
		if err := killAll(ctx, find); err != nil {
			return fmt.Errorf("switch the node off: %w", err)
		}
	}
	if err := c.forget(); err != nil {
		return fmt.Errorf("switch the node off: %w", err)
	}
	return nil
}

// PowerOn starts containerd and then the kubelet, without waiting for what runs in pods. between is called when
// containerd is there and the kubelet is not.
func (c *Cluster) PowerOn(ctx context.Context, between func() error) error {
	if err := c.lab.Resume(ctx); err != nil {
		return fmt.Errorf("switch the node on: %w", err)
	}
	if err := between(); err != nil {
		return err
	}
	// Its node is said to be ready for some time after it was switched off.
	if err := c.launchKubelet(ctx, func(context.Context) error { return nil }); err != nil {
		return fmt.Errorf("switch the node on: %w", err)
	}
	return nil
}

// killAll kills what find finds, until there is none.
func killAll(ctx context.Context, find func() ([]int, error)) error {
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	return lab.Poll(ctx, func() (bool, error) {
		pids, err := find()
		for _, pid := range pids {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
		return len(pids) == 0, err
	})
}

// shims returns the processes to which this cluster's containerd gave its socket.
func (c *Cluster) shims() ([]int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cmdline")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, file := range files {
		args, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(args, []byte("containerd-shim")) || !bytes.Contains(args, []byte(c.lab.Socket())) {
			continue // gone, a zombie, or of somebody else
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// podProcesses returns the processes in the cgroup below which the kubelet has all of its pods.
func (c *Cluster) podProcesses() ([]int, error) {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, hierarchy := range hierarchies {
		err := filepath.WalkDir(hierarchy+c.cgroup(), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil || entry.Name() != "cgroup.procs" {
				return err
			}
			text, _ := os.ReadFile(path) // one that has just gone has no processes
			for _, field := range strings.Fields(string(text)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					pids = append(pids, pid)
				}
			}
			return nil
		})
		if err != nil {
			return nil, fmt.Errorf("list the processes of pods: %w", err)
		}
	}
	return pids, nil
}

// forget takes away what is in memory on a machine: mounts, the runtime's state and its sockets.
func (c *Cluster) forget() error {
	lost := []string{c.NetNSDir(), filepath.Join(c.lab.Dir(), "runc"), filepath.Join(c.lab.Dir(), "s")}
	for _, dir := range append(lost, c.path("kubelet")) {
		if err := unmountBelow(dir); err != nil {
			return err
		}
	}
	for _, dir := range lost {
		entries, err := os.ReadDir(dir)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		for _, entry := range entries {
			if err := os.RemoveAll(filepath.Join(dir, entry.Name())); err != nil {
				return err
			}
		}
	}
	return nil
}

// unmountBelow unmounts what is mounted below dir, the last one first. It fails where something stays: what is removed
// afterwards must not be somebody's through a mount.
func unmountBelow(dir string) error {
	below, err := mountsBelow(dir)
	if err != nil {
		return err
	}
	for _, path := range slices.Backward(below) {
		if err := syscall.Unmount(path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			return fmt.Errorf("unmount %s: %w", path, err)
		}
	}
	if below, err = mountsBelow(dir); err == nil && len(below) > 0 {
		err = fmt.Errorf("still mounted below %s: %q", dir, below)
	}
	return err
}

func mountsBelow(dir string) ([]string, error) {
	text, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, err
	}
	var below []string
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 4 && strings.HasPrefix(fields[4], dir+"/") {
			below = append(below, fields[4]) // the names below a lab have nothing that is escaped here
		}
	}
	return below, nil
}
