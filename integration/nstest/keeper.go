// SPDX-License-Identifier: Apache-2.0

//go:build linux

package nstest

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// endWithParent ends this process when the one that started it is gone, as `go test` that a timeout has killed.
func endWithParent() {
	parent := os.Getppid()
	for range time.Tick(time.Second) {
		if os.Getppid() != parent {
			os.Exit(2)
		}
	}
}

// keep runs this program once more, for the tests, and returns its exit status when every process that came of them has
// ended: what outlives the tests is killed, and so are the tests when this process is to end, or its parent is gone.
// Runtimes and what they run would go on for good otherwise, and so would what they hold.
func keep() (int, error) {
	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	ending := make(chan os.Signal, 1)
	signal.Notify(ending, unix.SIGTERM, unix.SIGINT, unix.SIGQUIT)
	// Here rather than in enter: becoming root would undo it.
	err = errors.Join(
		unix.Prctl(unix.PR_SET_PDEATHSIG, uintptr(unix.SIGTERM), 0, 0, 0),
		unix.Prctl(unix.PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)) // it inherits whatever loses its parent
	if err != nil {
		return 0, err
	}
	tests, err := os.StartProcess(self, os.Args, &os.ProcAttr{Env: os.Environ(), Files: []*os.File{os.Stdin, os.Stdout, os.Stderr},
		Sys: &syscall.SysProcAttr{Pdeathsig: unix.SIGKILL}})
	if err != nil {
		return 0, err
	}
	go func() {
		<-ending
		_ = unix.Kill(tests.Pid, unix.SIGKILL)
	}()
	status, err := waitFor(tests.Pid)
	if err != nil {
		return 0, err
	}
	time.AfterFunc(time.Minute, func() { panic("what the tests have left cannot be killed") })
	for err == nil || errors.Is(err, unix.EINTR) { // until there is nobody to wait for
		left, failed := children()
		if failed != nil {
			return 0, failed
		}
		for _, pid := range left {
			_ = unix.Kill(pid, unix.SIGKILL) // who loses a parent by that is in the next round
		}
		_, err = unix.Wait4(-1, nil, 0, nil)
	}
	if status.Signaled() {
		return 0, fmt.Errorf("the tests: %s", status.Signal())
	}
	return status.ExitStatus(), nil
}

// waitFor waits for a child, and meanwhile for whatever else dies.
func waitFor(child int) (status unix.WaitStatus, err error) {
	for {
		pid, err := unix.Wait4(-1, &status, 0, nil)
		if pid == child {
			return status, nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return 0, fmt.Errorf("wait for the tests: %w", err)
		}
	}
}

// children returns the processes whose parent this one is.
func children() (pids []int, err error) {
	stats, err := filepath.Glob("/proc/[0-9]*/stat")
	if err != nil {
		return nil, err
	}
	for _, file := range stats {
		text, err := os.ReadFile(file)
		if err != nil {
			continue // it has just gone
		}
		// The program's name, in parentheses, may hold anything.
		fields := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+1:]))
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(file)))
		if err == nil && len(fields) > 1 && fields[1] == strconv.Itoa(os.Getpid()) {
			pids = append(pids, pid)
		}
	}
	return pids, nil
}
