// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Line is one line of meshnetd's log.
type Line struct {
	Time    time.Time `json:"time"`
	Event   string    `json:"event"`
	Message string    `json:"msg"`
	Pod     string    `json:"pod"`
	Reason  string    `json:"reason"`
	Mesh    string    `json:"mesh"`
	Note    string    `json:"note"`
	Rules   int       `json:"rules"`
	Changed bool      `json:"changed"`
	Began   int64     `json:"began_unix_us"`
	Took    int64     `json:"took_us"`
	Runtime string    `json:"runtime"`
	Version string    `json:"version"`
	Backend string    `json:"backend"`
	Limits  string    `json:"limits"`
	Error   string    `json:"error"`
	Raw     string    `json:"-"` // all of it: an attribute may stand there several times
}

// Daemon is a running meshnetd.
type Daemon struct {
	cmd    *exec.Cmd
	exited chan struct{}
	err    error

	mu    sync.Mutex
	lines []Line
	raw   strings.Builder
	news  chan struct{} // closed and replaced with each line
}

// LockDir is where the lab's daemons have their locks.
func (l *Lab) LockDir() string { return l.path("locks") }

// RunDaemon is StartDaemon, and waits until the daemon is connected.
func (l *Lab) RunDaemon(ctx context.Context, program, config string) (*Daemon, error) {
	d, err := l.StartDaemon(program, config)
	if err != nil {
		return nil, err
	}
	if _, err := d.Wait(ctx, func(l Line) bool { return l.Event == "nri_connected" }); err != nil {
		d.Kill()
		return nil, err
	}
	return d, nil
}

// StartDaemon starts the meshnetd program for the lab's runtime. config is more text for its configuration
// file, which says already how to reach the runtime and to log everything as JSON. The daemon runs until
// Terminate or Kill.
func (l *Lab) StartDaemon(program, config string) (*Daemon, error) {
	file := filepath.Join(l.dir, "meshnetd.toml")
	text := fmt.Sprintf("nri.socket = %q\ncri_socket = %q\nstatus_socket = %q\nlock_dir = %q\nlog.format = \"json\"\nlog.level = \"debug\"\n%s",
		l.NRISocket(), l.Socket(), l.path("meshnetd.sock"), l.LockDir(), config)
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		return nil, fmt.Errorf("run meshnetd: %w", err)
	}
	return StartConfigured(program, file)
}

// StartConfigured starts a meshnetd program that is set up by a file, which says to log as JSON.
func StartConfigured(program, file string) (*Daemon, error) {
	d := &Daemon{cmd: exec.Command(program, "run", "--config", file), exited: make(chan struct{}), news: make(chan struct{})}
	// Ctrl-C on a terminal is for the one who started the lab, who then ends the daemon.
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	out, err := d.cmd.StderrPipe()
	if err != nil {
		return nil, fmt.Errorf("run meshnetd: %w", err)
	}
	if err := d.cmd.Start(); err != nil {
		return nil, fmt.Errorf("run meshnetd: %w", err)
	}
	go func() {
		for s := bufio.NewScanner(out); s.Scan(); {
			d.read(s.Bytes())
		}
		d.err = d.cmd.Wait()
		close(d.exited)
	}()
	return d, nil
}

func (d *Daemon) read(text []byte) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.raw.Write(append(text, '\n'))
	var l Line
	if json.Unmarshal(text, &l) == nil {
		l.Raw = string(text)
		d.lines = append(d.lines, l)
	}
	close(d.news)
	d.news = make(chan struct{})
}

// Log returns everything the daemon has written.
func (d *Daemon) Log() string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.raw.String()
}

// Wait returns the first line, of those already written and those to come, that match accepts.
func (d *Daemon) Wait(ctx context.Context, match func(Line) bool) (Line, error) {
	for next := 0; ; {
		d.mu.Lock()
		lines, news := d.lines, d.news
		d.mu.Unlock()
		for ; next < len(lines); next++ {
			if match(lines[next]) {
				return lines[next], nil
			}
		}
		select {
		case <-news:
		case <-d.exited:
			return Line{}, fmt.Errorf("meshnetd ended (%s) with\n%s", fmt.Sprint(d.err), d.Log())
		case <-ctx.Done():
			return Line{}, fmt.Errorf("meshnetd did not say it (%w), but\n%s", ctx.Err(), d.Log())
		}
	}
}

// WaitPod returns the first line about an event of the pod, NAMESPACE/NAME.
func (d *Daemon) WaitPod(ctx context.Context, event, pod string) (Line, error) {
	return d.Wait(ctx, func(l Line) bool { return l.Event == event && l.Pod == pod })
}

// PID returns the daemon's process id.
func (d *Daemon) PID() int { return d.cmd.Process.Pid }

// Terminate sends SIGTERM and returns the error the daemon ends with. When ctx ends first, it is killed.
func (d *Daemon) Terminate(ctx context.Context) error {
	if err := d.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return fmt.Errorf("end meshnetd: %w", err)
	}
	select {
	case <-d.exited:
		return d.err
	case <-ctx.Done():
		d.Kill()
		return fmt.Errorf("meshnetd does not end on SIGTERM: %w", ctx.Err())
	}
}

// Kill ends the daemon as an out-of-memory killer would, and returns when it is gone.
func (d *Daemon) Kill() {
	_ = d.cmd.Process.Kill() // it may have ended by itself
	<-d.exited
}
