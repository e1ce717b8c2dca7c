// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"os"
	"slices"
	"testing"
)

// causes are the lacks that a state can have.
var causes = map[State][]Lack{
	StateNew: {NoLack}, StateProtected: {NoLack}, StateOutdated: {NoLack}, StatePending: {NoLack}, StateExempt: {NoLack}, StateSkipped: {NoLack},
	StateUnproven: {NoLack, Lost, Unwritten}, StateFailing: {Unread, Unwritten, Lost}, StateUnprotected: {Lost, Unwritten, Late, Barred},
}

// seen is what a look can find for a want.
var seen = [WantRules + 1][]Holds{
	Undecided: {Unseen}, WantNothing: {Unseen}, WantMarked: {Unseen}, WantClash: {Unseen},
	WantFormer:  {Unseen, Enough, LessAway, Unclear, Less},
	WantReject:  {Unseen, Enough, LessAway, Unclear, Less},
	WantNone:    {Unseen, Whole, Less},
	WantOwnInit: {Unseen, Foreign, Enough, Less},
	WantRules:   {Unseen, Whole, Enough, LessAway, Unclear, Beside, Less},
}

// each calls fn with every combination of facts that can occur, and returns how many there are.
func each(fn func(Facts)) (n int) {
	call := func(f Facts) {
		if possible(f) {
			n++
			fn(f)
		}
	}
	bools := func(f Facts) {
		for bits := range 1 << 10 {
			f.News, f.Same, f.Moved, f.Older, f.Ran = bits&1 > 0, bits&2 > 0, bits&4 > 0, bits&8 > 0, bits&16 > 0
			f.Report, f.Stop, f.Leave, f.Replace, f.Unheeded = bits&32 > 0, bits&64 > 0, bits&128 > 0, bits&256 > 0, bits&512 > 0
			call(f)
		}
	}
	for _, t := range Triggers {
		for s, lacks := range causes {
			for _, l := range lacks {
				for trouble := range HostNetNS + 1 {
					for want, holds := range seen {
						for _, h := range holds {
							if trouble == NoTrouble || want == 0 {
								bools(Facts{Trigger: t, State: s, Lack: l, Want: Want(want), Holds: h, Trouble: trouble})
							}
						}
					}
				}
			}
		}
	}
	return n
}

// possible reports whether the daemon can come to these facts.
func possible(f Facts) bool {
	enrolled := f.State.Enrolled()
	switch {
	case f.News && !f.by(ContainerCreated, SandboxStarted) && (!f.by(Takeover) || !enrolled): // the others say nothing of containers
		return false
	case f.by(SandboxStarted) && f.News && !f.unknown(): // only the kubelet tells of containers then, and once
		return false
	case f.by(ContainerValidated) && !enrolled: // else it is as one that is created
		return false
	case f.Same && (!enrolled || f.Want != WantRules):
		return false
	case f.Moved && !f.Same: // plans are made for the addresses as they are
		return false
	case enrolled && f.Want != Undecided && !f.Same && !f.News && !f.by(ByHand) && (!f.replaces() || !f.Older): // what enrolled it decides
		return false
	case f.Older && !f.had() || f.Older && f.State == StateProtected:
		return false
	case f.Lack == Late && !f.Ran:
		return false
	case f.Ran && f.unknown(): // that is known of sandboxes that were there before
		return false
	case f.Stop && !f.Report, f.Unheeded && !f.by(ContainerStarted):
		return false
	case f.Want == WantClash && !f.by(ContainerCreated):
		return false
	case f.by(Audited) && !enrolled && f.Want != Undecided, f.Want == Undecided && f.Holds != Unseen:
		return false
	case f.Trouble == Overrun && (f.Trigger.Waits() || f.by(ByHand)), f.Trouble == OverTime && !f.Trigger.Waits():
		return false
	case f.Trouble == Hidden && f.by(ContainerValidated) && !f.Moved: // it writes nothing
		return false
	case (f.Trouble == Stopped || f.Trouble == NotStopped) && (!f.by(Takeover) || f.State != StateUnprotected || f.Lack != Late):
		return false
	}
	return true
}

