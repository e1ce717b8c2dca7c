// SPDX-License-Identifier: Apache-2.0

//go:build linux

package systemd

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// machine is a booted Debian in namespaces of its own. It sees shared, a directory of this machine, as /shared.
type machine struct {
	name    string
	root    string
	shared  string
	binds   []string // directories of this machine that it sees too, read-only: PATH:PATH
	nspawn  *exec.Cmd
	console string
	leader  int // process id of its systemd
}

// boot boots a copy of the tree and waits until systemd is done. Nothing of it is left when the test ends.
func boot(t *testing.T, tree string, binds ...string) *machine {
	t.Helper()
	began := time.Now()
	// Not a directory of the test's: those are too long for the paths of unix sockets.
	dir, err := os.MkdirTemp("", "mnsd-")
	if err != nil {
		t.Fatal(err)
	}
	m := &machine{name: "meshnetd-" + strings.ToLower(rand.Text()[:8]), root: filepath.Join(dir, "root"), shared: filepath.Join(dir, "shared"),
		binds: binds, console: filepath.Join(dir, "console")}
	t.Cleanup(func() { m.away(t, dir) })
	if err := os.Mkdir(m.shared, 0o755); err != nil {
		t.Fatal(err)
	}
	if out, err := exec.CommandContext(within(t, time.Minute), "cp", "-a", "--reflink=auto", tree, m.root).CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v: %s", err, out)
	}
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if err := m.wait(within(t, time.Minute)); err != nil {
		console, _ := os.ReadFile(m.console)
		t.Fatalf("%v\n%s", err, last(string(console), 40))
	}
	t.Logf("booted %s in %s", m.name, time.Since(began).Round(time.Millisecond))
	return m
}

// start runs systemd-nspawn in a cgroup of the machine's own, which is found again by its name.
func (m *machine) start() error {
	args := []string{"-c", `for dir in "$@"; do case $dir in --) break;; *) echo $$ >"$dir/cgroup.procs" || exit 1;; esac; shift; done; shift; exec "$@"`, "sh"}
	for _, dir := range m.cgroups() {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return fmt.Errorf("boot: %w", err)
		}
		args = append(args, dir)
	}
	args = append(args, "--", "systemd-nspawn", "--quiet", "--boot", "--directory="+m.root, "--machine="+m.name,
		"--private-network", "--register=no", "--keep-unit", "--settings=no", "--link-journal=no", "--resolv-conf=off", "--timezone=off",
		"--console=pipe", "--bind="+m.shared+":/shared",
		// For runc and the kernel's packet filters.
		"--capability=CAP_NET_ADMIN,CAP_NET_RAW,CAP_SYS_PTRACE,CAP_BPF,CAP_PERFMON", "--system-call-filter=add_key keyctl bpf")
	for _, bind := range m.binds {
		args = append(args, "--bind-ro="+bind)
	}
	console, err := os.Create(m.console)
	if err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	defer console.Close()
	m.nspawn = exec.Command("sh", args...)
	// One hierarchy of cgroups, whatever the machine has: containers do without controllers here.
	m.nspawn.Env = append(os.Environ(), "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1")
	m.nspawn.Stdout, m.nspawn.Stderr = console, console
	// A test that is killed leaves no running machine.
	m.nspawn.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := m.nspawn.Start(); err != nil {
		return fmt.Errorf("boot: %w", err)
	}
	return nil
}

// cgroups are the machine's directories in the hierarchies that systemd-nspawn uses.
func (m *machine) cgroups() []string {
	var dirs []string
	for _, base := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/unified", "/sys/fs/cgroup/systemd"} {
		if _, err := os.Stat(filepath.Join(base, "cgroup.procs")); err == nil {
			dirs = append(dirs, filepath.Join(base, m.name))
		}
	}
	return dirs
}

