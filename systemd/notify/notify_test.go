// SPDX-License-Identifier: Apache-2.0

//go:build linux

package notify

import (
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// listen plays the service manager, and returns what one call tells it.
func listen(t *testing.T) func() string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	t.Setenv("NOTIFY_SOCKET", path)
	return func() string {
		if err := conn.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
			t.Fatal(err)
		}
		text := make([]byte, 4096)
		n, err := conn.Read(text)
		if err != nil {
			t.Fatal(err)
		}
		return string(text[:n])
	}
}

func TestWhatIsTold(t *testing.T) {
	told := listen(t)
	for name, c := range map[string]struct {
		tell func(string) error
		want string
	}{
		"ready":    {Ready, "READY=1\nSTATUS=3 pods"},
		"status":   {Status, "STATUS=3 pods"},
		"alive":    {Alive, "WATCHDOG=1\nSTATUS=3 pods"},
		"stopping": {Stopping, "STOPPING=1\nSTATUS=3 pods"},
	} {
		if err := c.tell("3 pods"); err != nil {
			t.Fatal(err)
		}
		if got := told(); got != c.want {
			t.Errorf("%s: got %q, want %q", name, got, c.want)
		}
	}
}

// The text of an error may come from a pod or a file; it must not say that the service is ready.
func TestStatusIsOneAssignment(t *testing.T) {
	told := listen(t)
	if err := Status("bad key\nREADY=1\r\n\tline 3"); err != nil {
		t.Fatal(err)
	}
	if got, want := told(), "STATUS=bad key READY=1 line 3"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// systemd ignores a reload whose time lies before its request, on the clock that does not stop.
func TestReloadingHasItsTime(t *testing.T) {
	told := listen(t)
	before := monotonic(t)
	if err := Reloading(); err != nil {
		t.Fatal(err)
	}
	after := monotonic(t)
	text, ok := strings.CutPrefix(told(), "RELOADING=1\nMONOTONIC_USEC=")
	usec, err := strconv.ParseInt(text, 10, 64)
	if !ok || err != nil {
		t.Fatalf("got %q", text)
	}
	if usec < before || usec > after {
		t.Errorf("told %d us, want %d to %d", usec, before, after)
	}
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		t.Fatal(err)
	}
	return now.Nano() / 1000
}

func TestNobodyListens(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	if Listening() {
		t.Error("somebody listens")
	}
	if err := Ready("3 pods"); err != nil {
		t.Error(err)
	}
}

func TestManagerGone(t *testing.T) {
	path := filepath.Join(t.TempDir(), "gone")
	t.Setenv("NOTIFY_SOCKET", path)
	if err := Ready("3 pods"); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("got %v, want an error that names %s", err, path)
	}
}

func TestPause(t *testing.T) {
	self := strconv.Itoa(os.Getpid())
	for name, c := range map[string]struct {
		usec, pid string
		want      time.Duration
		err       bool
	}{
		"no watchdog":   {"", "", idlePause, false},
		"for us":        {"15000000", self, 5 * time.Second, false},
		"for any":       {"3000000", "", time.Second, false},
		"for another":   {"15000000", "1", idlePause, false},
		"not a number":  {"soon", self, idlePause, true},
		"less than any": {"0", self, idlePause, true},
	} {
		t.Setenv("WATCHDOG_USEC", c.usec)
		t.Setenv("WATCHDOG_PID", c.pid)
		if got, err := Pause(); got != c.want || (err != nil) != c.err {
			t.Errorf("%s: got %s and %v, want %s", name, got, err, c.want)
		}
	}
}
