// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"fmt"
	"strings"

	"github.com/meshnetd/meshnetd/config"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/daemon/traffic"
	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// sender returns what sends packets in a sandbox of the daemon. The daemon tells the plan; the packets are sent by
// this process, so that the daemon needs no more rights than to write rules.
func sender(cfg config.Config) func(context.Context, string, status.Sandbox, *answer) error {
	return func(ctx context.Context, socket string, sb status.Sandbox, one *answer) error {
		return inSandbox(ctx, cfg, socket, sb, func(ns *netns.Namespace, plan rules.Plan) error { return one.send(ctx, ns, plan) })
	}
}

func inSandbox(ctx context.Context, cfg config.Config, socket string, sb status.Sandbox, fn func(*netns.Namespace, rules.Plan) error) error {
	told, err := status.ReadPlan(ctx, socket, sb.ID)
	if err != nil {
		return err
	}
	plan, err := explain.PlanOf(told)
	if err != nil {
		return err
	}
	host, err := netns.Host(cfg.HostNetNS)
	if err != nil {
		return err
	}
	return inNamespace(sb.NetNS, host, netns.ID{Dev: told.Device, Ino: told.Inode}, func(ns *netns.Namespace) error { return fn(ns, plan) })
}

// inNamespace opens the namespace at the path, which must be this one.
func inNamespace(path string, host []netns.ID, id netns.ID, fn func(*netns.Namespace) error) error {
	ns, err := netns.Open(path, host)
	if err != nil {
		return err
	}
	defer ns.Close()
	if ns.ID() != id {
		return fmt.Errorf("%s is %s, and the pod's rules are in %s: its sandbox is gone, or nothing was put into it yet", path, ns.ID(), id)
	}
	return fn(ns)
}

// send sends packets in a namespace that is to hold the plan.
func (one *answer) send(ctx context.Context, ns *netns.Namespace, plan rules.Plan) error {
	checks, err := traffic.Run(ctx, ns, plan)
	one.take(checks)
	return err
}

// send sends the packets of a test in the pod that was asked about, and says where they ended.
func (f testFlags) send(ctx context.Context, pod string, all []explain.Tested) error {
	cfg, err := f.ask.read()
	if err != nil {
		return err
	}
	socket, sb, err := f.ask.sandbox(ctx, pod)
	if err != nil {
		return err
	}
	var packets []rules.Packet
	var sent []*explain.Tested
	for i := range all {
		if p := all[i].Sendable(); p.Protocol != "" {
			packets, sent = append(packets, p), append(sent, &all[i])
		}
	}
	return inSandbox(ctx, cfg, socket, sb, func(ns *netns.Namespace, plan rules.Plan) error {
		checks, err := traffic.Send(ctx, ns, plan, packets)
		for i, c := range checks {
			if c.Verdict == traffic.Unproven {
				sent[i].Untold(c.Note)
				continue
			}
			note := c.Note
			if c.Verdict == traffic.Wrong {
				note = strings.TrimPrefix(note+"; the rules say: "+c.Rules.End.String(), "; ")
			}
			sent[i].Sent(c.Packet, c.Seen, note)
		}
		return err
	})
}

// take keeps what was sent for both ways to print it.
func (one *answer) take(checks []traffic.Check) {
	one.checks, one.sent = checks, true
	for _, c := range checks {
		p := packet{Verdict: strings.ReplaceAll(strings.ToLower(string(c.Verdict)), " ", "-"), About: c.About, Note: c.Note}
		if c.Packet.Protocol != "" {
			p.Packet, p.Seen, p.Rules = c.Packet.String(), c.Seen.String(), c.Rules.End.String()
		}
		one.Traffic = append(one.Traffic, p)
	}
}
