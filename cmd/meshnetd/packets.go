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
		return one.send(ctx, host, plan, netns.ID{Dev: told.Device, Ino: told.Inode})
	}
}

// send sends packets in the namespace of the answer's path, which must be this one.
func (one *answer) send(ctx context.Context, host []netns.ID, plan rules.Plan, id netns.ID) error {
	ns, err := netns.Open(one.NetNS, host)
	if err != nil {
		return err
	}
	defer ns.Close()
	if ns.ID() != id {
		return fmt.Errorf("%s is %s, and the pod's rules are in %s: its sandbox is gone, or nothing was put into it yet", one.NetNS, ns.ID(), id)
	}
	checks, err := traffic.Run(ctx, ns, plan)
	one.take(checks)
	return err
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
