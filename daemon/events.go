// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"log/slog"
)

// The events of pods. Scripts rely on these words.
const (
	EventProtected   = "pod_protected"   // its rules were read from the kernel before its first container
	EventLate        = "pod_late"        // it already existed without its rules; it has them now
	EventSkipped     = "pod_skipped"     // not touched
	EventBlocked     = "pod_blocked"     // its sandbox was refused
	EventUnprotected = "pod_unprotected" // it exists, belongs to the mesh, and does not have its rules
)

// Event names the outcome.
func (o Outcome) Event() string {
	switch {
	case o.Result == Skipped:
		return EventSkipped
	case o.Result == Protected && o.Trigger == Takeover && o.Changed:
		return EventLate
	case o.Result == Protected:
		return EventProtected
	case o.Trigger == Takeover:
		return EventUnprotected
	}
	return EventBlocked
}

// Log returns a recorder that writes one line for each outcome: pods outside the mesh at debug level,
// so that they cost no write.
func Log(log *slog.Logger, backend string) func(Outcome) {
	return func(o Outcome) {
		level, message := slog.LevelInfo, o.Decision.Detail
		event := o.Event()
		switch {
		case event == EventSkipped || o.gone():
			level = slog.LevelDebug
		case event == EventLate:
			level, message = slog.LevelWarn, "the pod ran without its rules until now; connections it opened before stay as they are"
		case o.Err != nil:
			level, message = slog.LevelError, o.Err.Error()
		}
		if !log.Enabled(context.Background(), level) {
			return
		}
		attributes := []slog.Attr{
			slog.String("event", event),
			slog.String("pod", o.Pod.Namespace+"/"+o.Pod.Name),
			slog.String("sandbox", o.Pod.SandboxID),
			slog.String("mesh", o.Decision.Mesh),
			slog.String("reason", string(o.Decision.Reason)),
			slog.Int64("began_unix_us", o.Began.UnixMicro()),
			slog.Int64("took_us", o.Took.Microseconds()),
		}
		if o.NetNS.Ino != 0 {
			attributes = append(attributes, slog.String("netns", o.NetNS.String()), slog.String("backend", backend),
				slog.Int("rules", o.Plan.Rules()), slog.Bool("changed", o.Changed))
		}
		if o.Err != nil {
			attributes = append(attributes, slog.String("stage", string(o.Stage)))
		}
		for _, note := range o.Plan.Notes {
			attributes = append(attributes, slog.String("note", note))
		}
		log.LogAttrs(context.Background(), level, message, attributes...)
	}
}
