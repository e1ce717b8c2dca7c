// SPDX-License-Identifier: Apache-2.0

package lifecycle

import "slices"

// Table is what the daemon does with sandboxes.
var Table = [...]Row{
	// The work could not be done.
	{"the daemon ends, and its successor is asked again", trouble(Stopping), always(Step{Keep: true, Result: Failed})},
	{"its sandbox ended", func(f Facts) bool { return f.Trouble == Gone && f.by(Takeover, Audited) },
		always(Step{Result: Failed})},
	{"it shares the node's network", func(f Facts) bool { return f.Trouble == HostNetNS && !f.State.entered() }, skip(Step{})},
	{"its time was up: the auditor comes back to it, with more of it", func(f Facts) bool { return f.Trouble == Overrun && f.by(Takeover, Audited) },
		always(Step{Keep: true})},
	{"it used up its time a short while ago", trouble(OverTime), reject(Step{Keep: true, Result: Refused})},
	{"it ran without its rules, and was stopped for that", trouble(Stopped), always(Step{Result: Unprotected, Event: EventStopped})},
	{"it ran without its rules, and could not be stopped", trouble(NotStopped),
		always(Step{Keep: true, Result: Unprotected, Event: EventUnprotected})},
	{"it has its rules, and nobody can tell what rules of others take from them", trouble(Hidden),
		always(Step{Then: StateUnproven, Result: Unproven, Event: EventUnproven})},
	{"its rules could not be read or written", func(f Facts) bool { return f.Trouble != NoTrouble && f.State.Enrolled() },
		func(f Facts) Step {
			return reject(Step{Then: StateFailing, Lack: f.lackAfter(), Result: Failed})(f)
		}},
	{"it could not be looked at", func(f Facts) bool { return f.Trouble != NoTrouble }, reject(Step{Keep: true, Result: Failed})},

	// What is wanted.
	{"it is not audited any more", func(f Facts) bool { return f.by(Audited) && !f.State.Enrolled() }, always(Step{Keep: true})},
	{"what enrolled it decides, until a container says more or somebody asks", func(f Facts) bool {
		anew := f.News || f.by(ByHand) || f.replaces() && f.Older
		return f.Want == Undecided && f.State.Enrolled() && !anew
	}, always(Step{Do: Recall})},
	{"it is to be decided", wanted(Undecided), always(Step{Do: Decide})},
	{"a running pod does not lose its rules by a new configuration", func(f Facts) bool {
		return f.State.Enrolled() && f.Want != WantRules && (f.by(ByHand) || f.by(Takeover) && f.Want != WantNone)
	}, always(Step{Do: Recall})},
	{"outside the mesh", wanted(WantNothing), func(f Facts) Step { return skip(Step{Keep: !f.by(Takeover)})(f) }},
	{"left alone, though it bears a mark of a mesh", wanted(WantMarked), func(f Facts) Step {
		return skip(Step{Then: StateSkipped, Keep: !f.by(Takeover) && !f.unknown()})(f)
	}},
	{"its mesh is switched off", func(f Facts) bool { return f.Want == WantFormer && !f.by(Takeover) && f.State != StatePending },
		skip(Step{Keep: true})},
	{"its proxy would have the ids of a container that was let through", wanted(WantClash), reject(Step{Keep: true, Result: Refused})},
	{"it must not run", func(f Facts) bool { return f.Want == WantReject && !f.by(Takeover) }, reject(Step{Keep: true, Result: Refused})},
	{"nothing is known of it, so that it has no rules yet", func(f Facts) bool {
		return f.Want == WantRules && f.unknown() && f.gate()
	}, always(Step{Do: Write, Then: StateProtected, Result: Protected, Event: EventProtected})},

	// What it holds.
	{"it is to be seen what it holds", func(f Facts) bool { return f.Holds == Unseen }, always(Step{Do: Look})},
	{"of a mesh that was switched off, whose rules it keeps", func(f Facts) bool { return f.Want == WantFormer && f.Holds.Kept() },
		always(Step{Then: StateOutdated, Result: Protected, Event: EventOutdated})},
	{"of a mesh that was switched off, and without its rules", wanted(WantFormer), skip(Step{})},
	{"it runs although it must not, and has rules", func(f Facts) bool { return f.Want == WantReject && f.Holds.Kept() },
		always(Step{Then: StateOutdated, Result: Protected, Event: EventOutdated})},
	{"it runs although it must not", wanted(WantReject),
		always(Step{Then: StateUnprotected, Lack: Barred, Result: Refused, Event: EventUnprotected})},
	{"its own init container wrote what it holds", func(f Facts) bool {
		return f.Want == WantOwnInit && (f.Holds == Foreign || f.State == StateExempt && f.Holds.Kept())
	}, skip(Step{Then: StateExempt})},
	{"a container's name proves nothing", func(f Facts) bool {
		return f.Want == WantOwnInit && (f.by(Takeover) || f.State == StatePending || f.State == StateExempt)
	}, always(Step{Do: Doubt})},
	{"no sidecar, and no rules", func(f Facts) bool { return f.Want == WantNone && f.Holds == Whole }, skip(Step{Then: StateExempt})},
	{"no sidecar: what it had from here goes", func(f Facts) bool { return f.Want == WantNone || f.Want == WantOwnInit },
		always(Step{Do: Clear, Then: StateExempt, Result: Skipped, Event: EventRefined})},

	// It is to hold its rules, and holds them.
	{"its addresses changed", func(f Facts) bool { return f.State.Enrolled() && f.Moved && (f.Holds == Whole || f.Holds == Beside) },
		write(EventReaddressed)},
	{"a container said more", func(f Facts) bool { return f.otherPlan() && f.News && (f.Holds.Kept() || f.Holds == Beside) }, write(EventRefined)},
	{"replaced as asked", func(f Facts) bool {
		return f.otherPlan() && (f.Holds.Kept() || f.Holds == Beside) || (f.by(ByHand) || f.replaces()) && f.Holds.enough()
	}, always(Step{Do: Write, Then: StateProtected, Result: Protected, Event: EventProtected})},
	{"it holds its rules", func(f Facts) bool { return f.Holds == Whole }, func(f Facts) Step { return f.found(f.whole()) }},
	{"what it holds does what its rules do", func(f Facts) bool { return f.Holds.enough() },
		func(f Facts) Step { return f.found(StateOutdated) }},

	{"it holds its rules, and nobody can tell what rules of others take from them", func(f Facts) bool { return f.Holds == Beside },
		Facts.unproven},

	// It does not.
	{"it lost its rules, and a container is about to be created", func(f Facts) bool { return f.by(ContainerValidated) }, func(f Facts) Step {
		if !f.State.Enrolled() {
			return Step{Keep: true, Result: Failed, Event: EventBlocked}
		}
		step := Step{Drift: f.drifted(), Then: StateFailing, Lack: f.Lack, Result: Failed, Event: EventBlocked}
		switch {
		case step.Drift:
			step.Lack = Lost
		case f.Lack == NoLack:
			step.Lack = Unread
		}
		return step
	}},
	{"nobody can tell what its rules do: they are left until a container is created", func(f Facts) bool {
		running := f.by(Audited) || f.by(Takeover) && (f.Ran || f.State.Enrolled())
		return f.Holds == Unclear && running && !f.replaces()
	}, Facts.unproven},
	{"nobody can tell what its rules do", func(f Facts) bool { return f.Holds == Unclear }, func(f Facts) Step {
		switch {
		case f.Lack == Lost:
			return write(EventRepaired)(f)
		case f.Lack == Late:
			return write(EventLate)(f)
		case f.otherPlan() && f.News:
			return write(EventRefined)(f)
		}
		return write(EventProtected)(f)
	}},
	{"changed rules are reported only", func(f Facts) bool { return f.had() && f.Leave && !f.gate() && !f.by(ByHand) }, func(f Facts) Step {
		step := Step{Drift: f.drifted(), Then: StateUnprotected, Lack: Lost, Result: Unprotected, Event: EventDrift}
		if f.State == StateUnprotected || f.Lack == Unwritten {
			step.Event = EventUnprotected
		}
		if f.Lack == Unwritten {
			step.Lack = Unwritten
		}
		return step
	}},
	{"changed rules are written again", func(f Facts) bool { return f.had() }, func(f Facts) Step {
		step := write(EventRepaired)(f)
		step.Drift = f.drifted()
		refined := f.otherPlan() && f.News
		if step.Drift && (refined || f.by(ContainerStarted, Takeover, Audited)) {
			step.First = EventDrift
		}
		switch {
		case refined:
			step.Event = EventRefined
		case f.Lack == Unwritten:
			step.Event = EventProtected
		}
		return step
	}},
	{"it ran without its rules, and is stopped", func(f Facts) bool { return f.late() && f.by(Takeover) && f.Stop },
		always(Step{Then: StateUnprotected, Lack: Late, Result: Unprotected, Stop: true})},
	{"it ran without its rules, which is reported only", func(f Facts) bool { return f.late() && f.by(Takeover) && f.Report },
		always(Step{Then: StateUnprotected, Lack: Late, Result: Unprotected, Event: EventUnprotected})},
	{"it ran without its rules", Facts.late, write(EventLate)},
	{"no container of it ran yet", func(Facts) bool { return true }, write(EventProtected)},
}

