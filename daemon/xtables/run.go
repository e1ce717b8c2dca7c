// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/meshnetd/meshnetd/daemon/netns"
)

// exitError is a program that ran and failed.
type exitError struct {
	tool   string
	stderr string
	line   string // of the input, where it is known
	err    error
}

// Error names the tool, what it said and the rule it said it about.
func (e *exitError) Error() string {
	s := e.tool + ": " + e.err.Error()
	if e.stderr != "" {
		s += ": " + e.stderr
	}
	if e.line != "" {
		s += fmt.Sprintf(" (at %q)", e.line)
	}
	return s
}

// Unwrap returns the cause.
func (e *exitError) Unwrap() error { return e.err }

// run runs a tool inside the namespace until it ends or ctx does; then its process group is killed.
func (t *Tables) run(ctx context.Context, ns *netns.Namespace, tool, input string, args ...string) ([]byte, error) {
	lock, err := privateLock()
	if err != nil {
		return nil, err
	}
	defer lock.Close()

	var stdout, stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, tool, args...)
	cmd.Env = []string{
		"PATH=/usr/sbin:/usr/bin:/sbin:/bin", // iptables finds modprobe there
		"LC_ALL=C",
		"XTABLES_LOCKFILE=/proc/self/fd/3", // the first of ExtraFiles
	}
	cmd.ExtraFiles = []*os.File{lock}
	cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }
	cmd.WaitDelay = time.Second // a busy node takes its time to hand over the last output

	if err := t.isolated.Do(ctx, ns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", tool, err)
	}
	if err := cmd.Wait(); err != nil {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s took too long and was stopped: %w", filepath.Base(tool), ctx.Err())
		}
		said := strings.Join(strings.Fields(stderr.String()), " ")
		return nil, &exitError{tool: filepath.Base(tool), stderr: said, err: err}
	}
	return stdout.Bytes(), nil
}

// privateLock returns the file that legacy iptables locks. The node's own lock may be held for long by
// others, and guards the host's tables only; in the sandbox nobody else works but other meshnetd
// processes, which netns.Namespace.Lock keeps out.
func privateLock() (*os.File, error) {
	fd, err := unix.MemfdCreate("xtables.lock", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("lock file for iptables: %w", err)
	}
	return os.NewFile(uintptr(fd), "xtables.lock"), nil
}
