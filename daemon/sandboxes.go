// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// Sandbox is what the daemon remembers of one sandbox. It is never changed, only replaced.
type Sandbox struct {
	Pod      rules.Pod // with those of its containers that say more about it
	State    State
	Decision rules.Decision
	Plan     rules.Plan
	NetNS    netns.ID
	Since    time.Time
	Took     time.Duration // of the work that led to this state
	Detail   string
	Admitted []rules.Container // the containers that were let through, with their ids where they are known
	Backend  string            // what wrote its rules
	Drift    Drift
	Why      string             // the last decision about it was made so
	Changes  []rules.Adjustment // what other plugins changed of its last containers
	Beside   []string           // what tables of others in its namespace do beside its rules
	Counted  []lockdown.Counted // by its lockdowns

	reviewed   bool          // the runtime has told with a container of it what follows
	required   bool          // the pod requires meshnetd
	key        string        // of the plan
	earlier    bool          // the plan is one that was verified there by another configuration
	network    rules.Network // that it was made for
	turn       fair.Turn     // to be looked at again
	node       rules.Node    // that decided
	lack       lifecycle.Lack
	news       bool   // a container said more when it was taken over, and its rules do not follow yet
	running    bool   // one of its containers had been started when it was taken over
	generation string // of its rules when they were last verified; "" where they changed meanwhile
}

// unsettled reports whether the auditor is to take the sandbox over once more.
func (s Sandbox) unsettled() bool { return s.State == StatePending || s.lack == lifecycle.Barred }

// Key returns the key of the plan.
func (s Sandbox) Key() string { return s.key }

// Network returns what the plan was made for.
func (s Sandbox) Network() rules.Network { return s.network }

// inNetNS returns an error where the sandbox's path has led a look to another namespace than before. A sandbox that was never
// entered accepts any.
func (s Sandbox) inNetNS(o outcome.Look) error {
	if s.NetNS != (netns.ID{}) && s.NetNS != o.NetNS {
		return fmt.Errorf("%s is another namespace now: the one of this sandbox %w", o.Pod.NetNS, netns.ErrGone)
	}
	return nil
}

// gone reports whether the sandbox's namespace is not there any more.
func (s Sandbox) gone() bool { return netns.Gone(s.Pod.NetNS, s.NetNS) }

// keepsNetNS is inNetNS for when the runtime says that the sandbox is still there: it must have the namespace that it
// had, and no other one gets its rules.
func (s Sandbox) keepsNetNS(o outcome.Look) error {
	if s.inNetNS(o) != nil {
		return fmt.Errorf("%s is %s, and this sandbox has %s, which a sandbox never changes: something else was put there. "+
			"Remove the pod, so that a new one is made", o.Pod.NetNS, o.NetNS, s.NetNS)
	}
	return nil
}

// Drift is how often a sandbox's rules were found changed since this process knows it.
type Drift struct {
	Times int
	Last  time.Time
}

// sandboxes is the daemon's memory. But for receipts it is lost with the process, and made again from Synchronize and the
// kernel.
type sandboxes struct {
	mu       sync.Mutex
	byID     map[string]Sandbox
	receipts receipts.Directory // what of it outlives the process
}

func (s *sandboxes) get(id string) (Sandbox, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, known := s.byID[id]
	return sb, known
}

// update changes what is known of a sandbox, the zero Sandbox at first. Without an id, as for a namespace that a command
// names by its path, nothing is remembered.
func (s *sandboxes) update(id string, change func(*Sandbox)) {
	if id == "" {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.byID == nil {
		s.byID = map[string]Sandbox{}
	}
	sb := s.byID[id]
	change(&sb)
	s.byID[id] = sb
}

// updateKnown is update for a sandbox that is known; any other one stays unknown.
func (s *sandboxes) updateKnown(id string, change func(*Sandbox)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb, known := s.byID[id]; known {
		change(&sb)
		s.byID[id] = sb
	}
}

func (s *sandboxes) forget(id string) { s.forgetIf(id, func(Sandbox) bool { return true }) }

// forgetIf forgets a sandbox if the condition still holds for it.
func (s *sandboxes) forgetIf(id string, so func(Sandbox) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if so(s.byID[id]) {
		delete(s.byID, id)
	}
}

// forgetAllBut forgets all sandboxes but these.
func (s *sandboxes) forgetAllBut(exist map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byID, func(id string, _ Sandbox) bool { return !exist[id] })
}

// all returns every sandbox, by namespace, name and id.
func (s *sandboxes) all() []Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.byID), func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(a.Pod.Namespace, b.Pod.Namespace), cmp.Compare(a.Pod.Name, b.Pod.Name),
			cmp.Compare(a.Pod.SandboxID, b.Pod.SandboxID))
	})
}

// next returns the sandbox whose turn it is, or "" and when the next turn comes: the zero time where there is no sandbox.
func (s *sandboxes) next(now time.Time, interval time.Duration) (id string, turn fair.Turn, comes time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, sb := range s.byID {
		due := sb.turn.Due(interval)
		if due.After(now) {
			if comes.IsZero() || due.Before(comes) {
				comes = due
			}
		} else if id == "" || sb.turn.Before(turn) {
			id, turn = other, sb.turn
		}
	}
	return id, turn, comes
}

// endTurn ends the sandbox's turn, and reports whether it is the first in a row that used up its time.
func (s *sandboxes) endTurn(id string, overran bool) (first bool) {
	s.updateKnown(id, func(sb *Sandbox) {
		first = overran && sb.turn.Missed == 0
		sb.turn = sb.turn.After(overran, time.Now())
	})
	return first
}

func (s *sandboxes) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
