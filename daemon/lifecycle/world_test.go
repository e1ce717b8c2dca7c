// SPDX-License-Identifier: Apache-2.0

package lifecycle

// held is what a namespace holds: nothing, one of the plans (numbers 1 to 8: of two configurations, with what the proxy says or
// without, for two addresses), or something else.
type held uint8

const (
	nothing held = 0
	half    held = iota + 8 // a write of the daemon's that failed
	more                    // somebody's rules that take more than any plan
	lessAway
	unclear
	foreign // rules of a mesh that meshnetd did not write
)

func planned(config uint8, refined, moved bool) held {
	p := held(1 + config%2)
	if refined {
		p += 2
	}
	if moved {
		p += 4
	}
	return p
}

func (h held) isPlan() bool { return h >= 1 && h <= 8 }

func (h held) movedTo(moved bool) held {
	if (h-1)&4 > 0 != moved {
		return (h - 1) ^ 4 + 1
	}
	return h
}

// The configurations after the two that enrol.
const (
	rejects uint8 = iota + 2
	switchedOff
	leavesOut
)

// kind is what the pod is, and what may happen to it.
type kind struct {
	what    string
	shows   Want // what its telling container shows
	configs []uint8
	moves   bool // its addresses change
	second  bool // another daemon comes, with the other configuration
	other   held // what somebody in the pod writes, beside nothing
	init    bool // its own init container writes rules first
	marked  bool
}

// memory is what one daemon knows. touched and counted are what is true, and no daemon knows.
type memory struct {
	state    State
	lack     Lack
	older    bool
	plan     held
	node     uint8 // the configuration that decided
	refined  bool  // its telling container is known
	ran      bool
	stopping bool

	touched bool // somebody wrote into the namespace since the rules were verified
	counted bool
}

func (m memory) had() bool { return Facts{State: m.state, Lack: m.lack}.had() }

// world is one sandbox with its namespace, and what there is on its node.
type world struct {
	kernel, record held
	config         uint8
	moved          bool
	told           bool // the runtime knows its telling container
	ran            bool // a container runs
	stage          uint8
	telling        bool // the container that is made
	daemons        [2]memory
}

// fault is what the kernel refuses.
type fault uint8

const (
	works fault = iota
	lookFails
	writeFails
	writeFailsHalfway
	proofFails
)

// look compares what the namespace holds.
func (w world) look(with held) Holds {
	switch {
	case w.kernel == with:
		return Whole
	case w.kernel == w.record && w.kernel != nothing || w.kernel == more:
		return Enough
	case w.kernel == lessAway:
		return LessAway
	case w.kernel == unclear:
		return Unclear
	}
	return Less
}

// node is the shell of one daemon in the world.
type node struct {
	kind
	*world
	m      *memory
	before world
	fault  fault
	news   bool

	config  uint8
	refined bool
	want    held
	broken  func(string)
}

func (n *node) Do(do Do, f *Facts) {
	switch do {
	case Finish:
	case Recall:
		f.Want, f.Same, n.want, n.config, n.refined = WantRules, true, n.m.plan.movedTo(n.moved), n.m.node, n.m.refined
		f.Moved = n.want != n.m.plan
	case Decide:
		n.config, n.refined = n.world.config, n.m.refined || n.news
		if f.State.Enrolled() && !f.by(ByHand) && (!f.replaces() || !f.Older) {
			n.config = n.m.node
		}
		f.Want = n.decide()
		n.want = planned(n.config, n.refined, n.moved)
		f.Same = f.Want == WantRules && f.State.Enrolled() && n.want == n.m.plan
	case Doubt:
		n.refined = false
		f.Want, n.want = n.decide(), planned(n.config, false, n.moved)
	case Look:
		if n.fault == lookFails {
			f.Trouble = NotRead
			return
		}
		f.Holds = n.holds(*f)
	case Write:
		n.write(f, n.want)
	case Clear:
		n.write(f, nothing)
	}
}

func (n *node) decide() Want {
	switch n.config {
	case rejects:
		return WantReject
	case switchedOff:
		return WantFormer
	case leavesOut:
		if n.marked {
			return WantMarked
		}
		return WantNothing
	}
	if n.refined {
		return n.shows
	}
	return WantRules
}

