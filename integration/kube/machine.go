// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
)

// What a kubelet sets on its machine, whatever it is told.
var sysctls = []string{"vm/overcommit_memory", "vm/panic_on_oom", "kernel/panic", "kernel/panic_on_oops",
	"kernel/keys/root_maxkeys", "kernel/keys/root_maxbytes"}

// Directories that a kubelet makes, whatever it is told; the innermost first.
var fixed = []string{"/var/lib/kubelet/device-plugins", "/var/lib/kubelet/plugins_registry", "/var/lib/kubelet", "/var/log/containers", "/var/log/pods"}

// remember notes how the machine is before the kubelet, for Close to restore.
func (c *Cluster) remember() error {
	for _, name := range sysctls {
		file := filepath.Join("/proc/sys", name)
		value, err := os.ReadFile(file)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return fmt.Errorf("remember how the machine is set: %w", err)
		}
		c.undo = append(c.undo, func() error { return os.WriteFile(file, value, 0o644) })
	}
	for _, dir := range slices.Backward(fixed) { // they are undone from the last on
		if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
			c.undo = append(c.undo, func() error { return os.RemoveAll(dir) })
		}
	}
	c.undo = append(c.undo, c.removeLinks)
	return nil
}

// cgroup is the one of which the lab ends all processes.
func (c *Cluster) cgroup() string { return "/" + filepath.Base(c.lab.Dir()) }

// makeCgroups makes it in each hierarchy there is: the kubelet makes what is below its root, not the root.
func (c *Cluster) makeCgroups() error {
	hierarchies, err := cgroupHierarchies()
	if err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		if err := os.Mkdir(hierarchy+c.cgroup(), 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("make a cgroup for the kubelet: %w", err)
		}
	}
	return nil
}

// cgroupHierarchies returns where they are mounted.
func cgroupHierarchies() ([]string, error) {
	const mounted = "/sys/fs/cgroup"
	var mount syscall.Statfs_t
	if err := syscall.Statfs(mounted, &mount); err != nil {
		return nil, fmt.Errorf("find the machine's cgroups: %w", err)
	}
	const cgroup2 = 0x63677270 // CGROUP2_SUPER_MAGIC
	if mount.Type == cgroup2 {
		return []string{mounted}, nil
	}
	return filepath.Glob(mounted + "/*")
}

// removeLinks removes the links to containers' logs, from where all kubelets have them.
func (c *Cluster) removeLinks() error {
	links, err := filepath.Glob("/var/log/containers/*.log")
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if target, err := os.Readlink(link); err == nil && strings.HasPrefix(target, c.lab.Dir()+"/") {
			errs = append(errs, os.Remove(link))
		}
	}
	return errors.Join(errs...)
}
