// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package lockdown keeps what the lockdowns of pods have counted: of each pod, of each namespace, and which connections of it
// were let go. Tenants choose how much there is to count, so everything here is bounded.
package lockdown

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/rules"
)

// Counted is what the lockdowns of a pod have counted of its packets.
type Counted struct {
	Class   rules.Class
	Closed  bool   // the packets went nowhere; else they were counted only
	Packets uint64 // since the daemon knows the pod

	read uint64 // the kernel's counters, which begin anew with new rules
}

// Total is which packets of a namespace's pods are counted together.
type Total struct {
	Namespace string
	Class     rules.Class
	Closed    bool
}

// mostTotals bounds what is remembered: whoever makes namespaces chooses how many there are.
const mostTotals = 2000

// Counts are those of all pods of the node, which go on when pods end. The zero value has counted nothing.
type Counts struct {
	mu     sync.Mutex
	totals map[Total]uint64
	seen   sightings
}

// Totals returns how many packets of the pods of each namespace were counted since the start.
func (c *Counts) Totals() map[Total]uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return maps.Clone(c.totals)
}

func (c *Counts) add(of Total, packets uint64) {
	if c.totals == nil {
		c.totals = map[Total]uint64{}
	}
	if _, known := c.totals[of]; !known && len(c.totals) >= mostTotals {
		of.Namespace = "(others)"
	}
	c.totals[of] += packets
}

// Reading is what a pod's lockdowns have counted by now.
type Reading struct {
	Counted []Counted
	more    []uint64     // since the last reading
	seen    []rules.Seen // of what was let go since then
	untold  error        // why it is not known where those packets went
}

// Read reads it in the pod's namespace.
func Read(ctx context.Context, in kernel.Inside, before []Counted) (r Reading, err error) {
	counts, err := in.Rules.Counts(ctx, in.NS)
	if err != nil {
		return r, err
	}
	if r.Counted, r.more = counting(before, counts); r.letGo() {
		r.seen, r.untold = in.Connections.Seen(mostRead)
	}
	return r, nil
}

// letGo reports whether more packets were counted that were not closed.
func (r Reading) letGo() bool {
	for i, c := range r.Counted {
		if r.more[i] > 0 && !c.Closed {
			return true
		}
	}
	return false
}

// Add counts what a pod's lockdowns have counted anew, and says which classes of packets are the pod's first; "" is none.
func (c *Counts) Add(pod rules.Pod, r Reading) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.seen.add(pod, r.seen)
	var first []string
	for i, counted := range r.Counted {
		if r.more[i] == 0 {
			continue
		}
		c.add(Total{pod.Namespace, counted.Class, counted.Closed}, r.more[i])
		if counted.Packets == r.more[i] && counted.Class != rules.ClassInvalid {
			first = append(first, counted.String()+counted.example(r.seen))
		}
	}
	if r.untold != nil {
		first = append(first, "where they went is not known: "+r.untold.Error())
	}
	if len(first) == 0 {
		return ""
	}
	return "the first packets of the pod that a lockdown is for: " + strings.Join(first, ", ")
}

// counting returns what was counted by now, by class, and how much of each is new.
func counting(before []Counted, counts map[string]uint64) (now []Counted, more []uint64) {
	now = slices.Clone(before)
	read := map[Counted]uint64{}
	for counter, n := range counts {
		if class, closed, found := rules.LockdownCounter(counter); found {
			read[Counted{Class: class, Closed: closed}] += n
		}
	}
	for _, closed := range []bool{false, true} {
		for _, class := range rules.Classes() {
			key := Counted{Class: class, Closed: closed}
			if n := read[key]; n > 0 && !slices.ContainsFunc(now, key.same) {
				now = append(now, key)
			}
		}
	}
	for i := range now {
		c := &now[i]
		n := read[Counted{Class: c.Class, Closed: c.Closed}]
		delta := n
		if n >= c.read {
			delta -= c.read
		}
		c.read, c.Packets = n, c.Packets+delta
		more = append(more, delta)
	}
	return now, more
}

func (c Counted) same(other Counted) bool { return c.Class == other.Class && c.Closed == other.Closed }

// String says how many packets of which class there were, and what became of them.
func (c Counted) String() string {
	fate := "counted"
	if c.Closed {
		fate = "closed"
	}
	return fmt.Sprintf("%s %s %d", fate, c.Class, c.Packets)
}
