// SPDX-License-Identifier: Apache-2.0

//go:build linux

package gather

import (
	"context"
	"errors"
	"os"
	"strconv"
	"strings"
	"syscall"

	"github.com/meshnetd/meshnetd/doctor"
	"github.com/meshnetd/meshnetd/status"
)

// daemon asks the running meshnetd, and looks at its process.
func daemon(ctx context.Context, t tree, socket, namespaces string) doctor.Daemon {
	ctx, cancel := context.WithTimeout(ctx, lookLimit)
	defer cancel()
	d := doctor.Daemon{Socket: socket, Installed: t.installed()}
	if socket != "" {
		socket = t.path(socket)
	}
	d.Status, d.Err = status.Read(ctx, socket)
	d.Crashed = errors.Is(d.Err, syscall.ECONNREFUSED)
	if d.Err == nil {
		if pid, err := peer(ctx, socket); err == nil && pid > 0 {
			d.Process = t.process(pid, namespaces)
		}
	}
	return d
}

// process returns what /proc tells of a process, or nil.
func (t tree) process(pid int, namespaces string) *doctor.Process {
	text, err := t.proc(pid, "status")
	if err != nil {
		return nil
	}
	p := parseProcess(string(text))
	p.PID = pid
	if text, err := t.proc(pid, "oom_score_adj"); err == nil {
		p.OOM, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	p.OwnMounts, p.OwnNetwork, p.OwnPIDs = t.differs(pid, "mnt"), t.differs(pid, "net"), t.differs(pid, "pid")
	p.Mount = t.mountOf(pid, namespaces)
	return &p
}

func parseProcess(status string) doctor.Process {
	var p doctor.Process
	for line := range strings.Lines(status) {
		key, value, _ := strings.Cut(line, ":")
		value = strings.TrimSpace(value)
		switch key {
		case "CapEff":
			p.Capabilities, _ = strconv.ParseUint(value, 16, 64)
		case "NoNewPrivs":
			p.NoNewPrivs = value == "1"
		case "Seccomp":
			p.Seccomp, _ = strconv.Atoi(value)
		}
	}
	return p
}

// differs reports whether a process has a namespace of its own; one that cannot be seen is taken for init's.
func (t tree) differs(pid int, kind string) bool {
	first, err := os.Readlink(t.path("/proc/1/ns/" + kind))
	its, err2 := os.Readlink(t.path("/proc/" + strconv.Itoa(pid) + "/ns/" + kind))
	return err == nil && err2 == nil && first != its
}
