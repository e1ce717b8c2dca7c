// SPDX-License-Identifier: Apache-2.0

//go:build linux

// Package traffic proves by packets that a live network namespace does what a plan says. It sends a packet
// for each owner, address and port that the plan names, and compares where each ended with what the tracer says of the same
// packet.
//
// The pod does not notice. A TCP packet is the first of a connection and carries a signature that fits no key: the kernel
// walks it through all rules and routes to the listener, counts it there, and drops it without an answer. What is
// to leave the pod has a wrong checksum too, and goes no further than to the node. What is to arrive is handed to
// the kernel as if the interface had received it. The connections that the kernel then tracks are deleted.
package traffic

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
)

// Check is one packet: what was sent, where it ended and what the rules say.
type Check struct {
	About   string
	Packet  rules.Packet // as it was sent; zero where none was
	Rules   rules.Path   // its way by the plan
	Seen    rules.End    // where it ended
	Verdict Verdict
	Note    string
}

// String returns the check in one line.
func (c Check) String() string {
	text := fmt.Sprintf("%-12s  %s", c.Verdict, c.About)
	if c.Packet.Protocol != "" {
		text += fmt.Sprintf(": %s: %s", c.Packet, c.Seen)
	}
	if c.Verdict == Wrong && c.Seen != c.Rules.End {
		text += "; the rules say: " + c.Rules.End.String() + why(c.Rules)
	}
	if c.Note != "" {
		text += "; " + c.Note
	}
	return text
}

// why is the reason of the last rule that decided, where it is known.
func why(p rules.Path) string {
	for _, step := range slices.Backward(p.Steps) {
		if step.Rule.Why != "" {
			return " (" + step.Rule.Why + ")"
		}
	}
	return ""
}

// Run sends the packets that show whether the namespace does what the plan says, one after the other. Its error
// says why nothing can be proved; what cannot be proved of one packet is in its Check. It takes CAP_SYS_ADMIN,
// CAP_NET_ADMIN, CAP_NET_RAW, CAP_SETUID and CAP_SETGID, and for what is to arrive in the pod CAP_BPF and
// Linux 5.18.
func Run(ctx context.Context, ns *netns.Namespace, plan rules.Plan) ([]Check, error) {
	var checks []Check
	err := visit(ns, plan, func(r *run) error {
		for _, p := range probes(plan, r.scene) {
			if err := ctx.Err(); err != nil {
				return err
			}
			if c, shown := r.check(p); shown {
				checks = append(checks, c)
			}
		}
		return nil
	})
	return checks, err
}

// Send sends these packets, in the same way, and returns a Check for each. They leave by the interface that the pod's routes say.
func Send(ctx context.Context, ns *netns.Namespace, plan rules.Plan, packets []rules.Packet) ([]Check, error) {
	var checks []Check
	err := visit(ns, plan, func(r *run) error {
		for _, p := range packets {
			if err := ctx.Err(); err != nil {
				return err
			}
			c, shown := r.check(r.sendable(p))
			switch {
			case !shown && c.Verdict == "":
				c.Verdict, c.Note = Unproven, "the pod would forward it, to somebody else"
			case c.Seen.Kind == rules.Dropped && !r.tracks(p.Family()):
				c.Verdict, c.Note = Unproven, "no connection of its family is tracked in this namespace: what leaves and what is dropped look the same"
			}
			checks = append(checks, c)
		}
		return nil
	})
	return checks, err
}

func visit(ns *netns.Namespace, plan rules.Plan, send func(*run) error) error {
	counting, err := counts()
	if err == nil {
		err = ns.Do(func() error {
			r, err := newRun(ns, plan, counting)
			if err != nil {
				return err
			}
			defer r.close()
			return send(r)
		})
	}
	if err != nil {
		return fmt.Errorf("send packets in %s: %w", ns.Path(), err)
	}
	return nil
}

// Counts returns how many checks have each verdict.
func Counts(checks []Check) map[Verdict]int {
	n := map[Verdict]int{}
	for _, c := range checks {
		n[c.Verdict]++
	}
	return n
}

// Summary says in one line what was proved.
func Summary(checks []Check) string {
	n := Counts(checks)
	parts := []string{fmt.Sprintf("%d as the rules say", n[Right]), fmt.Sprintf("%d wrong", n[Wrong])}
	if n[Unproven] > 0 {
		parts = append(parts, fmt.Sprintf("%d not provable", n[Unproven]))
	}
	return fmt.Sprintf("%d checks: %s", len(checks), strings.Join(parts, ", "))
}
