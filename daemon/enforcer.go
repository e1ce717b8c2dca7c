// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package daemon holds the one flow that every pod goes through, whoever asks: decide, build, enter,
// apply, verify, record.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/recovered"
	"github.com/meshnetd/meshnetd/daemon/routing"
	"github.com/meshnetd/meshnetd/rules"
)

// Firewall writes and reads packet-filter rules of a namespace.
type Firewall interface {
	// Name says what it is, for events.
	Name() string
	// Apply makes the namespace hold the plan, and says whether it had to change anything. It may be
	// called again.
	Apply(context.Context, *netns.Namespace, rules.Plan) (changed bool, err error)
	// Verify reads the kernel and returns every way in which it does not hold the plan.
	Verify(context.Context, *netns.Namespace, rules.Plan) ([]rules.Difference, error)
}

// Enforcer takes pods through the flow. Its fields are set once, before the first pod.
type Enforcer struct {
	Node     rules.Node
	Host     []netns.ID
	Firewall Firewall
	Record   func(Outcome) // called once for every outcome; must not block
}

// Result is how a pod ended.
type Result string

// The four ends.
const (
	Protected Result = "protected" // belongs to the mesh, and the kernel was read to hold its rules
	Skipped   Result = "skipped"   // not to be touched
	Refused   Result = "refused"   // must not run as it is: its author or the operator has to change something
	Failed    Result = "failed"    // must not run now: the next try may work
)

// Stage is where a pod's way through the flow ended.
type Stage string

// The stages in their order.
const (
	StageDecide Stage = "decide"
	StageEnter  Stage = "enter"
	StageApply  Stage = "apply"
	StageVerify Stage = "verify"
	StageBudget Stage = "budget" // the time was up; which of the others it was in is not known
)

// Trigger is what made the daemon look at a pod.
type Trigger string

// The triggers.
const (
	SandboxStarted Trigger = "sandbox"     // before its first container
	Takeover       Trigger = "synchronize" // it was there before the session with the runtime
	ByHand         Trigger = "command"
)

// Outcome is what happened to one pod.
type Outcome struct {
	Pod         rules.Pod
	Trigger     Trigger
	Decision    rules.Decision
	Plan        rules.Plan
	Result      Result
	Changed     bool     // the kernel was changed
	Differences []string // of Verify: how the kernel does not hold the plan
	Stage       Stage
	NetNS       netns.ID // zero where it was not entered
	Err         error    // of Refused and Failed
	Began       time.Time
	Took        time.Duration
}

// Error returns nil for a pod that may run, or what its author is to read: what, on which pod, why, and
// what to do next.
func (o Outcome) Error() error {
	switch o.Result {
	case Protected, Skipped:
	case Refused:
		next := "Ask who runs the node"
		if o.Decision.Reason == rules.ReasonBadInput {
			next = "Mend the pod; it starts with the next try"
		}
		return fmt.Errorf("meshnetd refuses pod %s/%s: %w. %s", o.Pod.Namespace, o.Pod.Name, o.Err, next)
	case Failed:
		return fmt.Errorf("meshnetd could not protect pod %s/%s (%s): %w. It is tried again; if this stays, "+
			"look at meshnetd's log on the node", o.Pod.Namespace, o.Pod.Name, o.Stage, o.Err)
	}
	return nil
}

// Enforce makes the pod's namespace hold its verified rules, or says why the pod must not run. It never
// panics. It returns when ctx ends, whatever the kernel or a program does; what is then still running
// finishes by itself, with the namespace locked.
func (e *Enforcer) Enforce(ctx context.Context, trigger Trigger, pod rules.Pod) Outcome {
	o := e.decide(pod)
	o.Trigger = trigger
	if o.undecided() {
		o = e.within(ctx, o, e.protect)
	}
	o.Took = time.Since(o.Began)
	e.Record(o)
	return o
}

// undecided tells whether the result is still to come.
func (o Outcome) undecided() bool { return o.Result == "" }

// Verify compares the kernel with the pod's plan, an empty one for a pod that is skipped, and changes
// nothing. There is nothing to compare for a pod that is refused, or that sets itself up.
func (e *Enforcer) Verify(ctx context.Context, pod rules.Pod) Outcome {
	o := e.decide(pod)
	if o.Err != nil || o.Decision.Reason == rules.ReasonInitContainer {
		return o
	}
	return e.within(ctx, o, func(ctx context.Context, o *Outcome) error {
		return e.visit(ctx, o, func(ns *netns.Namespace) (err error) {
			o.Stage = StageVerify
			o.Differences, err = e.differences(ctx, ns, o.Plan)
			return err
		})
	})
}

// Remove takes out of a namespace what meshnetd put in, and nothing else. It says whether there was
// anything.
func (e *Enforcer) Remove(ctx context.Context, path string) (changed bool, err error) {
	o := e.within(ctx, Outcome{Pod: rules.Pod{NetNS: path}, Decision: rules.Decision{Action: rules.Skip}},
		func(ctx context.Context, o *Outcome) error {
			return e.visit(ctx, o, func(ns *netns.Namespace) error { return e.apply(ctx, ns, o) })
		})
	return o.Changed, o.Err
}

