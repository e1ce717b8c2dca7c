// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"
)

// stopGrace is what the runtime has to end after SIGTERM.
const stopGrace = 10 * time.Second

// process is one run of the runtime.
type process struct {
	cmd    *exec.Cmd
	exited chan struct{} // closed once err is final
	err    error
}

// startProcess runs the command in a process group of its own, so that
// Ctrl-C reaches only the program that can close the lab.
func startProcess(command []string, logPath, tempDir string, env ...string) (*process, error) {
	log, err := os.OpenFile(logPath, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the runtime's log: %w", err)
	}
	defer log.Close()
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Stdout, cmd.Stderr = log, log
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	// Only what is needed: with a service manager's variables the runtime would
	// report its readiness there.
	// It, its shims and runc would spend a tenth of their time on collecting garbage.
	cmd.Env = append(env, "PATH="+os.Getenv("PATH"), "HOME="+os.Getenv("HOME"), "TMPDIR="+tempDir, "GOGC=400")
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start the runtime: %w", err)
	}
	p := &process{cmd: cmd, exited: make(chan struct{})}
	go func() {
		p.err = cmd.Wait()
		if p.err == nil {
			p.err = errors.New("exit status 0")
		}
		close(p.exited)
	}()
	return p, nil
}

// stop asks the process to end and kills it when it does not, or when ctx
// ends first.
func (p *process) stop(ctx context.Context) error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("signal the runtime: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, stopGrace)
	defer cancel()
	select {
	case <-p.exited:
		return nil
	case <-ctx.Done():
	}
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill the runtime: %w", err)
	}
	<-p.exited
	return nil
}

// logTail returns the end of the runtime's log in the form of an error's suffix.
func (l *Lab) logTail() string {
	const lines = 15
	log, err := os.ReadFile(l.RuntimeLog())
	if err != nil || len(log) == 0 {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(log), []byte("\n"))
	return "\nend of the runtime's log:\n" + string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}