func (n *node) holds(f Facts) Holds {
	recorded := n.kernel == n.record && n.kernel != nothing
	switch f.Want {
	case WantNone:
		if n.kernel == nothing {
			return Whole
		}
	case WantOwnInit:
		if n.kernel == foreign {
			return Foreign
		} else if recorded {
			return Enough
		}
	case WantFormer, WantReject:
		if recorded {
			return Enough
		}
	case WantRules:
		if f.State.Enrolled() {
			return n.look(n.m.plan)
		}
		return n.look(n.want)
	case Undecided, WantNothing, WantMarked, WantClash:
	}
	return Less
}

func (n *node) write(f *Facts, h held) {
	switch n.fault {
	case writeFails:
		f.Trouble = NotWritten
	case writeFailsHalfway:
		f.Trouble, n.kernel = NotWritten, half
	case proofFails:
		f.Trouble, n.kernel = NotWritten, h
	case works, lookFails:
		n.kernel, n.record = h, h
		return
	}
	n.daemons[1-n.which()].touched = true // for the other daemon this is somebody
}

func (n *node) Say(first Event, drift bool) {
	if drift {
		n.count()
	}
	if first == EventDrift && !n.m.counted {
		n.broken("said to have drifted, and has not")
	}
}

func (n *node) count() {
	if !n.m.touched || n.m.counted || n.look(n.m.plan) != Less {
		n.broken("drift is counted that was none")
	}
	n.m.counted = true
}

func (n *node) Commit(f Facts, s Step, _ Row) {
	if s.Do != Finish && s.Do != Write && s.Do != Clear {
		n.broken("a step that learns is committed")
	}
	uncounted := n.m.touched && !n.m.counted && n.m.had() && n.m.lack != Unwritten && n.before.look(n.m.plan) == Less
	defer n.check(f, s)
	if s.Keep {
		return
	}
	if s.Then == StateNew {
		*n.m = memory{} // the receipt stays until the sandbox ends
		return
	}
	m := n.m
	known := m.state.Enrolled() || m.had()
	switch {
	case s.Do == Write, s.Result == Protected && !known, s.Then == StateUnproven && !known, f.Holds == Whole && !m.state.Enrolled():
		m.plan = n.want
	case s.Result == Protected && f.Holds == Enough && n.kernel == n.record:
		m.plan = n.kernel
	}
	m.older = s.Then == StateOutdated && f.Holds != Whole && n.kernel != n.want && m.plan == n.kernel ||
		m.older && s.Then != StateProtected && s.Then != StateExempt
	m.state, m.lack, m.node, m.refined, m.stopping = s.Then, s.Lack, n.config, n.refined, s.Stop
	if s.Result == Protected {
		if uncounted {
			n.broken("drift was not counted")
		}
		m.touched = false
		if n.kernel.isPlan() {
			n.record = n.kernel
		}
	}
}

// check holds the event and what was done against what is true.
func (n *node) check(f Facts, s Step) {
	base := n.want
	if n.before.state(n).Enrolled() {
		base = n.before.plan(n)
	}
	whole := n.before.kernel == base && base != nothing || n.before.kernel == n.before.record && n.before.record != nothing
	rejudged := f.by(ByHand) || f.Replace && f.by(Takeover)
	switch {
	case n.kernel != n.before.kernel && whole && !n.news && !f.Moved && !rejudged && f.Want == WantRules && f.State != StateNew && f.State != StateSkipped:
		n.broken("whole rules are changed unasked")
	case s.Then == StateNew && !s.Keep && n.before.state(n) == StateFailing:
		n.broken("a failing pod is forgotten")
	}
	switch s.Event {
	case Quiet, EventUnproven, EventSkipped, EventBlocked, EventUnprotected, EventStopped:
	case EventProtected, EventReaddressed:
		if n.kernel != n.m.plan {
			n.broken("said to hold its plan, and does not")
		}
	case EventRefined:
		if n.kernel != n.m.plan && n.kernel != nothing {
			n.broken("said to be refined, and is not")
		}
	case EventLate:
		if !n.ran || whole || n.kernel != n.m.plan {
			n.broken("said to be late, and is not")
		}
	case EventOutdated:
		if n.kernel != n.before.kernel {
			n.broken("said to keep its rules, and does not")
		}
	case EventDrift:
		if !n.m.counted {
			n.broken("said to have drifted, and has not")
		}
	case EventRepaired:
		if !n.m.counted {
			n.broken("said to be repaired, and never drifted")
		}
	}
	if s.Result == Protected && !s.Keep {
		n.m.counted = false
	}
}

func (w world) state(n *node) State { return w.daemons[n.which()].state }

func (w world) plan(n *node) held { return w.daemons[n.which()].plan }

func (n *node) which() int {
	if n.m == &n.daemons[1] {
		return 1
	}
	return 0
}
