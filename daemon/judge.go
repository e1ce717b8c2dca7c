// SPDX-License-Identifier: Apache-2.0

//go:build linux

package daemon

import (
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

func (p *pass) read() (r reading, err error) {
	r.fingerprint, r.generation, err = p.firewall.Fingerprint(p.ctx, p.ns)
	return r, err
}

// ifUnchanged returns the reading where nobody wrote since, else the zero reading.
func (p *pass) ifUnchanged(before reading) reading {
	generation, err := p.firewall.Generation(p.ctx, p.ns)
	if err != nil || generation != before.generation {
		return reading{}
	}
	return before
}

// judgeBy judges the namespace by the outcome's plan, or remembers how the same rules were judged before.
func (p *pass) judgeBy() (err error) {
	if err := p.o.step(p.ctx, StageVerify); err != nil {
		return err
	}
	p.o.Differences, p.o.Effect = nil, effect.Result{}
	if p.o.seen, err = p.read(); err != nil {
		return err
	}
	moved, err := p.routes.Verify(p.o.Plan)
	if err != nil {
		return err
	}
	at := evidence{p.o.key, p.o.seen.fingerprint, ""}
	if judged, known := p.sandboxes.judged(at); known && len(moved) == 0 {
		p.o.judged = judged
		return nil
	}
	around, err := p.surroundings()
	if err != nil {
		return err
	}
	at.around = around.digest()
	if judged, known := p.sandboxes.judged(at); known {
		p.o.judged = judged
		return nil
	}
	if err := p.judge(around); err != nil {
		return err
	}
	if p.o.Effect.Alone {
		at.around = ""
	}
	if p.o.seen = p.ifUnchanged(p.o.seen); p.o.seen.fingerprint != "" { // else it proves nothing
		p.sandboxes.learn(at, p.o.judged)
	}
	return nil
}

// surroundings are what decides about packets beside the rules.
type surroundings struct {
	interfaces []rules.Interface
	have       rules.Plan // the plan's routes and addresses that are there
	accepted   []string   // tables of others by the configuration
}

func (p *pass) surroundings() (s surroundings, err error) {
	if s.interfaces, err = p.routes.Interfaces(); err != nil {
		return s, err
	}
	s.have, err = p.routes.Own(p.o.Plan.Footprint)
	s.accepted = p.o.Plan.Accepted
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
func (p *pass) judge(around surroundings) (err error) {
	if p.o.Differences, err = p.differences(); err != nil {
		return err
	}
	switch {
	case p.o.Plan.Rules() == 0 && len(p.o.Differences) == 0:
	case p.o.Plan.Rules() == 0: // nothing of ours is to be there, whatever it does
		p.o.Effect.Answer = effect.Less
	case around.tooMany():
		p.o.Effect.Answer = effect.CannotTell
	default:
		if p.o.Effect, err = p.firewall.Effect(p.ctx, p.ns, p.o.Plan, around.have, around.interfaces); err != nil {
			return err
		}
	}
	p.o.judged = judgement{words: len(p.o.Differences) == 0, answer: p.o.Effect.Answer, said: p.o.said(), beside: p.o.Beside()}
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
