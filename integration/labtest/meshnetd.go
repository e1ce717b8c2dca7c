// SPDX-License-Identifier: Apache-2.0

//go:build linux

package labtest

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// DualStack runs a private runtime with dual-stack pods until the test ends.
func DualStack(t *testing.T, runtime lab.Runtime) *lab.Lab {
	t.Helper()
	opts := Options(t, runtime)
	opts.DualStack = true
	return Start(t, opts)
}

// OnEach runs a test on each containerd.
func OnEach(t *testing.T, test func(t *testing.T, l *lab.Lab)) {
	for _, runtime := range lab.Runtimes() {
		t.Run(string(runtime), func(t *testing.T) { test(t, DualStack(t, runtime)) })
	}
}

// Meshnetd is a running daemon whose failures are the test's.
type Meshnetd struct{ *lab.Daemon }

// RunDaemon starts meshnetd for a lab, dual stack as its pods are, with more lines of configuration.
func RunDaemon(t *testing.T, l *lab.Lab, config ...string) Meshnetd {
	t.Helper()
	program := Daemon(t, l.Runtime()) // building it may take a minute by itself
	d, err := l.RunDaemon(Within(t, time.Minute), program, strings.Join(append([]string{"istio.dual_stack = true"}, config...), "\n"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		d.Kill()
		if strings.Contains(d.Log(), "DATA RACE") || t.Failed() {
			t.Errorf("log of meshnetd:\n%s", d.Log())
		}
	})
	return Meshnetd{d}
}

// Expect waits for a line of the log.
func (d Meshnetd) Expect(t *testing.T, match func(lab.Line) bool) lab.Line {
	t.Helper()
	line, err := d.Wait(Within(t, time.Minute), match)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// Event waits for an event about a pod.
func (d Meshnetd) Event(t *testing.T, event, pod string) lab.Line {
	t.Helper()
	return d.Expect(t, func(l lab.Line) bool { return l.Event == event && l.Pod == pod })
}

// End stops the daemon as systemd does.
func (d Meshnetd) End(t *testing.T) {
	t.Helper()
	if err := d.Terminate(Within(t, time.Minute)); err != nil {
		t.Error(err)
	}
}

// Command runs meshnetd beside a daemon, with its configuration.
func (d Meshnetd) Command(t *testing.T, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	path := Racing(t)
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", d.PID()))
	if err != nil {
		t.Fatal(err)
	}
	words := strings.Split(strings.TrimSuffix(string(line), "\x00"), "\x00")
	cmd := exec.CommandContext(Within(t, time.Minute), path, append(args, "--config", words[len(words)-1])...)
	var out, failure strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &failure
	var ended *exec.ExitError
	if err := cmd.Run(); err != nil && !errors.As(err, &ended) {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), failure.String()
}
