// SPDX-License-Identifier: Apache-2.0

//go:build linux

package xtables

import (
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
	"github.com/meshnetd/meshnetd/daemon/nftables"
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

	stdout, stderr := bounded{most: mostSaid}, bounded{most: mostComplaint}
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
	cmd.WaitDelay = time.Second // on a busy node the last output may take a while

	if err := t.isolated.Do(ctx, ns, cmd.Start); err != nil {
		return nil, fmt.Errorf("start %s: %w", tool, err)
	}
	// Rules may have been added since readable looked at them, and iptables reads all there are.
	_ = unix.Prlimit(cmd.Process.Pid, unix.RLIMIT_AS, &unix.Rlimit{Cur: mostMemory, Max: mostMemory}, nil) // it may have ended
	if err := cmd.Wait(); err != nil {
		if stdout.over {
			return nil, fmt.Errorf("%s: %w (it wrote more than %d bytes)", filepath.Base(tool), nftables.ErrTooMuch, mostSaid)
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("%s took too long and was stopped: %w", filepath.Base(tool), ctx.Err())
		}
		said := strings.Join(strings.Fields(string(stderr.text)), " ")
		return nil, &exitError{tool: filepath.Base(tool), stderr: said, err: err}
	}
	return stdout.text, nil
}

// How much a program may write, and how much memory it may use: both far above what readable rules need.
const (
	mostSaid      = 16 << 20
	mostComplaint = 4 << 10
	mostMemory    = 256 << 20
)

// bounded keeps what a program writes, up to a length. Beyond it writes fail, so that the program ends.
type bounded struct {
	text []byte
	most int
	over bool
}

func (b *bounded) Write(p []byte) (int, error) {
	if b.over = b.over || len(b.text)+len(p) > b.most; b.over {
		return 0, nftables.ErrTooMuch
	}
	b.text = append(b.text, p...)
	return len(p), nil
}

// privateLock returns the file that legacy iptables locks. The node's own lock guards the host's tables, and others may
// hold it for long; in the sandbox only meshnetd processes write, which netns.Locks keep apart.
func privateLock() (*os.File, error) {
	fd, err := unix.MemfdCreate("xtables.lock", unix.MFD_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("lock file for iptables: %w", err)
	}
	return os.NewFile(uintptr(fd), "xtables.lock"), nil
}
