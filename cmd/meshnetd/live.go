// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/judge"
	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/daemon/memory"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/outcome"
	"github.com/meshnetd/meshnetd/daemon/visit"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/rules/effect"
	"github.com/meshnetd/meshnetd/status"
)

// live is a sandbox that the daemon looks at when it is asked.
type live struct {
	*daemon.Enforcer
	id string
}

// Verify implements status.Live.
func (l live) Verify(ctx context.Context) status.Verdict {
	return compared(l.Compare(ctx, l.id))
}

// mostPackets are shown of those that end otherwise than the plan says.
const mostPackets = 3

// compared is the verdict of a comparison: by the rules' words, and by what they do.
func compared(o outcome.Outcome) status.Verdict {
	v := verdict(o)
	if o.Err != nil || o.Plan.Rules() == 0 && len(o.Differences) == 0 {
		return v
	}
	if o.Plan.Rules() > 0 {
		v.Effect = o.Effect.Answer.String()
	}
	for _, d := range o.Effect.Differences[:min(len(o.Effect.Differences), mostPackets)] {
		v.Packets = append(v.Packets, d.String())
	}
	v.Beside = judge.Beside(o.Effect)
	switch {
	case o.Effect.Answer > effect.More:
		v.Result = status.Different
	case len(o.Differences) > 0:
		v.Result = status.Alike
	}
	return v
}

// Repair implements status.Live.
func (l live) Repair(ctx context.Context) status.Verdict {
	o := l.Enforcer.Repair(ctx, l.id)
	v := verdict(o)
	if o.Err == nil && o.Changed {
		v.Result = status.Repaired
	}
	return v
}

func verdict(o outcome.Outcome) status.Verdict {
	v := status.Verdict{Result: status.Whole, Differences: o.Differences, Rules: o.Plan.Rules(), Plan: o.Plan.Key(), Took: status.Milliseconds(o.Took)}
	switch {
	case o.Err != nil:
		v.Result, v.Detail = status.Failed, o.Err.Error()
		if errors.Is(o.Err, netns.ErrGone) || errors.Is(o.Err, visit.ErrUnknown) {
			v.Result = status.Gone
		}
	case o.Decision.Action != rules.Enrol:
		v.Result, v.Detail = status.Exempt, o.Decision.Detail
	}
	return v
}

// Plan implements status.Live.
func (l live) Plan() status.Plan {
	sb, _ := l.View().Sandbox(l.id)
	p := explain.Describe(sb.Plan)
	p.NetNS, p.Device, p.Inode = sb.Pod.NetNS, sb.NetNS.Dev, sb.NetNS.Ino
	for _, i := range l.interfaces(sb) {
		one := status.Interface{Name: i.Name}
		for _, addr := range i.Addresses {
			one.Addresses = append(one.Addresses, addr.String())
		}
		p.Interfaces = append(p.Interfaces, one)
	}
	return p
}

// Explain implements status.Live.
func (l live) Explain() status.Explanation { return l.explanation(l.interfaces) }

// Recall implements status.Live.
func (l live) Recall() status.Explanation {
	return l.explanation(func(sb memory.Sandbox) []rules.Interface { return explain.Assumed(sb.Pod.IPs) })
}

func (l live) explanation(interfacesOf func(memory.Sandbox) []rules.Interface) status.Explanation {
	sb, d, _ := l.Enforcer.View().Explain(l.id)
	interfaces := interfacesOf(sb)
	v := explain.View{Pod: sb.Pod, Decision: d, Plan: sb.Plan}
	if sb.State != lifecycle.StateProtected || sb.Plan.Rules() == 0 { // else it holds its plan, which is the one to speak of
		network := sb.Network
		if network.Addresses == nil { // it was not entered yet
			network.Addresses = rules.GlobalOf(interfaces)
		}
		v = v.Planned(network)
	}
	x := holding(sb, explain.Of(v, interfaces))
	if sb.Why != "" {
		x.Notes = append(x.Notes, "when it was last looked at: "+sb.Why)
	}
	if why := l.View().Loose(sb).Why(); why != "" {
		x.Notes = append(x.Notes, why)
	}
	x.Beside = sb.Beside
	for _, c := range sb.Changes {
		x.Notes = append(x.Notes, "another plugin of the node: "+c.String())
	}
	return x
}

// holding puts what a sandbox holds in place of what would be decided now, where that is something else.
func holding(sb memory.Sandbox, x status.Explanation) status.Explanation {
	if sb.State == lifecycle.StateProtected && x.Key == sb.Plan.Key() {
		return x
	}
	told := explain.Describe(sb.Plan)
	x.Rules, x.Routes, x.Loopback, x.Key = told.Rules, told.Routes, told.Loopback, told.Key
	x.Notes = append([]string{heldNote(sb)}, x.Notes...)
	return x
}

// heldNote says what the rules of a sandbox are that are not those of the explained decision.
func heldNote(sb memory.Sandbox) string {
	what := map[lifecycle.State]string{
		lifecycle.StateOutdated:    "the pod keeps other rules than it would get today (pod_outdated); the settings, and what is not captured, are those of today's",
		lifecycle.StateUnproven:    "nobody can tell what becomes of the pod's packets (pod_unproven)",
		lifecycle.StateUnprotected: "the pod runs without its rules: nothing of what follows is in force",
		lifecycle.StatePending:     "the pod was there before meshnetd and has not been looked at yet: nothing is known of its rules",
		lifecycle.StateFailing:     "the pod's rules could not be written or read when they were last looked at; it is tried again with each audit",
		lifecycle.StateExempt:      "a container showed that the pod has no sidecar to redirect to: it has no rules",
		lifecycle.StateSkipped:     "the pod bears an injector's mark, or a lockdown reports pods without a mesh, and it is left alone",
	}[sb.State]
	if what == "" {
		what = "the pod's rules are other ones than what would be decided now"
	}
	if sb.State != lifecycle.StateProtected && sb.Detail != "" {
		what += ": " + sb.Detail
	}
	return what
}

// interfaces reads those of a sandbox, or tells what the runtime said.
func (l live) interfaces(sb memory.Sandbox) []rules.Interface {
	read, err := l.View().Interfaces(sb)
	if err != nil {
		return explain.Assumed(sb.Pod.IPs)
	}
	return read
}
