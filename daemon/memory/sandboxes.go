// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package memory is what the daemon remembers of each sandbox. But for receipts it is lost with the process, and made again from
// the runtime's list and the kernel. Commit is the one place where a look changes it.
package memory

import (
	"cmp"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/lockdown"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/daemon/receipts"
	"github.com/meshnetd/meshnetd/rules"
)

// Sandbox is what the daemon remembers of one sandbox. It is never changed, only replaced.
type Sandbox struct {
	Pod      rules.Pod // with those of its containers that say more about it
	State    lifecycle.State
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

	Reviewed   bool          // the runtime has told with a container of it what follows
	Required   bool          // the pod requires meshnetd
	Key        string        // of the plan
	Earlier    bool          // the plan is one that was verified there by another configuration
	Network    rules.Network // that it was made for
	Turn       fair.Turn     // to be looked at again
	Node       rules.Node    // that decided
	Lack       lifecycle.Lack
	news       bool   // a container said more when it was taken over, and its rules do not follow yet
	Running    bool   // one of its containers had been started when it was taken over
	Found      bool   // that was so when this process came to know of it, or may have been when the node began to refuse powers
	Generation string // of its rules when they were last verified; "" where they changed meanwhile, or may without a new one
	Around     string // what else that depended on; "" for nothing
}

// Unsettled reports whether the auditor is to take the sandbox over once more.
func (s Sandbox) Unsettled() bool {
	return s.State == lifecycle.StatePending || s.Lack == lifecycle.Barred
}

// InNetNS returns an error where the sandbox's path has led a look to another namespace than before. A sandbox that was never
// entered accepts any.
func (s Sandbox) InNetNS(o outcome.Look) error {
	if s.NetNS != (netns.ID{}) && s.NetNS != o.NetNS {
		return fmt.Errorf("%s is another namespace now: the one of this sandbox %w", o.Pod.NetNS, netns.ErrGone)
	}
	return nil
}

// Gone reports whether the sandbox's namespace is not there any more.
func (s Sandbox) Gone() bool { return netns.Gone(s.Pod.NetNS, s.NetNS) }

// KeepsNetNS is InNetNS for when the runtime says that the sandbox is still there: it must have the namespace that it
// had, and no other one gets its rules.
func (s Sandbox) KeepsNetNS(o outcome.Look) error {
	if s.InNetNS(o) != nil {
		return fmt.Errorf("%s is %s, and this sandbox has %s, which a sandbox never changes: something else was put there. "+
			"Remove the pod, so that a new one is made", o.Pod.NetNS, o.NetNS, s.NetNS)
	}
	return nil
}

// Covers reports whether nothing has to be done for a container: its sandbox is settled, and the container says nothing
// new.
func (s Sandbox) Covers(pod rules.Pod, news []rules.Container) bool {
	return s.State.Settled() && s.Pod.NetNS == pod.NetNS && s.knows(news)
}

// knows reports whether everything that the containers say is known already.
func (s Sandbox) knows(news []rules.Container) bool {
	for _, c := range news {
		if !slices.ContainsFunc(s.Pod.Containers, func(k rules.Container) bool { return reflect.DeepEqual(k, c) }) {
			return false
		}
	}
	return true
}

// Spared reports whether containers of the sandbox may run that a decision of today refuses for what they are given: nobody did
// when it was enrolled.
func (s Sandbox) Spared(d rules.Decision) bool {
	return s.Found || s.Decision.Action == rules.Enrol && d.BarsMore(s.Decision)
}

// Facts are what is known before anything is looked at.
func (s Sandbox) Facts(by *policy.Policy, o outcome.Look, canStop bool) lifecycle.Facts {
	return lifecycle.Facts{
		Trigger: o.Trigger, State: s.State, Lack: s.Lack, Older: s.Earlier, Ran: s.Running,
		News: !s.knows(o.Pod.Containers) || s.news && o.Trigger == lifecycle.Takeover,
		Policy: lifecycle.Policy{
			Report:   by.CatchUp != config.CatchUpApply,
			Stop:     by.CatchUp == config.CatchUpStop && canStop,
			Leave:    by.OnDrift != config.DriftRepair,
			Replace:  by.ReplaceOutdated,
			Unheeded: o.Unheeded != "",
		},
	}
}

