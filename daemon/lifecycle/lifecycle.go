// SPDX-License-Identifier: Apache-2.0

// Package lifecycle says what to do next with a sandbox: one table, whose first row that holds decides. It is pure, and
// its tests go through every combination of facts.
package lifecycle

import "slices"

// Trigger is what made the daemon look at a pod.
type Trigger string

// The triggers.
const (
	SandboxStarted     Trigger = "sandbox"     // before its first container
	ContainerCreated   Trigger = "container"   // before one of its containers
	ContainerValidated Trigger = "validate"    // the same, when every plugin has been asked
	ContainerStarted   Trigger = "start"       // before one of its containers runs, and after hooks of the runtime
	Takeover           Trigger = "synchronize" // it was there before the session with the runtime
	Audited            Trigger = "audit"
	ByHand             Trigger = "command"
)

// Triggers are all of them.
var Triggers = [...]Trigger{SandboxStarted, ContainerCreated, ContainerValidated, ContainerStarted, Takeover, Audited, ByHand}

// Waits reports whether the runtime waits for the answer.
func (t Trigger) Waits() bool {
	switch t {
	case SandboxStarted, ContainerCreated, ContainerValidated, ContainerStarted:
		return true
	case Takeover, Audited, ByHand:
	}
	return false
}

// State is what is known of a sandbox between two looks at it.
type State string

// The states.
const (
	StateNew         State = ""
	StateProtected   State = "protected"   // the kernel was read to hold its rules
	StateOutdated    State = "outdated"    // protected by other rules than today's: by an earlier configuration's, or by some that do the same or more
	StateUnproven    State = "unproven"    // what becomes of its packets cannot be told
	StateUnprotected State = "unprotected" // runs without its rules, and is left so
	StatePending     State = "pending"     // was there before meshnetd, and has not been looked at yet, or could not be
	StateFailing     State = "failing"     // could not be given its rules, or they could not be read; tried again with each audit
	StateExempt      State = "exempt"      // a container showed that the pod has no sidecar to redirect to, or sets itself up
	StateSkipped     State = "skipped"     // bears an injector's mark, and is left alone
)

// States are all of them but StateNew.
var States = [...]State{StateProtected, StateOutdated, StateUnproven, StateUnprotected, StatePending, StateFailing, StateExempt, StateSkipped}

// Enrolled reports whether a sandbox in this state is to hold rules, and is audited.
func (s State) Enrolled() bool {
	switch s {
	case StateProtected, StateOutdated, StateUnproven, StateFailing:
		return true
	case StateNew, StateUnprotected, StatePending, StateExempt, StateSkipped:
	}
	return false
}

// Settled reports whether nothing has to be done for a container that says nothing new.
func (s State) Settled() bool {
	switch s {
	case StateProtected, StateOutdated, StateExempt:
		return true
	case StateNew, StateUnproven, StateUnprotected, StatePending, StateFailing, StateSkipped:
	}
	return false
}

// Lack is why a sandbox is failing or unprotected.
type Lack uint8

// The causes.
const (
	NoLack    Lack = iota
	Unread         // the kernel could not be asked
	Unwritten      // rules were not written to their end: what it holds may be half of ours
	Lost           // somebody changed the rules, which was counted
	Late           // it ran before it had any
	Barred         // it runs although it must not
)

// Want is what the decision about the pod (package rules) asks for.
type Want uint8

// The wants.
const (
	Undecided   Want = iota
	WantNothing      // outside every mesh
	WantMarked       // the same, though it bears an injector's mark
	WantFormer       // only a mesh that is switched off would enrol it
	WantNone         // its containers show that it has no sidecar
	WantOwnInit      // its containers name an init container that writes its rules
	WantReject       // it must not run
	WantClash        // its proxy would have the ids of a container that was let through
	WantRules        // its plan
)

// Looks reports whether the namespace is looked into for it before a container runs.
func (w Want) Looks() bool {
	switch w {
	case WantNone, WantOwnInit, WantRules:
		return true
	case Undecided, WantNothing, WantMarked, WantFormer, WantReject, WantClash:
	}
	return false
}

// Holds is what a namespace was seen to hold, beside the plan that is remembered of an enrolled sandbox, and beside what is
// wanted for any other.
type Holds uint8

// What was seen.
const (
	Unseen   Holds = iota
	Whole          // exactly that
	Enough         // what does the same or takes more, or the rules that meshnetd recorded as verified here
	LessAway       // the same, and less only while nobody listens
	Unclear        // something of which nobody can tell
	Beside         // exactly that, beside something of which nobody can tell what it takes from it
	Less           // less, or nothing
	Foreign        // of WantOwnInit: rules of a mesh that meshnetd did not write
)

// Trouble is why the work could not be done.
type Trouble uint8

// The troubles.
const (
	NoTrouble  Trouble = iota
	NotRead            // the kernel was not read, or not in time
	NotWritten         // it was not written, or does not hold what was written, or not in time
	Stopped            // its sandbox was, as it had been asked
	NotStopped         // its sandbox could not be
	Hidden             // it was written, and nobody can tell what rules of others take from it
	Overrun            // the time was up for the first time in a row, and nobody waits
	OverTime           // the pod used up its time a short while ago
	Stopping           // the daemon ends
	Gone               // the namespace is not there any more
	HostNetNS          // the namespace is the host's
)