func always(s Step) func(Facts) Step { return func(Facts) Step { return s } }

func trouble(t Trouble) func(Facts) bool { return func(f Facts) bool { return f.Trouble == t } }

func wanted(w Want) func(Facts) bool { return func(f Facts) bool { return f.Want == w } }

// skip says so of a sandbox that is new in the session; a container's is no news.
func skip(s Step) func(Facts) Step {
	return func(f Facts) Step {
		s := s
		if s.Result = Skipped; f.by(SandboxStarted, Takeover) {
			s.Event = EventSkipped
		}
		return s
	}
}

// reject says whether what is refused runs all the same.
func reject(s Step) func(Facts) Step {
	return func(f Facts) Step {
		s := s
		if s.Event = EventBlocked; !f.Trigger.Waits() || f.Unheeded {
			s.Event = EventUnprotected
		}
		return s
	}
}

// write makes the sandbox hold the wanted plan.
func write(e Event) func(Facts) Step {
	return func(f Facts) Step { return Step{Do: Write, Then: f.whole(), Result: Protected, Event: e} }
}

// found is the step for a sandbox that holds what it is to hold: news where that was not known.
func (f Facts) found(then State) Step {
	step := Step{Then: then, Result: Protected, Event: EventProtected}
	switch {
	case f.Lack == Lost:
		step.Event = EventRepaired
	case !f.by(SandboxStarted, Takeover) && f.State == then:
		step.Event = Quiet
	case then == StateOutdated:
		step.Event = EventOutdated
	}
	return step
}

