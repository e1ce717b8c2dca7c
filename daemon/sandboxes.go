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
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// State is what is known of a sandbox between two looks at it.
type State string

// The states. A sandbox that is in none of them is a new one.
const (
	StateProtected   State = "protected"
	StateOutdated    State = "outdated"    // the rules are whole, and of another version or configuration
	StateUnprotected State = "unprotected" // runs without its rules, and is left so
	StatePending     State = "pending"     // was there before meshnetd, and has not been looked at yet, or could not be
	StateFailing     State = "failing"     // could not be given its rules, or they could not be read; tried again with each audit
	StateExempt      State = "exempt"      // a container showed that the pod has no sidecar to redirect to, or sets itself up
	StateSkipped     State = "skipped"     // bears an injector\'s mark, and is left alone
)

// States are all of them.
var States = [...]State{StateProtected, StateOutdated, StateUnprotected, StatePending, StateFailing, StateExempt, StateSkipped}

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

	key        string        // of the plan
	network    rules.Network // that it was made for
	turn       fair.Turn     // to be looked at again
	node       rules.Node    // that decided
	running    bool          // one of its containers had been started when it was taken over
	generation string        // of its rules when they were last verified; "" where they changed meanwhile
}

// refused reports whether the sandbox ran when it was taken over, and must not.
func (s Sandbox) refused() bool {
	return s.State == StateUnprotected && s.Decision.Action == rules.Reject
}

// unsettled reports whether the auditor is to take the sandbox over once more.
func (s Sandbox) unsettled() bool { return s.State == StatePending || s.refused() }

// Key returns the key of the plan.
func (s Sandbox) Key() string { return s.key }

// Network returns what the plan was made for.
func (s Sandbox) Network() rules.Network { return s.network }

// in returns an error where the path of the sandbox leads to another namespace than it did. One that was never
// entered has no other.
func (s Sandbox) in(ns entered) error {
	if s.NetNS != (netns.ID{}) && s.NetNS != ns.ID() {
		return fmt.Errorf("%s is another namespace now: the one of this sandbox %w", ns.Path(), netns.ErrGone)
	}
	return nil
}

// gone reports whether the sandbox's namespace is not there any more.
func (s Sandbox) gone() bool { return netns.Gone(s.Pod.NetNS, s.NetNS) }

// keeps is in for those who are told by the runtime that the sandbox is still there: it has the namespace that it had,
// and no other one gets its rules.
func (s Sandbox) keeps(ns entered) error {
	if s.in(ns) != nil {
		return fmt.Errorf("%s is %s, and this sandbox has %s, which a sandbox never changes: something else was put there. "+
			"Remove the pod, so that a new one is made", ns.Path(), ns.ID(), s.NetNS)
	}
	return nil
}

// Drift is how often a sandbox's rules were found changed since this process knows it.
type Drift struct {
	Times int
	Last  time.Time
}

// FoundDrift reports whether the outcome is news of changed rules. What the auditor or a takeover repairs was recorded
// when it was found; the gate and a command repair at once.
func (o Outcome) FoundDrift() bool {
	event := o.Event()
	return event == EventDrift || event == EventRepaired && (o.Trigger == ContainerCreated || o.Trigger == ByHand)
}

// counting is a recorder that counts drift first.
func (s *sandboxes) counting(record func(Outcome)) func(Outcome) {
	return func(o Outcome) {
		if o.FoundDrift() {
			s.amend(o.Pod.SandboxID, func(sb *Sandbox) { sb.Drift = Drift{sb.Drift.Times + 1, time.Now()} })
		}
		record(o)
	}
}

// enrolled reports whether the sandbox is to hold rules.
func (s Sandbox) enrolled() bool {
	return s.State == StateProtected || s.State == StateOutdated || s.State == StateFailing
}

// sandboxes is the daemon's memory. It is lost with the process, and made again from Synchronize and the
// kernel.
type sandboxes struct {
	mu       sync.Mutex
	byID     map[string]Sandbox
	verified map[evidence]bool
}

// evidence is a fingerprint that was seen on a namespace that held a plan.
type evidence struct{ plan, fingerprint string }

// mostEvidence bounds the memory for it; one plan of a node has one fingerprint as a rule.
const mostEvidence = 4096

func (s *sandboxes) get(id string) (Sandbox, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sb, known := s.byID[id]
	return sb, known
}

// put changes what is known of a sandbox, nothing at first. What has no id is nobody's: a namespace that is
// named by hand.
func (s *sandboxes) put(id string, change func(*Sandbox)) {
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

// amend is put for a sandbox that is known; another one stays unknown.
func (s *sandboxes) amend(id string, change func(*Sandbox)) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb, known := s.byID[id]; known {
		change(&sb)
		s.byID[id] = sb
	}
}

func (s *sandboxes) forget(id string) { s.forgetIf(id, func(Sandbox) bool { return true }) }

// forgetIf forgets a sandbox of which something is still so.
func (s *sandboxes) forgetIf(id string, so func(Sandbox) bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if so(s.byID[id]) {
		delete(s.byID, id)
	}
}

// keep forgets all sandboxes but these.
func (s *sandboxes) keep(pods []rules.Pod) {
	exist := make(map[string]bool, len(pods))
	for _, pod := range pods {
		exist[pod.SandboxID] = true
	}
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

// next returns the sandbox whose turn it is, or "" and when the next one's comes, or the zero time where there is none.
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

// looked ends the sandbox's turn, and reports whether it is the first one in a row that used up its time.
func (s *sandboxes) looked(id string, overran bool) (first bool) {
	s.amend(id, func(sb *Sandbox) {
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

// learn remembers that a namespace with this fingerprint held the plan.
func (s *sandboxes) learn(e evidence) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.verified == nil || len(s.verified) >= mostEvidence {
		s.verified = map[evidence]bool{}
	}
	s.verified[e] = true
}

func (s *sandboxes) proves(e evidence) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.verified[e]
}

// users keeps of containers as whom they run, and what shows whether they are the proxy.
func users(containers ...rules.Container) []rules.Container {
	var all []rules.Container
	for _, c := range containers {
		if c.UID != nil || c.GID != nil {
			all = append(all, c.Identity())
		}
	}
	return all
}

// refining returns the containers that say more about their pod, with what they can say.
func (e *Enforcer) refining(containers []rules.Container) []rules.Container {
	return saying(containers, e.policy.Load().Node.Refines)
}

// saying returns the containers of those names, with what they can say about their pod.
func saying(containers []rules.Container, named func(string) bool) []rules.Container {
	var all []rules.Container
	for _, c := range containers {
		if named(c.Name) {
			all = append(all, rules.Container{Name: c.Name, Args: c.Args, Env: c.Env, UID: c.UID, GID: c.GID})
		}
	}
	return all
}

// overlay adds containers to those known already; a later one of the same name replaces an earlier one.
func overlay(known, news []rules.Container) []rules.Container {
	all := slices.Clone(known)
	for _, c := range news {
		if i := slices.IndexFunc(all, func(k rules.Container) bool { return k.Name == c.Name }); i >= 0 {
			all[i] = c
		} else {
			all = append(all, c)
		}
	}
	return all
}