// Facts is everything that the choice depends on.
type Facts struct {
	Trigger Trigger
	State   State
	Lack    Lack
	Want    Want
	Holds   Holds
	Trouble Trouble
	News    bool // a container says more of its pod than was known
	Same    bool // the wanted plan is the remembered one
	Moved   bool // the pod's addresses changed
	Older   bool // the remembered plan is not of today's version or configuration
	Ran     bool // a container ran before the daemon saw the sandbox
	Policy
}

// Policy is what the configuration says, and what the runtime can do.
type Policy struct {
	Report   bool // pods that ran without rules are left so
	Stop     bool // and their sandboxes are stopped
	Leave    bool // changed rules are left so
	Replace  bool // rules of another version or configuration are replaced
	Unheeded bool // the runtime may start the container all the same
}

// Do is what the daemon does next.
type Do uint8

// What there is to do. After what learns the table is asked again, and after an act that failed.
const (
	Finish Do = iota // nothing more
	Recall           // learn: the remembered plan, for the addresses as they are now
	Decide           // learn: what is wanted
	Doubt            // learn: what is wanted if nothing is believed that containers say
	Look             // learn: what the namespace holds
	Write            // act: write the wanted plan, and read it back
	Clear            // act: take out what is ours, and read that it is gone
)

// learns reports whether the table is asked again.
func (d Do) learns() bool {
	switch d {
	case Recall, Decide, Doubt, Look:
		return true
	case Finish, Write, Clear:
	}
	return false
}

// Admits reports whether a container of the pod may run, as far as its sandbox's rules go.
func (r Result) Admits() bool {
	switch r {
	case Protected, Unproven:
		return true
	case Open, Skipped, Refused, Failed, Unprotected:
	}
	return false
}

// Result is how a pod ended.
type Result string

// The ends.
const (
	Open        Result = ""            // not yet: the auditor comes back
	Protected   Result = "protected"   // belongs to the mesh, and the kernel was read to hold its rules
	Skipped     Result = "skipped"     // not to be touched
	Refused     Result = "refused"     // must not run as it is: its author or the operator has to change something
	Failed      Result = "failed"      // must not run now: the next try may work
	Unproven    Result = "unproven"    // belongs to the mesh, and nobody can tell what its rules do; they stay so
	Unprotected Result = "unprotected" // runs without its rules, and the configuration says to leave it so
)

// Event is a word that scripts rely on.
type Event string

// The events of this table; Quiet is none.
const (
	Quiet            Event = ""
	EventProtected   Event = "pod_protected"   // its rules were read from the kernel
	EventRefined     Event = "pod_refined"     // one of its containers said more about it, and its rules were replaced
	EventReaddressed Event = "pod_readdressed" // its addresses are other ones, and so are its rules, or what goes around them
	EventLate        Event = "pod_late"        // it ran without its rules; it has them now
	EventOutdated    Event = "pod_outdated"    // what it has does what its rules do, in another shape, and stays
	EventUnproven    Event = "pod_unproven"    // nobody can tell what becomes of its packets
	EventSkipped     Event = "pod_skipped"     // not touched
	EventBlocked     Event = "pod_blocked"     // its sandbox or one of its containers was refused
	EventUnprotected Event = "pod_unprotected" // it exists, belongs to the mesh, and does not have its rules
	EventStopped     Event = "pod_stopped"     // it ran without its rules, and its sandbox was stopped for that
	EventDrift       Event = "drift_found"     // its rules were changed after they had been verified
	EventRepaired    Event = "drift_repaired"  // it has its rules again
)

// Step is the whole consequence.
type Step struct {
	Do     Do
	First  Event // recorded before anything is done
	Drift  bool  // changed rules are counted, before anything is done
	Then   State // StateNew: forgotten
	Lack   Lack
	Keep   bool // the memory stays as it is
	Stop   bool // the sandbox is to be stopped, in the background
	Result Result
	Event  Event
}

// Row is one line of the table.
type Row struct {
	Why  string
	When func(Facts) bool
	Step func(Facts) Step
}

// Shell does what the table says.
type Shell interface {
	// Do does it, and puts what it saw and what went wrong into the facts.
	Do(Do, *Facts)
	// Say records an event that comes before the step, and counts drift.
	Say(Event, bool)
	// Commit changes the memory and records the event.
	Commit(Facts, Step, Row)
}

// Run goes by the table until it ends, and returns the last step.
func Run(f Facts, shell Shell) Step { return run(Table[:], f, shell) }

func run(table []Row, f Facts, shell Shell) Step {
	for {
		row := next(table, f)
		step := row.Step(f)
		if step.First != Quiet || step.Drift {
			shell.Say(step.First, step.Drift)
		}
		if step.Do != Finish {
			shell.Do(step.Do, &f)
		}
		if !step.Do.learns() && f.Trouble == NoTrouble || step.Do == Finish {
			shell.Commit(f, step, row)
			return step
		}
		switch {
		case step.Drift:
			f.Lack = Lost // that was counted, whatever went wrong then
		case step.Do != Look:
			f.Holds = Unseen // of what was wanted before
		}
	}
}

// next returns the first row that holds: the last one always does.
func next(table []Row, f Facts) Row {
	i := slices.IndexFunc(table, func(row Row) bool { return row.When(f) })
	return table[i]
}
