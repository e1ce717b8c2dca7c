// SPDX-License-Identifier: Apache-2.0

//go:build linux

package kube

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/meshnetd/meshnetd/integration/lab"
)

// stopGrace is what a component has to end after SIGTERM.
const stopGrace = 15 * time.Second

// process is one component that runs.
type process struct {
	name   string
	log    string
	cmd    *exec.Cmd
	exited chan struct{}
}

// Launch starts a component and waits until ready says so.
func (c *Cluster) Launch(ctx context.Context, name, program string, args []string, ready func(context.Context) error) error {
	p := &process{name: name, log: c.path(name + ".log"), cmd: exec.Command(program, args...), exited: make(chan struct{})}
	log, err := os.OpenFile(p.log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	defer log.Close()
	p.cmd.Stdout, p.cmd.Stderr = log, log
	// Ctrl-C is for the test, which then ends the components. Nothing may outlive it.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + c.path("home"), "TMPDIR=" + c.lab.Dir() + "/tmp"}
	if err := p.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", name, err)
	}
	c.processes = append(c.processes, p)
	go func() {
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	return p.wait(ctx, ready)
}

func (p *process) wait(ctx context.Context, ready func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, readyTimeout)
	defer cancel()
	var last error
	err := lab.Poll(ctx, func() (bool, error) {
		select {
		case <-p.exited:
			return false, errors.New("it ended by itself")
		default:
		}
		last = ready(ctx)
		return last == nil, nil
	})
	if err != nil {
		return fmt.Errorf("%s is not ready: %w, %w%s", p.name, err, last, p.tail())
	}
	return nil
}

// tail returns the end of the log, as the end of an error's text.
func (p *process) tail() string {
	const lines = 15
	text, err := os.ReadFile(p.log)
	if err != nil {
		return ""
	}
	all := bytes.Split(bytes.TrimSpace(text), []byte("\n"))
	return "\nend of its log:\n" + string(bytes.Join(all[max(0, len(all)-lines):], []byte("\n")))
}

func (p *process) stop() error {
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end %s: %w", p.name, err)
	}
	select {
	case <-p.exited:
		return nil
	case <-time.After(stopGrace):
		return p.kill()
	}
}

func (p *process) kill() error {
	if err := p.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("kill %s: %w", p.name, err)
	}
	<-p.exited
	return nil
}
