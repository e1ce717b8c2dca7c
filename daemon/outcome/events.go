// SPDX-License-Identifier: Apache-2.0

//go:build linux

package outcome

import (
	"context"
	"errors"
	"log/slog"

	"github.com/meshnetd/meshnetd/daemon/eventlog"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/rules"
)

// The events of pods. Scripts rely on these words.
const (
	EventProtected   = string(lifecycle.EventProtected)
	EventRefined     = string(lifecycle.EventRefined)
	EventReaddressed = string(lifecycle.EventReaddressed)
	EventLate        = string(lifecycle.EventLate)
	EventOutdated    = string(lifecycle.EventOutdated)
	EventUnproven    = string(lifecycle.EventUnproven)
	EventSkipped     = string(lifecycle.EventSkipped)
	EventBlocked     = string(lifecycle.EventBlocked)
	EventUnprotected = string(lifecycle.EventUnprotected)
	EventStopped     = string(lifecycle.EventStopped)
	EventDrift       = string(lifecycle.EventDrift)
	EventRepaired    = string(lifecycle.EventRepaired)

	EventImpostor     = "proxy_identity"    // a container runs as the proxy without being it: it goes around the mesh
	EventLoose        = "pod_not_held"      // nothing keeps its containers back while meshnetd is away
	EventNeighbour    = "neighbour"         // another plugin changed of a container what can lead around its rules
	EventBypass       = "pod_can_bypass"    // a container of it is given what leads around its rules
	EventLockdown     = "lockdown_packet"   // the first packet of a class that a lockdown of the pod counts, or closes
	EventUnmeshed     = "pod_unmeshed"      // it runs without a mesh, which a lockdown reports
	EventContradicted = "spec_contradicted" // a container is created otherwise than its pod's specification says
)

// Event names the outcome.
func (o Outcome) Event() string { return string(o.Said) }

// Log returns a recorder of lines: of pods outside the mesh at debug level, so that they cost no write.
func Log(log *slog.Logger, lost func()) (record func(Outcome), flush func()) {
	write, flush := eventlog.New(log, lost)
	return func(o Outcome) {
		if log.Enabled(context.Background(), o.Level()) {
			write(o.line)
		}
	}, flush
}

func (o Outcome) Level() slog.Level {
	switch event := o.Event(); {
	case event == EventSkipped && !o.Decision.Marked: // pod_unmeshed says it where a lockdown asks
		return slog.LevelDebug
	case event == EventReaddressed && o.Plan.WithoutIPv6 == rules.IPv6Mesh:
		return slog.LevelWarn
	case event == EventLoose || event == EventNeighbour || event == EventUnproven || event == EventBypass || event == EventContradicted || event == EventLockdown || event == EventUnmeshed:
		return slog.LevelWarn
	case event == EventLate || event == EventImpostor || event == EventRepaired || event == EventStopped:
		return slog.LevelWarn
	case o.Err != nil:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// Message says in a sentence what the event alone does not.
func (o Outcome) Message() string {
	if o.news != "" {
		return o.news
	}
	switch o.Event() {
	case EventLate:
		return "the pod ran without its rules when meshnetd took it over; it has them now. " +
			"Connections that were open before stay as they are"
	case EventOutdated:
		return o.Outdated() + ". It gets new ones when it is started anew, or with replace_outdated = true"
	case EventStopped:
		return "the pod ran without its rules; its sandbox was stopped so that a new one is made (catch_up)"
	case EventReaddressed:
		if o.Plan.WithoutIPv6 == rules.IPv6Mesh {
			return "the pod got an IPv6 address, and its IPv6 goes around the mesh"
		}
		return "the pod has other addresses than before, and the rules for them"
	case EventRepaired:
		if o.Trigger == lifecycle.ContainerStarted {
			return "the pod's rules were changed after every plugin had been asked about a container, by a hook of the runtime or a plugin that is " +
				"called later; it has them again, and the container has not run without them"
		}
		return "the pod has its rules again"
	}
	if o.Err != nil && o.Unheeded != "" {
		return o.Err.Error() + ". " + o.Unheeded
	}
	if o.Err != nil {
		return o.Err.Error()
	}
	return o.Decision.Detail
}

// Outdated says of rules that stay how they differ from those that the pod would get today.
func (o Outcome) Outdated() string {
	what := "the pod keeps rules that protect it and are not those of its plan"
	if o.Earlier {
		what = "the pod keeps the whole rules of another version or configuration of meshnetd"
	}
	if said := o.Difference(); said != "" {
		what += "; compared with today's: " + said
	}
	return what
}

// line is the outcome's line in the log.
func (o Outcome) line() eventlog.Line {
	l := eventlog.Line{
		Level: o.Level(), Message: o.Message(), At: o.Began.Add(o.Took),
		Pod: o.Pod.Namespace + "/" + o.Pod.Name, Event: o.Event(), Container: o.Container, Reason: string(o.Decision.Reason),
		Own: []string{o.Pod.SandboxID, o.Pod.NetNS, o.NetNS.String()},
	}
	add := func(attributes ...slog.Attr) { l.Attributes = append(l.Attributes, attributes...) }
	add(slog.String("event", l.Event), slog.String("pod", l.Pod), slog.String("sandbox", o.Pod.SandboxID), slog.String("mesh", o.Decision.Mesh),
		slog.String("reason", l.Reason), slog.String("why", o.Why), slog.Int64("began_unix_us", o.Began.UnixMicro()), slog.Int64("took_us", o.Took.Microseconds()))
	if o.Container != "" {
		add(slog.String("container", o.Container))
	}
	if o.NetNS.Ino != 0 {
		add(slog.String("netns", o.NetNS.String()), slog.String("backend", o.Backend), slog.Int("rules", o.Plan.Rules()), slog.Bool("changed", o.Changed))
	}
	if o.Err != nil {
		add(slog.String("stage", string(o.Stage)))
		if l.Message != o.Err.Error() {
			add(slog.String("error", o.Err.Error()))
		}
	}
	var bug *recovered.Panic
	if errors.As(o.Err, &bug) {
		add(slog.String("stack", bug.Stack))
	}
	for _, note := range o.Plan.Notes {
		add(slog.String("note", note))
	}
	return l
}
