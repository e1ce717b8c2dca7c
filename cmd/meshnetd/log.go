// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"log/slog"
	"os"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/systemd/journal"
)

// newLogger writes to standard error, which systemd and the kubelet collect, or to the journal. The queue is behind
// the latter, still to be run, and nil for the former. The journal has its own clock.
func newLogger(l config.Log) (*slog.Logger, *journal.Queue) {
	var level slog.Level
	_ = level.UnmarshalText([]byte(l.Level)) // validated: one of config.Levels
	options := &slog.HandlerOptions{Level: level}
	connected := journal.Connected()
	switch {
	case l.Format == "json":
		return slog.New(slog.NewJSONHandler(os.Stderr, options)), nil
	case l.Format == "journal", l.Format == "auto" && connected:
		queue := journal.NewQueue(os.Stderr)
		return slog.New(journal.NewHandler(queue, level)), queue
	case connected:
		options.ReplaceAttr = func(groups []string, a slog.Attr) slog.Attr {
			if len(groups) == 0 && a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}
	}
	return slog.New(slog.NewTextHandler(os.Stderr, options)), nil
}
