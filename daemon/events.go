// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/rules"
)

// The events of pods. Scripts rely on these words.
const (
	EventProtected   = "pod_protected"   // its rules were read from the kernel before its first container
	EventRefined     = "pod_refined"     // one of its containers said more about it, and its rules were replaced
	EventReaddressed = "pod_readdressed" // its addresses are other ones, and so are its rules, or what goes around them
	EventLate        = "pod_late"        // it ran without its rules; it has them now
	EventOutdated    = "pod_outdated"    // it has other rules than today's, which protect it, and keeps them
	EventUnproven    = "pod_unproven"    // nobody can tell what becomes of its packets; it stays so until its next container
	EventSkipped     = "pod_skipped"     // not touched
	EventBlocked     = "pod_blocked"     // its sandbox or one of its containers was refused
	EventUnprotected = "pod_unprotected" // it exists, belongs to the mesh, and does not have its rules
	EventStopped     = "pod_stopped"     // it ran without its rules, and its sandbox was stopped for that
	EventImpostor    = "proxy_identity"  // a container runs as the proxy without being it: it goes around the mesh
	EventDrift       = "drift_found"     // its rules were changed after they had been verified
	EventRepaired    = "drift_repaired"  // it has its rules again
	EventLoose       = "pod_not_held"    // nothing keeps its containers back while meshnetd is away
	EventNeighbour   = "neighbour"       // another plugin changed of a container what can lead around its rules

	EventBypass       = "pod_can_bypass"    // a container of it is given what leads around its rules
	EventContradicted = "spec_contradicted" // a container is created otherwise than its pod's specification says
)

// Event names the outcome.
func (o Outcome) Event() string {
	if o.notice.event != "" {
		return o.notice.event
	}
	switch o.Result {
	case Skipped:
		if o.Changed {
			return EventRefined
		}
		return EventSkipped
	case Protected:
		return o.protectedEvent()
	case Unproven:
		return EventUnproven
	case Unprotected:
		switch {
		case o.Stopped:
			return EventStopped
		case o.Trigger == Audited || o.Drifted:
			return EventDrift
		}
		return EventUnprotected
	case Refused, Failed:
	}
	if o.Trigger == Takeover || o.Trigger == Audited || o.Trigger == ByHand || o.Unheeded != "" { // it runs all the same
		return EventUnprotected
	}
	return EventBlocked
}

func (o Outcome) protectedEvent() string {
	switch {
	case o.Impostor != "":
		return EventImpostor
	case o.Changed && o.Running:
		return EventLate
	case o.Readdressed && !o.Drifted:
		return EventReaddressed
	case o.Outdated && !o.Changed:
		return EventOutdated
	case o.Trigger == Audited || o.Drifted:
		return EventRepaired
	case o.Trigger == ContainerCreated && o.WasEnrolled && o.Changed && o.Refined:
		return EventRefined
	case (o.Trigger == ContainerCreated || o.Trigger == ContainerStarted) && o.WasEnrolled && o.Changed:
		return EventRepaired
	}
	return EventProtected
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

// gone reports whether an existing pod ended while it was being taken over, which is no news.
func (o Outcome) gone() bool { return o.Trigger == Takeover && errors.Is(o.Err, netns.ErrGone) }

func (o Outcome) level() slog.Level {
	switch event := o.Event(); {
	case event == EventSkipped && !o.Decision.Marked || o.gone():
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
	case EventLoose, EventNeighbour, EventBypass, EventContradicted:
		return o.notice.text
	case EventLate:
		return "the pod ran without its rules when meshnetd took it over; it has them now. " +
			"Connections that were open before stay as they are"
	case EventOutdated:
		return o.outdated() + ". It gets new ones when it is started anew, or with replace_outdated = true"
	case EventStopped:
		return "the pod ran without its rules; its sandbox was stopped so that a new one is made (catch_up)"
	case EventImpostor:
		return o.Impostor
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
	if o.judged.said != "" {
		what += "; compared with today's: " + o.judged.said
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