// again switches the machine off and boots it again.
func (m *machine) again(t *testing.T) {
	t.Helper()
	_, _ = m.run(within(t, time.Minute), "systemctl", "poweroff") // its answer may be lost
	_ = m.nspawn.Wait()
	m.leader = 0
	if err := m.start(); err != nil {
		t.Fatal(err)
	}
	if err := m.wait(within(t, time.Minute)); err != nil {
		t.Fatal(err)
	}
}

// wait finds the machine's first process and waits until it has started what there is to start.
func (m *machine) wait(ctx context.Context) error {
	err := poll(ctx, func() bool {
		m.leader = firstOf(m.nspawn.Process.Pid)
		return m.leader != 0
	})
	if err != nil {
		return fmt.Errorf("the machine has no first process: %w", err)
	}
	state := ""
	if err := poll(ctx, func() bool {
		state, _ = m.run(ctx, "systemctl", "is-system-running")
		return slices.Contains([]string{"running", "degraded"}, strings.TrimSpace(state))
	}); err != nil {
		return fmt.Errorf("systemd is not done with booting: %q: %w", state, err)
	}
	return nil
}

// firstOf returns the process below nspawn that is the first one of its namespace, or 0.
func firstOf(nspawn int) int {
	processes, _ := filepath.Glob("/proc/[0-9]*/status")
	for _, file := range processes {
		text, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		fields := map[string][]string{}
		for line := range strings.Lines(string(text)) {
			name, value, _ := strings.Cut(line, ":")
			fields[name] = strings.Fields(value)
		}
		ids := fields["NSpid"]
		if len(fields["PPid"]) == 1 && fields["PPid"][0] == strconv.Itoa(nspawn) && len(ids) > 1 && ids[len(ids)-1] == "1" {
			pid, _ := strconv.Atoi(ids[0])
			return pid
		}
	}
	return 0
}

// command is a program inside.
func (m *machine) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	inside := []string{"--target", strconv.Itoa(m.leader), "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
		"/usr/bin/env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive", name}
	return exec.CommandContext(ctx, "nsenter", append(inside, args...)...)
}

// run runs a program inside and returns what it prints; its error has what it says besides.
func (m *machine) run(ctx context.Context, name string, args ...string) (string, error) {
	cmd := m.command(ctx, name, args...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return stdout.String(), fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, last(stderr.String()+stdout.String(), 20))
	}
	return stdout.String(), nil
}

// must is run that has to work.
func (m *machine) must(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := m.run(within(t, 2*time.Minute), name, args...)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// write writes a file inside.
func (m *machine) write(t *testing.T, path, text string) {
	t.Helper()
	path = filepath.Join(m.root, path)
	if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(text), 0o644)); err != nil {
		t.Fatal(err)
	}
}

// away ends the machine and takes away everything of it.
func (m *machine) away(t *testing.T, dir string) {
	t.Helper()
	if m.nspawn != nil && m.nspawn.Process != nil {
		if m.leader != 0 {
			_ = syscall.Kill(m.leader, syscall.SIGKILL) // and with it all processes of its namespace
		} else {
			_ = m.nspawn.Process.Kill()
		}
		_ = m.nspawn.Wait() // killed
	}
	for _, dir := range m.cgroups() {
		if err := removeCgroup(dir); err != nil {
			t.Error(err)
		}
	}
	_ = os.Remove("/run/systemd/nspawn/propagate/" + m.name)
	if err := os.RemoveAll(dir); err != nil {
		t.Error(err)
	}
}

// removeCgroup removes a cgroup and those below, as soon as their processes are gone.
func removeCgroup(dir string) error {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	var err error
	_ = poll(ctx, func() bool {
		var all []string
		_ = filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return nil
		})
		slices.Reverse(all)
		err = nil
		for _, path := range all {
			err = errors.Join(err, os.Remove(path))
		}
		return err == nil
	})
	return err
}

// poll calls done until it is true or ctx ends.
func poll(ctx context.Context, done func() bool) error {
	ticker := time.NewTicker(50 * time.Millisecond)
	defer ticker.Stop()
	for !done() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-ticker.C:
		}
	}
	return nil
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}
