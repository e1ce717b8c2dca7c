// SPDX-License-Identifier: Apache-2.0

//go:build linux

package visit

import (
	"context"
	"errors"
	"fmt"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/policy"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Reconcile takes the sandbox through the table, within its namespace. canStop is whether it could be stopped.
func (v *Visitor) Reconcile(ctx context.Context, o *outcome.Look, canStop bool) error {
	return v.visit(ctx, o, func(p *pass) error {
		known, ok := v.Memory.Get(o.Pod.SandboxID)                         // read again: with the lock held, nothing more is learned meanwhile
		if o.Trigger == lifecycle.ByHand && !ok && o.Pod.SandboxID != "" { // else a command names a namespace and no sandbox
			return fmt.Errorf("sandbox %s %w", o.Pod.SandboxID, ErrUnknown)
		}
		same := known.KeepsNetNS
		if o.Pod.NetNS == known.Pod.NetNS && (o.Trigger == lifecycle.Audited || o.Trigger == lifecycle.ByHand) { // nobody says that it is still there
			same = known.InNetNS
		}
		if err := same(*o); err != nil {
			return err
		}
		p.known = known
		lifecycle.Run(known.Facts(p.Policy, *o, canStop), p)
		return p.err
	})
}

// Do does what the table says, and notes what was seen.
func (p *pass) Do(do lifecycle.Do, f *lifecycle.Facts) {
	switch do {
	case lifecycle.Finish:
	case lifecycle.Recall:
		p.err = p.recall(f)
	case lifecycle.Decide:
		p.err = p.choose(f)
	case lifecycle.Doubt:
		p.o.Pod.Containers = p.Refining(p.o.Pod.Containers)
		p.o.Decide(p.Policy)
		p.err = p.intend(f, p.Want(p.o.Case()))
	case lifecycle.Look:
		f.Holds, p.err = p.look(f)
	case lifecycle.Write:
		p.err = p.write(f)
	case lifecycle.Clear:
		p.err = p.clear()
	}
	if p.err == nil {
		p.err = fair.GivenUp(p.ctx)
	}
	if p.err != nil {
		f.Trouble = lifecycle.NotRead
	}
}

// Say records drift that is about to be repaired. That it was counted is remembered at once, since the repair may fail.
func (p *pass) Say(first lifecycle.Event, drift bool) {
	if p.o.FoundDrift = p.o.FoundDrift || drift; drift {
		p.Memory.Drifted(p.o.Pod.SandboxID)
	}
	if p.o.Drifted = drift; first != lifecycle.Quiet {
		p.Record(p.o.DriftFound(first))
		p.o.Drifted = false
	}
}

// Commit ends the look, unless something went wrong, or nobody waits any more: then try has the last word.
func (p *pass) Commit(f lifecycle.Facts, s lifecycle.Step, row lifecycle.Row) {
	if p.err == nil && !p.o.Watch.LastWord() {
		p.err = fmt.Errorf("before its outcome is recorded: %w", fair.ErrGivenUp)
	}
	if p.err != nil {
		return
	}
	if p.earlier != nil && s.Do == lifecycle.Finish && (s.Then == lifecycle.StateOutdated || s.Then == lifecycle.StateUnproven) && !s.Keep {
		*p.o = *p.earlier // which stay
	}
	p.Memory.Commit(p.Policy, p.o, f, s, row)
}

// recall takes what is remembered, for the addresses as they are now.
func (p *pass) recall(f *lifecycle.Facts) error {
	o, known := p.o, p.known
	path := o.Pod.NetNS // the runtime may name the namespace in another way than before
	o.Pod, o.Decision, o.Plan, o.Key, o.Node, o.Earlier = known.Pod, known.Decision, known.Plan, known.Key, known.Node, known.Earlier
	o.Pod.NetNS, o.Result, o.Err = path, "", nil
	f.Want, f.Same = lifecycle.WantRules, true
	var err error
	f.Moved, err = p.readdress()
	return err
}

// choose decides about the pod: one that is enrolled by the node that enrolled it, unless somebody asks for today's.
func (p *pass) choose(f *lifecycle.Facts) error {
	o := p.o
	if err := o.Step(p.ctx, outcome.StageDecide); err != nil {
		return err
	}
	if o.By != p.Policy || p.known.State != lifecycle.StateNew { // else it is enrolled as before the namespace was entered
		o.Pod.Containers = policy.Overlay(p.known.Pod.Containers, o.Pod.Containers)
		if p.known.State.Enrolled() && o.Trigger != lifecycle.ByHand {
			o.Node = p.known.Node
		}
		if o.Decide(p.Policy); o.Result == lifecycle.Failed {
			return o.Err
		}
		o.Want = p.Want(o.Case())
	}
	if o.OwnInit(p.Policy, o.Trigger == lifecycle.Takeover || p.known.State == lifecycle.StateExempt || p.known.State == lifecycle.StatePending) {
		return p.intend(f, lifecycle.WantOwnInit)
	}
	return p.intend(f, o.Want)
}

// intend makes the plan for what is wanted.
func (p *pass) intend(f *lifecycle.Facts, want lifecycle.Want) (err error) {
	o := p.o
	o.Result, f.Want = "", want
	switch want {
	case lifecycle.WantRules:
		o.Earlier = false
		if err = p.plan(); err != nil {
			return err
		}
		if f.Same = p.known.State.Enrolled() && o.Key == p.known.Key; o.Trigger != lifecycle.ContainerCreated {
			return nil
		}
		if o.Impostor = p.Clash(o.Pod, p.known.Decision, o.Decision, p.known.Admitted); o.Impostor != "" {
			o.Err, f.Want = errors.New(o.Impostor), lifecycle.WantClash
		}
	case lifecycle.WantNone, lifecycle.WantOwnInit:
		footprint, err := p.exemptFootprint()
		o.Planned(rules.Plan{Footprint: footprint})
		return err
	case lifecycle.Undecided, lifecycle.WantNothing, lifecycle.WantMarked, lifecycle.WantFormer, lifecycle.WantReject, lifecycle.WantClash:
	}
	return nil
}

// look says what the namespace holds beside what the table compares it with.
func (p *pass) look(f *lifecycle.Facts) (lifecycle.Holds, error) {
	switch f.Want {
	case lifecycle.WantNone:
		f, err := p.compare()
		if len(f.Differences) == 0 {
			return lifecycle.Whole, err
		}
	case lifecycle.WantOwnInit:
		return p.ownInit()
	case lifecycle.WantFormer, lifecycle.WantReject:
		var err error
		if p.earlier, err = p.heldEarlier(); p.earlier == nil || err != nil {
			return lifecycle.Less, err
		}
		if worth(p.earlier.Judged).Kept() {
			return lifecycle.Enough, nil
		}
	case lifecycle.WantRules:
		return p.lookAtRules(f)
	case lifecycle.Undecided, lifecycle.WantNothing, lifecycle.WantMarked, lifecycle.WantClash:
	}
	return lifecycle.Less, nil
}

// lookAtRules judges the rules of an enrolled sandbox by the plan that is remembered, and those of any other by what is wanted,
// unless they are those that were verified there with another configuration.
func (p *pass) lookAtRules(f *lifecycle.Facts) (holds lifecycle.Holds, err error) {
	o := p.o
	wanted, key := o.Plan, o.Key
	if f.State.Enrolled() {
		o.Plan, o.Key = p.known.Plan, p.known.Key
	}
	if p.earlier, err = p.heldEarlier(); err == nil && p.earlier == nil {
		err = p.judgeRules()
	}
	o.Plan, o.Key = wanted, key
	switch {
	case err != nil:
		return lifecycle.Unseen, err
	case p.earlier == nil:
		return worth(o.Judged), nil
	case worth(p.earlier.Judged) == lifecycle.Whole:
		return lifecycle.Enough, nil
	}
	return worth(p.earlier.Judged), nil
}

// write makes the namespace hold the plan, and reads the kernel to prove that it is there and holds.
func (p *pass) write(f *lifecycle.Facts) error {
	o := p.o
	found := o.Differences
	if o.Trigger == lifecycle.ByHand {
		f, err := p.compare()
		if err != nil {
			return err
		}
		found = f.Differences
	}
	o.Differences = nil
	p.Memory.UpdateKnown(o.Pod.SandboxID, func(sb *memory.Sandbox) { // until that is proven it may be half there
		if sb.State.Enrolled() && sb.Lack != lifecycle.Lost {
			sb.Lack = lifecycle.Unwritten
		}
	})
	if err := p.supersede(); err != nil {
		return err
	}
	if err := p.apply(); err != nil {
		return err
	}
	if err := p.judgeRules(); err != nil {
		return err
	}
	switch worth(o.Judged) {
	case lifecycle.Whole, lifecycle.Enough, lifecycle.LessAway:
		o.Differences = found
		return nil
	case lifecycle.Beside:
		f.Trouble = lifecycle.Hidden
		return nil
	case lifecycle.Unseen, lifecycle.Unclear, lifecycle.Less, lifecycle.Foreign:
	}
	if o.Judged.Same {
		return fmt.Errorf("the kernel holds the pod's rules, and rules of somebody else that take packets from them: %s", o.Difference())
	}
	return fmt.Errorf("the kernel does not hold what was written: %s", o.Difference())
}

func (p *pass) apply() error {
	if err := p.o.Step(p.ctx, outcome.StageApply); err != nil {
		return err
	}
	changed, err := p.in.Apply(p.ctx, p.o.Plan)
	p.o.Changed = p.o.Changed || changed
	return err
}

// judgeRules judges what the namespace holds by the outcome's plan.
func (p *pass) judgeRules() error {
	if err := p.o.Step(p.ctx, outcome.StageVerify); err != nil {
		return err
	}
	f, err := p.judge.Rules(p.ctx, p.in, p.o.Plan, p.o.Key)
	p.o.Found(f)
	return err
}

// worth is what a verdict is to the table.
func worth(v judge.Verdict) lifecycle.Holds {
	switch v.Answer {
	case effect.Equal, effect.More:
		if v.Same {
			return lifecycle.Whole
		}
		return lifecycle.Enough
	case effect.LessWhileAway:
		return lifecycle.LessAway
	case effect.CannotTell:
		if v.Same {
			return lifecycle.Beside
		}
		return lifecycle.Unclear
	case effect.Less:
	}
	return lifecycle.Less
}