// decide is the pure part: no system call is made for a pod outside the mesh.
func (e *Enforcer) decide(pod rules.Pod) Outcome {
	o := Outcome{Pod: pod, Began: time.Now(), Stage: StageDecide}
	if err := recovered.Call(func() error { o.Decision = e.Node.Decide(pod); return nil }); err != nil {
		o.Result, o.Err = Failed, err
		return o
	}
	if o.Decision.Action == rules.Enrol && pod.NetNS == "" {
		o.Decision.Action, o.Decision.Reason = rules.Rejected, rules.ReasonNoNetNS
		o.Decision.Detail = "the runtime names no network namespace for the sandbox, so there is nothing to put rules into"
	}
	switch o.Decision.Action {
	case rules.Enrol: // its result is still to come
	case rules.Skip:
		o.Result = Skipped
	case rules.Rejected:
		o.Result, o.Err = Refused, errors.New(o.Decision.Detail)
	}
	return o
}

// within runs work with a hard stop: netlink and programs do not honour contexts. A panic is an error.
func (e *Enforcer) within(ctx context.Context, o Outcome, work func(context.Context, *Outcome) error) Outcome {
	done := make(chan Outcome, 1)
	go func(o Outcome) {
		o.Err = recovered.Call(func() error { return work(ctx, &o) })
		done <- o
	}(o)
	select {
	case o = <-done:
	case <-ctx.Done():
		select { // what is done is done, even if the time is up as well
		case o = <-done:
		default:
			o.Stage, o.Err = StageBudget, fmt.Errorf("not finished in time: %w", ctx.Err())
		}
	}
	if o.Err != nil {
		o.Result = Failed
	}
	return o
}

// protect applies the plan and proves by reading the kernel that it is there.
func (e *Enforcer) protect(ctx context.Context, o *Outcome) error {
	err := e.visit(ctx, o, func(ns *netns.Namespace) error {
		if err := e.apply(ctx, ns, o); err != nil {
			return err
		}
		o.Stage = StageVerify
		diffs, err := e.differences(ctx, ns, o.Plan)
		if err == nil && len(diffs) > 0 {
			err = fmt.Errorf("the kernel does not hold what was written: %s", strings.Join(diffs, "; "))
		}
		return err
	})
	switch {
	case errors.Is(err, netns.ErrHost):
		// CRI-O gives hostNetwork pods a path: only now it is known what it leads to.
		o.Pod.HostNetwork = true
		o.Decision = e.Node.Decide(o.Pod)
		o.Result = Skipped
		return nil
	case err == nil:
		o.Result = Protected
	}
	return err
}

// visit opens and locks the pod's namespace, plans for its addresses, and calls fn.
func (e *Enforcer) visit(ctx context.Context, o *Outcome, fn func(*netns.Namespace) error) error {
	o.Stage = StageEnter
	ns, err := netns.Open(o.Pod.NetNS, e.Host)
	if err != nil {
		return err
	}
	defer ns.Close()
	o.NetNS = ns.ID()
	unlock, err := ns.Lock(ctx)
	if err != nil {
		return err
	}
	defer unlock()
	if err := e.plan(ns, o); err != nil {
		return err
	}
	return fn(ns)
}

// plan builds the plan from the addresses the manifest names, else from those in the namespace.
func (e *Enforcer) plan(ns *netns.Namespace, o *Outcome) error {
	if o.Decision.Action != rules.Enrol {
		o.Plan = rules.Plan{Footprint: e.Node.Mesh.Footprint()}
		return nil
	}
	ips := o.Pod.IPs
	if len(ips) == 0 {
		err := ns.Do(func() (err error) {
			ips, err = routing.Addresses()
			return err
		})
		if err != nil {
			return err
		}
	}
	var err error
	o.Plan, err = o.Decision.Planner(ips)
	return err
}

func (e *Enforcer) apply(ctx context.Context, ns *netns.Namespace, o *Outcome) error {
	o.Stage = StageApply
	changed, err := e.Firewall.Apply(ctx, ns, o.Plan)
	if err != nil {
		return err
	}
	var moved bool
	err = ns.Do(func() (err error) {
		moved, err = routing.Apply(o.Plan)
		return err
	})
	o.Changed = changed || moved
	return err
}

func (e *Enforcer) differences(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]string, error) {
	found, err := e.Firewall.Verify(ctx, ns, plan)
	if err != nil {
		return nil, err
	}
	var diffs []string
	for _, d := range found {
		diffs = append(diffs, d.String())
	}
	err = ns.Do(func() error {
		more, err := routing.Verify(plan)
		diffs = append(diffs, more...)
		return err
	})
	return diffs, err
}