// law is what must hold of every step, whatever the table looks like.
func law(f Facts, s Step) string {
	acts := s.Do == Write || s.Do == Clear
	held := f.State.Enrolled() && f.Holds.Kept()
	refused := s.Result == Refused || s.Result == Failed
	switch {
	case s.Do.learns() && s != Step{Do: s.Do}:
		return "a step that learns decides something"
	case s.Result == Unproven && f.Holds != Unclear && f.Holds != Beside && f.Trouble != Hidden:
		return "unproven without a reason"
	case f.Holds == Beside && s.Do == Write && f.Same && !f.Moved:
		return "what is there is written again"
	case f.Trouble != NoTrouble && s.Do != Finish:
		return "work goes on after a trouble"
	case s.Do == Look && f.Want == Undecided:
		return "looked at before it is known what for"
	case s.Do == Look && f.Holds != Unseen, s.Do == Decide && f.Want != Undecided, s.Do == Recall && f.Want == WantRules, s.Do == Doubt && f.Want != WantOwnInit:
		return "the same is learned twice"
	case s.Result == Protected && s.Do != Write && !f.Holds.Kept():
		return "protected by nothing"
	case s.Do == Write && f.Want != WantRules, s.Do == Clear && f.Want != WantNone && f.Want != WantOwnInit:
		return "written what nobody wants"
	case acts && f.by(ContainerValidated) && !f.Moved:
		return "a validation writes"
	case acts && held && !f.News && !f.Moved && !f.by(ByHand) && !f.replaces():
		return "whole rules are changed unasked"
	case acts && f.by(Takeover, Audited) && f.Holds == Less && f.had() && f.Leave && f.Want == WantRules:
		return "drift is repaired that is to be reported only"
	case acts && f.by(Takeover) && f.late() && !f.had() && f.Report && f.Holds == Less && f.Want == WantRules:
		return "a late pod is changed that is to be reported only"
	case s.Stop && (!f.Stop || !f.Ran || f.Holds != Less || f.had()):
		return "a pod is stopped that need not be"
	case s.Then == StateNew && !s.Keep && !s.Do.learns() && f.State.Enrolled() && f.Trouble != Gone:
		return "a pod of the mesh is forgotten"
	case s.Drift && (f.Holds != Less || !f.had() || f.Lack == Lost || f.Lack == Unwritten):
		return "drift is counted that is none"
	case !s.Drift && f.drifted() && f.Want == WantRules && f.Trouble == NoTrouble:
		return "drift is not counted"
	case refused && !s.Keep && s.Then.Settled():
		return "a failure is forgotten"
	}
	if what := duty(f, s); what != "" {
		return what
	}
	return truth(f, s)
}

// duty is what must be done at least.
func duty(f Facts, s Step) string {
	forgotten := s.Then == StateNew && !s.Keep
	switch f.Trouble {
	case NoTrouble:
	case NotRead, NotWritten:
		if s.Result != Failed || s.Keep == f.State.Enrolled() {
			return "a failure is none"
		}
	case Stopping:
		if !s.Keep || s.Event != Quiet {
			return "the end of the daemon changes what it knows"
		}
	case Gone:
		if f.by(Takeover, Audited) && !forgotten {
			return "a sandbox that ended is remembered"
		}
	case HostNetNS:
		if !f.State.entered() && s.Result != Skipped {
			return "the host's namespace is a failure"
		}
	case Overrun:
		if f.by(Takeover, Audited) && (s.Result != Open || !s.Keep) {
			return "the first time that a look is too long counts"
		}
	case OverTime:
		if s.Result != Refused {
			return "a pod is tried again that used up its time"
		}
	case Stopped:
		if !forgotten || s.Event != EventStopped {
			return "a sandbox that was stopped is remembered"
		}
	case NotStopped:
		if !s.Keep || s.Result != Unprotected {
			return "a sandbox that could not be stopped is not said to run"
		}
	case Hidden:
		if s.Result != Unproven {
			return "hidden rules are no failure"
		}
	}
	if f.Trouble != NoTrouble {
		return ""
	}
	if f.by(Audited) && !f.State.Enrolled() && !s.Keep {
		return "the auditor decides about a pod that is none of its"
	}
	return dutyBy(f, s)
}

func dutyBy(f Facts, s Step) string {
	switch f.Want {
	case Undecided:
	case WantNothing, WantMarked:
		if s.Result != Skipped && !f.State.Enrolled() {
			return "a pod outside the mesh is not left alone"
		}
	case WantFormer, WantReject:
		if f.by(Takeover) && f.Holds.Kept() && !f.State.Enrolled() && s.Then != StateOutdated {
			return "a running pod loses its rules by a configuration"
		}
	case WantClash:
		if s.Result != Refused {
			return "a container goes around the mesh"
		}
	case WantNone, WantOwnInit:
		if f.Want == WantNone && f.Holds == Whole && s.Do != Finish && !f.by(ByHand) || f.Holds == Foreign && s.Do == Clear {
			return "what is not ours is taken out"
		}
		if f.Holds == Less && f.Want == WantOwnInit && f.by(Takeover) && !f.State.Enrolled() && s.Do != Doubt {
			return "a name is believed"
		}
	case WantRules:
		return dutyByRules(f, s)
	}
	return ""
}

