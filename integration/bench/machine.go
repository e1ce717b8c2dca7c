// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// machine prints where the figures come from, and how busy it was before.
func machine(w io.Writer) error {
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		return fmt.Errorf("uname: %w", err)
	}
	load, err := os.ReadFile("/proc/loadavg")
	if err != nil {
		return err
	}
	fmt.Fprintf(w, "Linux %s, %d cores, %s, load before %s\n", unix.ByteSliceToString(u.Release[:]), runtime.NumCPU(), runtime.Version(),
		strings.Join(strings.Fields(string(load))[:3], " "))
	return nil
}

// calm waits, but not for ever, until the machine has little to do: the kernel goes on taking away
// namespaces long after the last of their files was closed. A run that is only to be tried does not wait.
func (b *bench) calm() {
	const (
		window = 50 * time.Millisecond
		limit  = 2 * time.Second
		idle   = 0.8 // of all cores
	)
	if b.effort < 10 {
		return
	}
	ctx, cancel := context.WithTimeout(b.ctx, limit)
	defer cancel()
	for before := processors(); ctx.Err() == nil; {
		select {
		case <-ctx.Done():
		case <-time.After(window):
		}
		now := processors()
		if total := now.total - before.total; total > 0 && float64(now.idle-before.idle) >= idle*float64(total) {
			return
		}
		before = now
	}
}

// ticks is the processors' time since the start of the machine, in clock ticks; zero where it cannot be read.
type ticks struct{ total, idle int }

func processors() (t ticks) {
	text, _ := os.ReadFile("/proc/stat")
	line, _, _ := strings.Cut(string(text), "\n")
	for i, field := range strings.Fields(strings.TrimPrefix(line, "cpu")) {
		n := 0
		_, _ = fmt.Sscan(field, &n)
		if i < 8 { // those of guests are in those of users already
			t.total += n
		}
		if i == 3 || i == 4 { // idle, waiting for a disk
			t.idle += n
		}
	}
	return t
}

// processorTime is what this process has used.
func processorTime() (time.Duration, error) {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		return 0, fmt.Errorf("getrusage: %w", err)
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano()), nil
}
