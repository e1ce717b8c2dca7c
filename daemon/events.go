// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

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
	EventContradicted = "spec_contradicted" // a container is created otherwise than its pod's specification says
)

// Event names the outcome.
func (o Outcome) Event() string {
	if o.notice.event != "" {
		return o.notice.event
	}
	return string(o.Said)
}

// queued is how many outcomes may wait to be written: more than a node has pods.
const queued = 1024

// Log returns a recorder that writes one line for each outcome: pods outside the mesh at debug level, so
// that they cost no write, and a failure that comes again and again at growing intervals. The lines are
// written in the background: a reader of the log that stalls must not keep the runtime from its answer, or the
// pod would run without its rules. What does not fit is counted instead, and lost is called. Flush, called once,
// waits until what was recorded before it is written; work that is still running then may record more, which is
// lost.
func Log(log *slog.Logger, lost func()) (record func(Outcome), flush func()) {
	queue := make(chan Outcome, queued)
	var dropped atomic.Int64
	stop, done := make(chan struct{}), make(chan struct{})
	var repeats repeats
	next := func(o Outcome) {
		if left, news := repeats.news(o, o.Began.Add(o.Took)); news {
			write(log, o, left)
		}
		if n := dropped.Swap(0); n > 0 {
			log.Error("the log is read too slowly: outcomes of pods are not in it", "event", "log_dropped", "outcomes", n)
		}
	}
	go func() {
		defer close(done)
		for {
			select {
			case o := <-queue:
				next(o)
				continue
			case <-stop:
			}
			for range len(queue) {
				next(<-queue)
			}
			return
		}
	}()
	record = func(o Outcome) {
		if !log.Enabled(context.Background(), o.level()) {
			return
		}
		select {
		case queue <- o:
		default:
			dropped.Add(1)
			lost()
		}
	}
	return record, func() { close(stop); <-done }
}

func (o Outcome) level() slog.Level {
	switch event := o.Event(); {
	case event == EventSkipped && !o.Decision.Marked:
		return slog.LevelDebug
	case event == EventReaddressed && o.Plan.WithoutIPv6 == rules.IPv6Mesh:
		return slog.LevelWarn
	case event == EventLoose || event == EventNeighbour || event == EventUnproven || event == EventBypass || event == EventContradicted:
		return slog.LevelWarn
	case event == EventLate || event == EventImpostor || event == EventRepaired || event == EventStopped:
		return slog.LevelWarn
	case o.Err != nil:
		return slog.LevelError
	}
	return slog.LevelInfo
}

// message says in a sentence what the event alone does not.
func (o Outcome) message() string {
	switch o.Event() {
	case EventLoose, EventNeighbour, EventBypass, EventContradicted, EventImpostor:
		return o.notice.text
	case EventLate:
		return "the pod ran without its rules when meshnetd took it over; it has them now. " +
			"Connections that were open before stay as they are"
	case EventOutdated:
		return o.outdated() + ". It gets new ones when it is started anew, or with replace_outdated = true"
	case EventStopped:
		return "the pod ran without its rules; its sandbox was stopped so that a new one is made (catch_up)"
	case EventReaddressed:
		if o.Plan.WithoutIPv6 == rules.IPv6Mesh {
			return "the pod got an IPv6 address, and its IPv6 goes around the mesh"
		}
		return "the pod has other addresses than before, and the rules for them"
	case EventRepaired:
		if o.Trigger == ContainerStarted {
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

// outdated says of rules that stay how they differ from those that the pod would get today.
func (o Outcome) outdated() string {
	what := "the pod keeps rules that protect it and are not those of its plan"
	if o.earlier {
		what = "the pod keeps the whole rules of another version or configuration of meshnetd"
	}
	if said := o.said(); said != "" {
		what += "; compared with today's: " + said
	}
	return what
}

// write writes the line of an outcome. left is how many like it were left out since the last line.
func write(log *slog.Logger, o Outcome, left int) {
	attributes := []slog.Attr{
		slog.String("event", o.Event()),
		slog.String("pod", o.Pod.Namespace+"/"+o.Pod.Name),
		slog.String("sandbox", o.Pod.SandboxID),
		slog.String("mesh", o.Decision.Mesh),
		slog.String("reason", string(o.Decision.Reason)),
		slog.String("why", o.Why),
		slog.Int64("began_unix_us", o.Began.UnixMicro()),
		slog.Int64("took_us", o.Took.Microseconds()),
	}
	if o.Container != "" {
		attributes = append(attributes, slog.String("container", o.Container))
	}
	if o.NetNS.Ino != 0 {
		attributes = append(attributes, slog.String("netns", o.NetNS.String()), slog.String("backend", o.Backend),
			slog.Int("rules", o.Plan.Rules()), slog.Bool("changed", o.Changed))
	}
	if o.Err != nil {
		attributes = append(attributes, slog.String("stage", string(o.Stage)))
	}
	if message := o.message(); o.Err != nil && message != o.Err.Error() {
		attributes = append(attributes, slog.String("error", o.Err.Error()))
	}
	if left > 0 {
		attributes = append(attributes, slog.Int("repeated", left))
	}
	var bug *recovered.Panic
	if errors.As(o.Err, &bug) {
		attributes = append(attributes, slog.String("stack", bug.Stack))
	}
	for _, note := range o.Plan.Notes {
		attributes = append(attributes, slog.String("note", note))
	}
	log.LogAttrs(context.Background(), o.level(), o.message(), attributes...)
}
