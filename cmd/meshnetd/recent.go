// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"slices"
	"time"

	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/status"
)

// mostRecent bounds what is remembered of outcomes.
const mostRecent = 50

// recent is the last outcomes of pods of the mesh, oldest first.
type recent struct {
	ring [mostRecent]status.Event
	seen int // in all
}

func (r *recent) add(o outcome.Outcome) {
	event := o.Event()
	if event == outcome.EventSkipped {
		return
	}
	message := o.Decision.Detail
	switch {
	case o.Err != nil:
		message = o.Err.Error()
	case event == outcome.EventImpostor:
		message = o.Impostor
	}
	r.ring[r.seen%mostRecent] = status.Event{Time: time.Now(), Event: event, Namespace: o.Pod.Namespace, Name: o.Pod.Name,
		Sandbox: o.Pod.SandboxID, Mesh: o.Decision.Mesh, Reason: string(o.Decision.Reason), Message: message}
	r.seen++
}

func (r *recent) all() []status.Event {
	if r.seen <= mostRecent {
		return slices.Clone(r.ring[:r.seen])
	}
	first := r.seen % mostRecent
	return slices.Concat(r.ring[first:], r.ring[:first])
}
