// SPDX-License-Identifier: Apache-2.0

package lifecycle

import (
	"fmt"
	"strings"
	"testing"
)

// explorer visits every state of a world that can be reached, the nearest first.
type explorer struct {
	kind
	table  []Row
	policy Policy
	came   map[world]from
	queue  []world
	at     world
	broken map[string]string // what, and how the world came to it
}

type from struct {
	before world
	what   string
	fault  fault
}

// most bounds the states of one world: it comes to them in the order of how much has happened.
func most() int {
	if every() {
		return 20_000
	}
	return 500
}

func (x *explorer) explore() {
	start := world{config: x.configs[0]}
	bound := most()
	x.came, x.broken = map[world]from{start: {}}, map[string]string{}
	for x.queue = []world{start}; len(x.queue) > 0 && len(x.came) < bound && len(x.broken) == 0; {
		x.at, x.queue = x.queue[0], x.queue[1:]
		x.runtime()
		x.daemon()
		x.others()
		x.comesThrough()
	}
}

func (x *explorer) visit(what string, w world) { x.visitBy(what, works, w) }

func (x *explorer) visitBy(what string, fails fault, w world) {
	if _, seen := x.came[w]; !seen {
		x.came[w] = from{x.at, what, fails}
		x.queue = append(x.queue, w)
	}
}

// breaks remembers how the world came to a violation.
func (x *explorer) breaks(what, last string) {
	if x.broken[what] != "" {
		return
	}
	path := []string{last}
	for w := x.at; ; {
		f := x.came[w]
		path = append(path, fmt.Sprintf("%s (fault %d): %+v", f.what, f.fault, w))
		if f.what == "" {
			break
		}
		w = f.before
	}
	x.broken[what] = strings.Join(path, "\n    ")
}

// run takes one daemon through the table.
func (x *explorer) run(w *world, which int, t Trigger, trouble Trouble, news bool, fails fault) Step {
	m := &w.daemons[which]
	n := &node{kind: x.kind, world: w, m: m, before: *w, fault: fails, news: news, config: m.node, refined: m.refined, want: m.plan}
	if which == 1 {
		n.world.config, w = 1, n.world // it is of the other configuration
	}
	f := Facts{Trigger: t, State: m.state, Lack: m.lack, Trouble: trouble, News: news && !m.refined, Older: m.older, Ran: m.ran, Policy: x.policy}
	n.broken = func(what string) { x.breaks(what, fmt.Sprintf("%s (news %v, fault %d): %+v", t, news, fails, *w)) }
	step := run(x.table, f, n)
	if which == 1 {
		w.config = n.before.config
	}
	return step
}

// each runs it with every fault.
func (x *explorer) each(what string, which int, t Trigger, news bool, then func(*world, Step)) {
	for fails := range proofFails + 1 {
		w := x.at
		step := x.run(&w, which, t, NoTrouble, news, fails)
		then(&w, step)
		x.visitBy(what, fails, w)
	}
}

func admits(s Step) bool {
	return s.Result == Protected || s.Result == Skipped || s.Result == Unprotected
}

// runtime asks about the sandbox and its containers.
func (x *explorer) runtime() {
	w := x.at
	m := w.daemons[0]
	if m.state == StateNew && !w.ran && w.stage == 0 {
		x.each("sandbox", 0, SandboxStarted, false, func(*world, Step) {})
		if x.init {
			w.kernel = foreign
			x.visit("its init container writes", w)
		}
	}
	switch w.stage {
	case 0:
		for _, telling := range []bool{false, true} {
			x.create(telling)
		}
	case 1, 2:
		trigger, next := ContainerValidated, uint8(2)
		if w.stage == 2 {
			trigger, next = ContainerStarted, 0
		}
		news := w.telling && !m.refined
		if trigger == ContainerValidated && (!m.state.Settled() || news) {
			trigger = ContainerCreated
		}
		if m.state == StateExempt && !news {
			w.stage, w.ran = next, w.ran || next == 0
			x.visit("exempt", w)
			return
		}
		x.each("container", 0, trigger, news && trigger == ContainerCreated, func(w *world, s Step) {
			x.started(w, s, next)
		})
	}
}

// create asks about a container that is to be created.
func (x *explorer) create(telling bool) {
	m := x.at.daemons[0]
	if m.state == StatePending {
		return // taken over first
	}
	made := func(w *world, s Step) {
		if admits(s) {
			w.stage, w.telling, w.told = 1, telling, w.told || telling
		}
	}
	if news := telling && !m.refined; m.state.Settled() && !news {
		w := x.at
		made(&w, Step{Result: Protected})
		x.visit("created, from memory", w)
	} else {
		x.each("created", 0, ContainerCreated, news, made)
	}
}

func (x *explorer) started(w *world, s Step, next uint8) {
	switch {
	case !admits(s):
		w.stage = 0
		return
	case next == 0 && s.Result == Protected && !w.kernel.isPlan() && w.kernel != more && w.kernel != lessAway:
		x.breaks("a container starts without rules", fmt.Sprintf("%+v", *w))
	}
	w.stage = next
	w.ran = w.ran || next == 0
}

