// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package notify tells systemd how this service is, as sd_notify(3) says. Where no service manager listens,
// every function does nothing.
package notify

import (
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"golang.org/x/sys/unix"
)

// idlePause is how often the state is told where no watchdog asks for it.
const idlePause = 5 * time.Second

// Listening reports whether there is a service manager to tell something to.
func Listening() bool { return os.Getenv("NOTIFY_SOCKET") != "" }

// Pause returns in which intervals Alive is to be called: a third of what the watchdog allows, so that one
// that comes late does not cost the daemon its life.
func Pause() (time.Duration, error) {
	limit, err := daemon.SdWatchdogEnabled(false)
	if err != nil {
		return idlePause, fmt.Errorf("systemd's watchdog: %w", err)
	}
	if limit == 0 {
		return idlePause, nil
	}
	return limit / 3, nil
}

// Ready says that the service does its work from now on, or again after Reloading.
func Ready(status string) error { return send(daemon.SdNotifyReady, line(status)) }

// Status says in a sentence how the service is, for `systemctl status`.
func Status(status string) error { return send(line(status)) }

// Alive answers the watchdog.
func Alive(status string) error { return send(daemon.SdNotifyWatchdog, line(status)) }

// Stopping says that the service is about to end.
func Stopping(status string) error { return send(daemon.SdNotifyStopping, line(status)) }

// Reloading says that the configuration is being read again; Ready says that this is over. The time is what
// Type=notify-reload wants, which systemd has since version 253.
func Reloading() error {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return fmt.Errorf("tell systemd of the reload: %w", err)
	}
	return send(daemon.SdNotifyReloading, fmt.Sprintf("MONOTONIC_USEC=%d", now.Nano()/int64(time.Microsecond)))
}

// line makes a text one assignment: what follows a line break would be another one.
func line(status string) string { return "STATUS=" + strings.Join(strings.Fields(status), " ") }

func send(assignments ...string) error {
	if _, err := daemon.SdNotify(false, strings.Join(assignments, "\n")); err != nil {
		return fmt.Errorf("tell systemd at %s: %w", os.Getenv("NOTIFY_SOCKET"), err)
	}
	return nil
}
