// SPDX-License-Identifier: Apache-2.0

package lab

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
)

// cgroup is the parent of every cgroup of the lab.
func (l *Lab) cgroup() string { return "/mlab-" + l.id }

// killLeftovers ends what outlived the runtime: the keepers of containers, and their processes.
func (l *Lab) killLeftovers(ctx context.Context) error {
	// Keepers first: they would report the death of their containers.
	for _, find := range []func() ([]int, error){l.keepers, l.cgroupProcesses} {
		err := Poll(ctx, func() (bool, error) {
			pids, err := find()
			for _, pid := range pids {
				_ = syscall.Kill(pid, syscall.SIGKILL)
			}
			return len(pids) == 0, errors.Join(err, l.thaw())
		})
		if err != nil {
			return fmt.Errorf("kill left-over processes: %w", err)
		}
	}
	return nil
}

// thaw lets go on what a runc that was killed left frozen: by cgroup v1 not even SIGKILL ends that.
func (l *Lab) thaw() error {
	dirs, err := l.cgroupDirs()
	for _, dir := range dirs {
		for file, thawed := range map[string]string{"freezer.state": "THAWED", "cgroup.freeze": "0"} {
			state, err := os.ReadFile(filepath.Join(dir, file)) // a cgroup has one of them, or none
			if err != nil || strings.TrimSpace(string(state)) == thawed {
				continue
			}
			l.logf("%s is %s: thaw it", dir, strings.TrimSpace(string(state)))
			_ = os.WriteFile(filepath.Join(dir, file), []byte(thawed), 0)
		}
	}
	return err
}

// keepers returns the processes that run the runtime's shim, or conmon, and were
// given paths of this lab: the same program may serve other labs.
func (l *Lab) keepers() ([]int, error) {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil, fmt.Errorf("list processes: %w", err)
	}
	program := l.opts.engine().keeper()
	var pids []int
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// Both fail for a process that has just gone or is a zombie.
		exe, exeErr := os.Readlink(filepath.Join("/proc", entry.Name(), "exe"))
		args, argsErr := os.ReadFile(filepath.Join("/proc", entry.Name(), "cmdline"))
		if exeErr != nil || argsErr != nil {
			continue
		}
		// The program may have been built anew since.
		exe = strings.TrimSuffix(exe, " (deleted)")
		if exe == program && bytes.Contains(args, []byte(l.dir+"/")) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}

// cgroupProcesses returns the processes in the lab's cgroups.
func (l *Lab) cgroupProcesses() ([]int, error) {
	dirs, err := l.cgroupDirs()
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, dir := range dirs {
		procs, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
		if err != nil {
			continue
		}
		for _, field := range strings.Fields(string(procs)) {
			if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
				pids = append(pids, pid)
			}
		}
	}
	return pids, nil
}

// cgroupDirs returns the lab's cgroups in every hierarchy, parents first.
func (l *Lab) cgroupDirs() ([]string, error) {
	mounts, err := readMounts()
	if err != nil {
		return nil, err
	}
	var dirs []string
	for _, m := range mounts {
		if m.fsType != "cgroup" && m.fsType != "cgroup2" {
			continue
		}
		err := filepath.WalkDir(m.path+l.cgroup(), func(path string, entry fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err == nil && entry.IsDir() {
				dirs = append(dirs, path)
			}
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("list cgroups: %w", err)
		}
	}
	return dirs, nil
}

func (l *Lab) removeCgroups(ctx context.Context) error {
	// A cgroup stays busy for a moment after its last process.
	var last error
	err := Poll(ctx, func() (bool, error) {
		dirs, err := l.cgroupDirs()
		for _, dir := range slices.Backward(dirs) {
			if rmErr := syscall.Rmdir(dir); rmErr != nil {
				last = &fs.PathError{Op: "rmdir", Path: dir, Err: rmErr}
			}
		}
		return len(dirs) == 0, err
	})
	if err != nil {
		return fmt.Errorf("remove cgroups: %w", errors.Join(err, last))
	}
	return nil
}

// mount is a line of mountinfo.
type mount struct{ path, fsType string }

func readMounts() ([]mount, error) {
	data, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("list mounts: %w", err)
	}
	var mounts []mount
	for line := range strings.Lines(string(data)) {
		before, after, ok := strings.Cut(line, " - ")
		fields, types := strings.Fields(before), strings.Fields(after)
		if !ok || len(fields) < 5 || len(types) < 1 {
			continue
		}
		mounts = append(mounts, mount{path: escapes.Replace(fields[4]), fsType: types[0]})
	}
	return mounts, nil
}

// escapes are undone for a path of mountinfo: the kernel writes these characters so, and no others.
var escapes = strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\043`, "#", `\134`, `\`)

// unmountBelow unmounts everything below dir. Mounts are listed in the order
// they were made, so the last one comes first.
func unmountBelow(dir string) error {
	mounts, err := readMounts()
	if err != nil {
		return err
	}
	var errs []error
	for _, m := range slices.Backward(mounts) {
		if !strings.HasPrefix(m.path, dir+"/") {
			continue
		}
		if err := syscall.Unmount(m.path, syscall.MNT_DETACH); err != nil && !errors.Is(err, syscall.EINVAL) {
			errs = append(errs, fmt.Errorf("unmount %s: %w", m.path, err))
		}
	}
	return errors.Join(errs...)
}