// daemon does what it does of itself.
func (x *explorer) daemon() {
	w := x.at
	for which, m := range w.daemons {
		switch {
		case m.stopping:
			for _, trouble := range []Trouble{Stopped, NotStopped} {
				n := w
				n.daemons[which].stopping = false
				x.run(&n, which, Takeover, trouble, false, works)
				if trouble == NotStopped {
					x.visit("not stopped", n)
				}
			}
		case m.state == StatePending || m.state == StateUnprotected && m.lack == Barred:
			x.each("taken over", which, Takeover, false, func(*world, Step) {})
		case m.state.Enrolled():
			x.each("audited", which, Audited, false, func(*world, Step) {})
			x.each("the session is back", which, Takeover, w.told && !m.refined, func(w *world, _ Step) { w.stage = 0 })
		}
		if m.state != StateNew && which == 0 {
			x.each("repaired by hand", 0, ByHand, false, func(*world, Step) {})
		}
	}
}

// others are the operator, and whoever writes into the pod.
func (x *explorer) others() {
	w := x.at
	there := w.daemons[0].state != StateNew || w.kernel != nothing || w.ran
	if there {
		r := w
		r.stage, r.daemons[0] = 0, memory{state: StatePending, refined: w.told, ran: w.ran}
		x.visit("restarted", r)
	}
	for _, config := range x.configs {
		c := w
		c.config = config
		x.visit("reloaded", c)
	}
	if x.moves {
		a := w
		a.moved = !a.moved
		x.visit("readdressed", a)
	}
	if w.ran || w.stage == 2 { // a container with NET_ADMIN, or a hook
		for _, h := range []held{nothing, x.other} {
			t := w
			t.kernel = h
			for i := range t.daemons {
				t.daemons[i].touched = t.daemons[i].state != StateNew
			}
			x.visit("tampered", t)
		}
	}
	if x.second && there && w.daemons[1].state == StateNew {
		s := w
		s.daemons[1] = memory{state: StatePending, refined: w.told, ran: w.ran}
		x.visit("a second daemon", s)
	}
	if w.daemons[1].state != StateNew && w.stage == 0 {
		s := w
		s.daemons, s.config = [2]memory{w.daemons[1]}, 1
		x.visit("the first daemon ends", s)
	}
}

// comesThrough proves that a pod is not stuck: where nothing fails, a container of it starts at the second try.
func (x *explorer) comesThrough() {
	w := x.at
	if w.stage != 0 || w.config >= rejects || w.daemons[0].state == StateNew || w.daemons[0].node >= rejects {
		return
	}
	for range 2 {
		m := &w.daemons[0]
		if m.state == StatePending {
			x.run(&w, 0, Takeover, NoTrouble, false, works)
		}
		if m.state.Settled() || admits(x.run(&w, 0, ContainerCreated, NoTrouble, false, works)) {
			if m.state == StateExempt || admits(x.run(&w, 0, ContainerValidated, NoTrouble, false, works)) {
				return
			}
		}
	}
	x.breaks("a pod is stuck", fmt.Sprintf("%+v", w))
}

// kinds are the worlds.
var kinds = []kind{
	{what: "sidecar", shows: WantRules, configs: []uint8{0, 1}},
	{what: "sidecar, whose rules are hidden behind others", shows: WantRules, configs: []uint8{0, 1}, other: unclear},
	{what: "sidecar, with others' rules that take more", shows: WantRules, configs: []uint8{0, 1}, other: more},
	{what: "sidecar, whose rules drop", shows: WantRules, configs: []uint8{0}, other: lessAway},
	{what: "sidecar, readdressed", shows: WantRules, configs: []uint8{0, 1}, moves: true},
	{what: "sidecar, and the mesh changes", shows: WantRules, configs: []uint8{0, rejects, switchedOff, leavesOut}},
	{what: "sidecar, marked", shows: WantRules, configs: []uint8{leavesOut, 0}, marked: true},
	{what: "sidecar, beside a second daemon", shows: WantRules, configs: []uint8{0}, second: true},
	{what: "gateway", shows: WantNone, configs: []uint8{0, rejects, leavesOut}},
	{what: "sets itself up", shows: WantOwnInit, configs: []uint8{0, switchedOff}, other: foreign, init: true},
}

var policies = []Policy{{}, {Report: true}, {Report: true, Stop: true}, {Leave: true}, {Replace: true}, {Report: true, Leave: true, Replace: true}}

func explored(table []Row) (states int, broken map[string]string) {
	for _, k := range kinds {
		for _, p := range policies {
			x := &explorer{kind: k, policy: p, table: table}
			if x.explore(); len(x.broken) > 0 {
				return states, x.broken
			}
			states += len(x.came)
		}
	}
	return states, nil
}

func TestWorld(t *testing.T) {
	states, broken := explored(Table[:])
	for what, how := range broken {
		t.Errorf("%s:\n    %s", what, how)
	}
	t.Logf("%d states of %d worlds", states, len(kinds)*len(policies))
}