func dutyByRules(f Facts, s Step) string {
	refined := f.otherPlan() && f.News && f.Holds != Unseen
	switch {
	case f.unknown() && f.gate() && s.Do != Write:
		return "a new sandbox is looked at before it is written"
	case refined && (s.Do != Write && !f.Leave && f.Holds != Unclear || s.Do == Write && s.Event != EventRefined && s.Event != EventRepaired):
		return "what a container says is not followed"
	case f.Moved && f.Holds == Whole && s.Do != Write:
		return "the rules are not those of the addresses"
	case f.Holds == Beside && !refined && !f.Moved && f.Same && s.Result != Unproven:
		return "rules that are hidden are called well"
	case f.gate() && (f.Holds == Less || f.Holds == Unclear) && s.Do != Write:
		return "a container starts without rules"
	case f.by(Takeover) && !f.had() && f.Holds == Less && f.late() && !f.Report && s.Event != EventLate:
		return "a late pod is not said to be late"
	case f.by(Takeover) && f.Stop && !f.had() && f.Holds == Less && f.late() && !s.Stop:
		return "a late pod is not stopped"
	case f.by(Audited) && f.Holds == Unclear && s.Do != Finish:
		return "a running pod loses rules of which nobody can tell"
	case f.replaces() && f.Holds.enough() && s.Do != Write:
		return "old rules are not replaced as asked"
	case f.had() && f.by(ContainerStarted, Audited) && f.Holds == Less && s.Do == Write && s.Drift && s.First != EventDrift:
		return "drift is repaired and not said"
	}
	return ""
}

// truth is what each event says.
func truth(f Facts, s Step) string {
	refused := s.Result == Refused || s.Result == Failed
	switch s.Event {
	case Quiet:
		if refused && f.Trouble != Stopping && f.Trouble != Gone {
			return "a refusal that nobody hears of"
		}
		if !s.Do.learns() && !s.Keep && s.Then != f.State && s.Then != StateNew && !s.Stop && s.Result != Skipped {
			return "a change that nobody hears of"
		}
	case EventProtected:
		if s.Result != Protected || s.Then == StateOutdated && s.Do != Write {
			return "said to be protected"
		}
	case EventRefined:
		if s.Do != Clear && (s.Do != Write || !f.News) {
			return "said to be refined"
		}
	case EventReaddressed:
		if !f.Moved || s.Do != Write {
			return "said to be readdressed"
		}
	case EventLate:
		if !f.Ran || f.had() || f.Holds.Kept() || s.Do != Write {
			return "said to be late"
		}
	case EventOutdated:
		if s.Do != Finish || s.Then != StateOutdated || !f.Holds.Kept() {
			return "said to be outdated and kept"
		}
	case EventSkipped:
		if s.Result != Skipped || s.Do == Clear {
			return "said to be skipped"
		}
	case EventBlocked, EventUnprotected:
		runs := !f.Trigger.Waits() || f.Unheeded
		if s.Result == Protected || s.Result == Skipped || runs == (s.Event == EventBlocked) || !runs && !refused {
			return "said of one that runs and one that does not alike"
		}
	case EventUnproven:
		if s.Result != Unproven || f.Holds != Unclear && f.Holds != Beside && f.Trouble != Hidden {
			return "said to be unproven"
		}
	case EventStopped:
		if f.Trouble != Stopped {
			return "said to be stopped"
		}
	case EventDrift:
		if !f.had() || f.Holds != Less {
			return "said to have drifted"
		}
	case EventRepaired:
		if s.Result != Protected || f.Lack != Lost && !s.Drift {
			return "said to be repaired"
		}
	}
	return ""
}

func TestTable(t *testing.T) {
	witnesses := make([]int, len(Table))
	n := each(func(f Facts) { witnesses[index(Table[:], f)]++ })
	for i, row := range Table {
		if witnesses[i] == 0 {
			t.Errorf("nothing comes to row %d: %s", i, row.Why)
		}
	}
	for what, how := range unlawful(Table[:], len(Table)) {
		t.Errorf("%s: %s", what, how)
	}
	t.Logf("%d combinations, %d rows", n, len(Table))
}

// unlawful returns laws that a table breaks, each with an example, until it has enough of them.
func unlawful(table []Row, enough int) map[string]string {
	broken := map[string]string{}
	each(func(f Facts) {
		if len(broken) >= enough {
			return
		}
		i := index(table, f)
		if i < 0 {
			broken["there is no row"] = fmt.Sprintf("%+v", f)
			return
		}
		step := table[i].Step(f)
		if what := law(f, step); what != "" && broken[what] == "" {
			broken[what] = fmt.Sprintf("row %d (%s): %+v gives %+v", i, table[i].Why, f, step)
		}
	})
	return broken
}

func index(table []Row, f Facts) int {
	return slices.IndexFunc(table, func(row Row) bool { return row.When(f) })
}

// Without any of its rows the table breaks a law, or the world goes wrong: no row is there for nothing.
func TestEveryRowIsNeeded(t *testing.T) {
	for i, row := range Table {
		if !every() && i%8 != 0 {
			continue
		}
		without := slices.Delete(slices.Clone(Table[:]), i, i+1)
		if len(unlawful(without, 1)) > 0 {
			continue
		}
		if _, broken := explored(without); len(broken) == 0 {
			t.Errorf("nobody misses row %d: %s", i, row.Why)
		}
	}
}

// every is whether all is to be tried, as in make test-all.
func every() bool { return os.Getenv("MESHNETD_EVERY_ROW") != "" }