// Explain decides about the sandbox once more, by the configuration that decided before, or by today's where none has, and says how.
func (s Sandbox) Explain(today rules.Node) rules.Decision {
	node := s.Node
	if node.Meshes == nil { // nobody has decided yet
		node = today
	}
	d := node.Explain(s.Pod)
	if s.State == lifecycle.StateExempt && d.Reason == rules.ReasonLoosened || // it was there before, and set itself up
		s.State == lifecycle.StateSkipped && s.Pod.Said > 0 { // what decided was not kept
		account := d.Account
		d = s.Decision
		d.Account = account
	}
	return d
}

// Loosened says what the sandbox's containers took away of its rules.
func (s Sandbox) Loosened() string { return s.Node.Loosened(s.Pod, s.Decision, s.Network, s.Plan) }

// Drift is how often a sandbox's rules were found changed since this process knows it.
type Drift struct {
	Times int
	Last  time.Time
}

// Sandboxes is the daemon's memory. Its zero value knows none.
type Sandboxes struct {
	mu        sync.Mutex
	byID      map[string]Sandbox
	Receipts  receipts.Directory   // what of it outlives the process
	validator atomic.Pointer[bool] // whether the runtime's own one was on, as its last question showed
}

func (s *Sandboxes) Get(id string) (Sandbox, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, known := s.byID[id]
	return sb, known
}

// Update changes what is known of a sandbox, the zero Sandbox at first. Without an id, as for a namespace that a command
// names by its path, nothing is remembered.
func (s *Sandboxes) Update(id string, change func(*Sandbox)) {
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

// UpdateKnown is update for a sandbox that is known; any other one stays unknown.
func (s *Sandboxes) UpdateKnown(id string, change func(*Sandbox)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, known := s.byID[id]; known {
		sb := s.byID[id] // asked again, so that no room is made for what is not known
		change(&sb)
		s.byID[id] = sb
	}
}

func (s *Sandboxes) Forget(id string) { s.forgetIf(id, func(Sandbox) bool { return true }) }

// forgetIf forgets a sandbox if the condition still holds for it.
func (s *Sandboxes) forgetIf(id string, so func(Sandbox) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if so(s.byID[id]) {
		delete(s.byID, id)
	}
}

// ForgetAllBut forgets all sandboxes but these.
func (s *Sandboxes) ForgetAllBut(exist map[string]bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	maps.DeleteFunc(s.byID, func(id string, _ Sandbox) bool { return !exist[id] })
}

// All returns every sandbox, by namespace, name and id.
func (s *Sandboxes) All() []Sandbox {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.SortedFunc(maps.Values(s.byID), func(a, b Sandbox) int {
		return cmp.Or(cmp.Compare(a.Pod.Namespace, b.Pod.Namespace), cmp.Compare(a.Pod.Name, b.Pod.Name),
			cmp.Compare(a.Pod.SandboxID, b.Pod.SandboxID))
	})
}

// Next returns the sandbox whose turn it is, or "" and when the next turn comes: the zero time where there is no sandbox.
func (s *Sandboxes) Next(now time.Time, interval time.Duration) (id string, turn fair.Turn, comes time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for other, sb := range s.byID {
		due := sb.Turn.Due(interval)
		if due.After(now) {
			if comes.IsZero() || due.Before(comes) {
				comes = due
			}
		} else if id == "" || sb.Turn.Before(turn) {
			id, turn = other, sb.Turn
		}
	}
	return id, turn, comes
}

// EndTurn ends the sandbox's turn, and reports whether it is the first in a row that used up its time.
func (s *Sandboxes) EndTurn(id string, overran bool) (first bool) {
	s.UpdateKnown(id, func(sb *Sandbox) {
		first = overran && sb.Turn.Missed == 0
		sb.Turn = sb.Turn.After(overran, time.Now())
	})
	return first
}

func (s *Sandboxes) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byID)
}
