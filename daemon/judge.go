// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
	"context"
	"crypto/sha256"
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// judgement is what the rules of a namespace are worth to a plan.
type judgement struct {
	words  bool // rule by rule they are the plan's
	answer effect.Answer
	said   string   // how they differ, and a packet that shows what comes of it
	beside []string // what tables of others do
}

// reading identifies a namespace's rules: the fingerprint compares them with other namespaces', the generation shows
// whether anything was written since.
type reading struct{ fingerprint, generation string }

func (e *Enforcer) read(ctx context.Context, ns entered) (r reading, err error) {
	r.fingerprint, r.generation, err = e.firewall.Fingerprint(ctx, ns.Namespace)
	return r, err
}

// ifUnchanged returns the reading where nobody wrote since, else the zero reading.
func (e *Enforcer) ifUnchanged(ctx context.Context, ns entered, before reading) reading {
	generation, err := e.firewall.Generation(ctx, ns.Namespace)
	if err != nil || generation != before.generation {
		return reading{}
	}
	return before
}

// judgeBy judges the namespace by the outcome's plan, or remembers how the same rules were judged before.
func (e *Enforcer) judgeBy(ctx context.Context, ns entered, o *Outcome) (err error) {
	if err := o.step(ctx, StageVerify); err != nil {
		return err
	}
	o.Differences, o.Effect = nil, effect.Result{}
	if o.seen, err = e.read(ctx, ns); err != nil {
		return err
	}
	moved, err := ns.routes.Verify(o.Plan)
	if err != nil {
		return err
	}
	at := evidence{o.key, o.seen.fingerprint, ""}
	j, known := e.sandboxes.judged(at)
	if o.judged = j; known && len(moved) == 0 {
		return nil
	}
	around, err := surroundingsOf(ns, o.Plan)
	if err != nil {
		return err
	}
	at.around = around.digest()
	if o.judged, known = e.sandboxes.judged(at); known {
		return nil
	}
	if err := e.judge(ctx, ns, o, around); err != nil {
		return err
	}
	if o.Effect.Alone {
		at.around = ""
	}
	if o.seen = e.ifUnchanged(ctx, ns, o.seen); o.seen.fingerprint != "" { // else it proves nothing
		e.sandboxes.learn(at, o.judged)
	}
	return nil
}

// surroundings are what decides about packets beside the rules.
type surroundings struct {
	interfaces []rules.Interface
	have       rules.Plan // the plan's routes and addresses that are there
	accepted   []string   // tables of others by the configuration
}

func surroundingsOf(ns entered, plan rules.Plan) (s surroundings, err error) {
	if s.interfaces, err = ns.routes.Interfaces(); err != nil {
		return s, err
	}
	s.have, err = ns.routes.Own(plan.Footprint)
	s.accepted = plan.Accepted
	return s, err
}

// digest names surroundings.
func (s surroundings) digest() string {
	sum := sha256.Sum256(fmt.Append(nil, s.interfaces, s.have.Routes, s.have.Loopback, s.accepted))
	return string(sum[:])
}

// What a pod may have so that its rules are judged by what they do: whoever has NET_ADMIN in it chooses how much there is.
const (
	mostInterfaces = 64
	mostAddresses  = 512
)

func (s surroundings) tooMany() bool {
	n := 0
	for _, i := range s.interfaces {
		n += len(i.Addresses)
	}
	return len(s.interfaces) > mostInterfaces || n > mostAddresses
}

// judge compares the namespace with the outcome's plan, rule by rule and by what becomes of packets. It remembers nothing.
func (e *Enforcer) judge(ctx context.Context, ns entered, o *Outcome, around surroundings) (err error) {
	if o.Differences, err = e.differences(ctx, ns, o); err != nil {
		return err
	}
	switch {
	case o.Plan.Rules() == 0 && len(o.Differences) == 0:
	case o.Plan.Rules() == 0: // nothing of ours is to be there, whatever it does
		o.Effect.Answer = effect.Less
	case around.tooMany():
		o.Effect.Answer = effect.CannotTell
	default:
		if o.Effect, err = e.firewall.Effect(ctx, ns.Namespace, o.Plan, around.have, around.interfaces); err != nil {
			return err
		}
	}
	o.judged = judgement{words: len(o.Differences) == 0, answer: o.Effect.Answer, said: o.said(), beside: o.Beside()}
	return nil
}

// Beside is what tables of others do, in a bounded number of words.
func (o Outcome) Beside() (said []string) {
	for _, n := range o.Effect.Beside {
		said = append(said, short(n.String()))
	}
	return said
}

// said is how the rules that are there differ from the plan: the first differences, and a packet that shows what comes of
// them.
func (o Outcome) said() string {
	var parts []string
	if len(o.Differences) > 0 {
		parts = append(parts, o.some())
	}
	if len(o.Effect.Differences) > 0 {
		parts = append(parts, fmt.Sprintf("by what becomes of packets it %s: %s", o.Effect.Answer, short(o.Effect.Differences[0].String())))
	} else if o.Effect.Answer == effect.CannotTell {
		parts = append(parts, "what becomes of packets cannot be told within the work that is done for it")
	}
	return strings.Join(parts, "; ")
}