// unproven leaves rules of which nobody can tell what they do.
func (f Facts) unproven() Step {
	step := Step{Then: StateUnproven, Lack: f.Lack.lasting(), Result: Unproven, Event: EventUnproven}
	if f.State == StateUnproven && !f.by(SandboxStarted, Takeover) {
		step.Event = Quiet
	}
	return step
}

func (f Facts) by(triggers ...Trigger) bool { return slices.Contains(triggers, f.Trigger) }

// gate reports whether a container waits that has no rules yet to rely on.
func (f Facts) gate() bool { return f.by(SandboxStarted, ContainerCreated, ContainerStarted) }

func (f Facts) unknown() bool { return f.State == StateNew || f.State == StateSkipped }

// replaces reports whether rules of another version or configuration are to be replaced now.
func (f Facts) replaces() bool { return f.by(Takeover) && f.Replace }

// otherPlan reports whether the sandbox has a plan, and another one is wanted.
func (f Facts) otherPlan() bool { return f.State.Enrolled() && !f.Same }

// Kept reports whether a running pod keeps what it holds.
func (h Holds) Kept() bool { return h == Whole || h.enough() }

// enough reports whether that does what was compared with it does, in other words.
func (h Holds) enough() bool { return h == Enough || h == LessAway }

// whole is the state of a sandbox that holds the wanted plan.
func (f Facts) whole() State {
	if f.State.Enrolled() && f.Older && f.Same {
		return StateOutdated
	}
	return StateProtected
}

// had reports whether the sandbox's rules had been verified.
func (f Facts) had() bool {
	return f.State.Enrolled() || f.State == StateUnprotected && (f.Lack == Lost || f.Lack == Unwritten)
}

// drifted reports whether rules that are not there count as changed by somebody, and were not counted yet.
func (f Facts) drifted() bool {
	return f.Holds == Less && f.had() && f.Lack != Lost && f.Lack != Unwritten
}

// late reports whether a container ran that should have had rules.
func (f Facts) late() bool { return f.Ran && f.State != StateExempt }

// entered reports whether the sandbox's namespace was seen, and was not the host's.
func (s State) entered() bool {
	switch s {
	case StateNew, StatePending, StateSkipped:
		return false
	case StateProtected, StateOutdated, StateUnproven, StateUnprotected, StateFailing, StateExempt:
	}
	return true
}

// lackAfter is the cause of a trouble: the worst that is known.
func (f Facts) lackAfter() Lack {
	switch {
	case f.Lack == Lost:
		return Lost
	case f.Trouble == NotWritten:
		return Unwritten
	case f.Lack == NoLack:
		return Unread
	}
	return f.Lack
}

// lasting is what stays of the cause when the kernel was read.
func (l Lack) lasting() Lack {
	switch l {
	case Lost, Unwritten:
		return l
	case NoLack, Unread, Late, Barred:
	}
	return NoLack
}
