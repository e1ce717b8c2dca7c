// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

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

// totals are counts that go on when pods end.
type totals struct {
	mu  sync.Mutex
	all map[Total]uint64
}

// mostTotals bounds what is remembered: whoever makes namespaces chooses how many there are.
const mostTotals = 2000

func (t *totals) add(of Total, packets uint64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.all == nil {
		t.all = map[Total]uint64{}
	}
	if _, known := t.all[of]; !known && len(t.all) >= mostTotals {
		of.Namespace = "(others)"
	}
	t.all[of] += packets
}

// Totals returns how many packets of the pods of each namespace the lockdowns have counted since the start.
func (e *Enforcer) Totals() map[Total]uint64 {
	e.totals.mu.Lock()
	defer e.totals.mu.Unlock()
	return maps.Clone(e.totals.all)
}

// count reads what the sandbox's lockdowns have counted. It takes no lock, so that nobody waits, and that it cannot be read is
// said by who compares the rules.
func (e *Enforcer) count(ctx context.Context, known Sandbox, o Outcome) {
	if !known.Plan.LocksDown() {
		return
	}
	ns, err := e.kernel.Open(known.Pod.NetNS)
	if err != nil {
		return
	}
	defer ns.Close()
	var now []Counted
	var more []uint64
	var seen []rules.Seen
	var untold error // why it is not known where the packets went
	err = ns.Do(func(in kernel.Inside) error {
		counts, err := in.Rules.Counts(ctx)
		if err != nil {
			return err
		}
		now, more = counting(known.Counted, counts)
		if letGo(now, more) {
			seen, untold = in.Connections.Seen(mostRead)
		}
		return nil
	})
	if err != nil || ns.ID() != known.NetNS {
		return
	}
	e.sandboxes.updateKnown(known.Pod.SandboxID, func(sb *Sandbox) { sb.Counted = now })
	e.seen.add(known.Pod, seen)
	var first []string
	for i, c := range now {
		if more[i] == 0 {
			continue
		}
		e.totals.add(Total{known.Pod.Namespace, c.Class, c.Closed}, more[i])
		if c.Packets == more[i] && c.Class != rules.ClassInvalid {
			first = append(first, c.String()+c.example(seen))
		}
	}
	if untold != nil {
		first = append(first, "where they went is not known: "+untold.Error())
	}
	if len(first) > 0 {
		e.notice(o, EventLockdown, "the first packets of the pod that a lockdown is for: "+strings.Join(first, ", "))
	}
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
