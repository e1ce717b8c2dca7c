// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package judge says what the rules of a namespace are worth to a plan, by what becomes of packets.
package judge

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"sync"

	"github.com/meshnetd/meshnetd/daemon/fair"
	"github.com/meshnetd/meshnetd/daemon/kernel"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
)

// Verdict is what the rules are worth. It holds for every pod with the same plan and the same rules, and names none.
type Verdict struct {
	Same    bool // rule by rule they are the plan's
	Answer  effect.Answer
	Backend string   // what writes the plan there
	Beside  []string // what tables of others do
	Packets string   // a packet that shows what comes of the differences; "" where there is none
	first   []string // of the differences, the few that are told
	bounds  *effect.Bounds
	found   int // how many there are
}

// Said is how the rules of the pod differ from the plan; "" where they do not.
func (v Verdict) Said(pod rules.Pod) string {
	said := Short(strings.Join(v.first, "; "))
	if len(v.first) < v.found {
		said = fmt.Sprintf("%s; these are %d of %d differences: while the sandbox is there, `meshnetd verify %s/%s` on its node lists all",
			said, len(v.first), v.found, pod.Namespace, pod.Name)
	}
	if said != "" && v.Packets != "" {
		said += "; "
	}
	return said + v.Packets
}

// Finding is a verdict, with what it follows from where that was read now.
type Finding struct {
	Verdict
	Generation  string   // of the rules that were read; "" where they changed meanwhile, or may without a new one
	Around      string   // what beside the rules it depends on, as Around names that; "" where it holds whatever that is
	Differences []string // bounded
	Effect      effect.Result
}

// Judge remembers how rules were judged. Its zero value has judged nothing.
type Judge struct {
	mu    sync.Mutex
	known map[evidence]Verdict
}

// evidence is what a verdict holds for: rules with this fingerprint, compared with a plan, among these interfaces, addresses
// and routes; "" is any, where the plan's rules are all that there is.
type evidence struct{ plan, fingerprint, around string }

// ofOthers is what is known of pods with the same plan and rules, and other addresses: only the bounds between which theirs
// make no difference.
func (e evidence) ofOthers() evidence { return evidence{e.plan, e.fingerprint, "bounds"} }

// mostEvidence bounds the memory for it. As a rule a plan has one fingerprint on a node.
const mostEvidence = 4096

func (j *Judge) recall(at evidence) (Verdict, bool) {
	j.mu.Lock()
	defer j.mu.Unlock()
	v, known := j.known[at]
	return v, known
}

func (j *Judge) learn(at evidence, v Verdict) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.known == nil || len(j.known) >= mostEvidence {
		j.known = map[evidence]Verdict{}
	}
	j.known[at] = v
}

// Rules judges the namespace by a plan, whose key is given, or remembers how the same rules were judged before.
func (j *Judge) Rules(ctx context.Context, in kernel.Inside, plan rules.Plan, key string) (f Finding, err error) {
	fingerprint, generation, err := in.Rules.Fingerprint(ctx, in.NS)
	if err != nil {
		return f, err
	}
	f.Generation = generation
	moved, err := in.Routes.Verify(plan)
	if err != nil {
		return f, err
	}
	at := evidence{plan: key, fingerprint: fingerprint}
	var known bool
	if f.Verdict, known = j.recall(at); known && len(moved) == 0 {
		return f, nil
	}
	around, err := look(in, plan)
	if err != nil {
		return f, err
	}
	f.Around = around.digest(plan, nil)
	if like, known := j.recall(at.ofOthers()); known {
		at.around = around.digest(plan, like.bounds)
		if f.Verdict, known = j.recall(at); known {
			return f, nil
		}
	}
	at.around = f.Around
	if f.Verdict, known = j.recall(at); known {
		return f, nil
	}
	if f, err = around.judge(ctx, in, plan); err != nil {
		return f, err
	}
	bounds := f.Effect.Bounds
	switch f.Around = at.around; {
	case f.Effect.Alone:
		at.around, f.Around = "", ""
	case bounds != nil && !around.named(f.Packets):
		at.around = around.digest(plan, bounds)
	default:
		bounds = nil
	}
	if now, err := in.Rules.Generation(ctx, in.NS); err == nil && now == generation { // else it proves nothing
		f.Generation = generation
		if j.learn(at, f.Verdict); bounds != nil {
			j.learn(at.ofOthers(), Verdict{bounds: bounds})
		}
	}
	return f, nil
}

// Around names what verdicts depend on beside the rules: interfaces can be made, and renamed, without a change of the rules.
func Around(in kernel.Inside, plan rules.Plan) (string, error) {
	around, err := look(in, plan)
	return around.digest(plan, nil), err
}

// Anew judges the namespace by a plan, whatever was judged before.
func Anew(ctx context.Context, in kernel.Inside, plan rules.Plan) (Finding, error) {
	around, err := look(in, plan)
	if err != nil {
		return Finding{}, err
	}
	return around.judge(ctx, in, plan)
}

// Plans says what the rules of an earlier plan do that today's do not, or the other way round. Pods of one kind are compared
// once.
func (j *Judge) Plans(today, earlier rules.Plan) string {
	if today.Rules() == 0 { // the pod would get none
		return ""
	}
	at := evidence{today.Key(), earlier.Key(), "plans"}
	v, known := j.recall(at)
	if !known {
		v.Packets = packets(effect.ComparePlans(today, earlier))
		j.learn(at, v)
	}
	return v.Packets
}

// surroundings are what decides about packets beside the rules.
type surroundings struct {
	interfaces []rules.Interface
	have       rules.Plan // the plan's routes and addresses that are there
}

func look(in kernel.Inside, plan rules.Plan) (s surroundings, err error) {
	if s.interfaces, err = in.Routes.Interfaces(); err != nil {
		return s, err
	}
	s.have, err = in.Routes.Own(plan.Footprint)
	return s, err
}

// digest names surroundings, with the tables of others that the plan accepts. Where bounds are known, addresses between the
// same ones are alike.
func (s surroundings) digest(plan rules.Plan, bounds *effect.Bounds) string {
	interfaces := fmt.Sprint(s.interfaces)
	if bounds != nil {
		interfaces = bounds.Symbols(s.interfaces)
	}
	sum := sha256.Sum256(fmt.Append(nil, bounds != nil, interfaces, s.have.Routes, s.have.Loopback, plan.Accepted))
	return string(sum[:])
}

// named reports whether a text has an address of the pod.
func (s surroundings) named(text string) bool {
	return slices.ContainsFunc(s.interfaces, func(i rules.Interface) bool {
		return slices.ContainsFunc(i.Addresses, func(a netip.Addr) bool { return strings.Contains(text, a.String()) })
	})
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

// judge compares the namespace with the plan, rule by rule and by what becomes of packets.
func (s surroundings) judge(ctx context.Context, in kernel.Inside, plan rules.Plan) (f Finding, err error) {
	var found int
	if f.Differences, found, err = Differences(ctx, in, plan); err != nil {
		return f, err
	}
	switch {
	case plan.Rules() == 0 && found == 0:
	case plan.Rules() == 0: // nothing of ours is to be there, whatever it does
		f.Effect.Answer = effect.Less
	case s.tooMany():
		f.Effect.Answer = effect.CannotTell
	default:
		if f.Effect, err = in.Rules.Effect(ctx, in.NS, plan, s.have, s.interfaces); err != nil {
			return f, err
		}
	}
	f.Verdict = Verdict{Same: found == 0, Answer: f.Effect.Answer, Backend: in.Rules.Name(in.NS, plan), Beside: Beside(f.Effect), Packets: packets(f.Effect),
		first: f.Differences[:min(len(f.Differences), mostTold)], found: found}
	return f, nil
}

// Differences reads the kernel and tells every way in which it does not hold the plan, in a bounded number of words, and how
// many there are.
func Differences(ctx context.Context, in kernel.Inside, plan rules.Plan) (told []string, found int, err error) {
	if err := fair.GivenUp(ctx); err != nil {
		return nil, 0, err
	}
	differences, err := in.Rules.Verify(ctx, in.NS, plan)
	if err != nil {
		return nil, 0, err
	}
	moved, err := in.Routes.Verify(plan)
	for _, d := range differences[:min(len(differences), mostNamed)] {
		told = append(told, Short(d.String()))
	}
	if rest := len(differences) - mostNamed; rest > 0 {
		told = append(told, fmt.Sprintf("and %d more", rest))
	}
	return append(told, moved...), len(differences) + len(moved), err
}

// What is kept of a namespace's differences, and how much is said of some: whoever writes into a pod's namespace chooses how
// many there are, and how long. A few are told where an application developer reads of them.
const (
	mostNamed = 512
	mostSaid  = 1 << 10
	mostTold  = 3
)

// Short bounds what is said of what others wrote.
func Short(text string) string { return strings.ToValidUTF8(text[:min(len(text), mostSaid)], "") }

// Beside is what tables of others do, in a bounded number of words.
func Beside(r effect.Result) (said []string) {
	for _, n := range r.Beside {
		said = append(said, Short(n.String()))
	}
	return said
}

// packets shows by a packet what comes of the differences.
func packets(r effect.Result) string {
	switch {
	case len(r.Differences) > 0:
		return fmt.Sprintf("by what becomes of packets it %s: %s", r.Answer, Short(r.Differences[0].String()))
	case r.Answer == effect.CannotTell:
		return "what becomes of packets cannot be told within the work that is done for it"
	}
	return ""
}
