// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"context"
	"errors"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/daemon"
	"github.com/meshnetd/meshnetd/daemon/netns"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

// verifyFlags is what a verify was asked for.
type verifyFlags struct {
	netns, file                string
	all, repair, traffic, json bool
	ask                        asking
}

func verifyCommand() *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify [NAMESPACE/POD | SANDBOX-ID | --all | --netns PATH -f POD]",
		Short: "Compare pods, or a network namespace, with what they are to hold",
		Long: "Asks the running daemon to read a pod's rules from the kernel and to compare them with the pod's plan; with\n" +
			"--netns and -f does it without a daemon. --repair brings the rules to what the daemon's configuration says today.\n" +
			"Then it is judged what all tables that are there, whoever wrote them, do to packets beside the plan: the same, more, less,\n" +
			"or what cannot be told, with packets that show it.\n" +
			"--traffic sends the packets that show what the kernel does, which also finds what others put beside the rules;\n" +
			"no connection comes of them, neither for the app nor for the proxy.\n\n" +
			"Exit 0 when the rules do what the plan says, or more, also where their words differ, which is said, and when they are\n" +
			"repaired; 4 where packets go around that the plan takes, or that cannot be told; 1 failed; 2 wrong command line\n" +
			"or, with --netns, configuration;\n" +
			"3 the pod of -f is refused. What is not provable is said, and is no difference.",
		Example: "  meshnetd verify shop/cart-7d4b9\n  meshnetd verify --all --repair\n  meshnetd verify --traffic shop/cart-7d4b9\n" +
			"  meshnetd verify --traffic --netns /var/run/netns/cni-0123 -f pod.yaml",
		Args: cobra.MaximumNArgs(1),
	}
	c.Flags().StringVar(&f.netns, "netns", "", "`PATH` of the network namespace; needs -f")
	c.Flags().StringVarP(&f.file, "file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input; needs --netns")
	c.Flags().BoolVar(&f.all, "all", false, "every pod of the mesh on this node")
	c.Flags().BoolVar(&f.repair, "repair", false, "bring the rules to what the daemon's configuration says today")
	c.Flags().BoolVar(&f.traffic, "traffic", false, "send packets instead of comparing rules")
	c.Flags().BoolVar(&f.json, "json", false, "print the answer as JSON")
	f.ask = askingFlags(c)
	c.ValidArgsFunction = f.ask.pods
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := f.check(args); err != nil {
			return err
		}
		a := &answers{json: f.json, prefix: f.all, out: c.OutOrStdout()}
		ask := f.verifyPods
		if f.netns != "" {
			ask = f.verifyNamespace
		}
		if err := ask(c, strings.Join(args, ""), a); err != nil {
			return err
		}
		return a.end()
	}
	return c
}

// check returns what is wrong with the command line.
func (f verifyFlags) check(args []string) error {
	switch {
	case (f.netns == "") != (f.file == ""):
		return errors.New("--netns and -f go together: the namespace, and the pod that it is to be compared with")
	case f.netns != "" && (len(args) > 0 || f.all || f.repair):
		return errors.New("--netns is for a namespace that no daemon knows: it goes without a pod, --all and --repair (`meshnetd apply` repairs)")
	case f.netns == "" && (len(args) == 1) == f.all:
		return errors.New("name a pod as NAMESPACE/POD, or all of them by --all, or a namespace by --netns PATH -f POD")
	case f.traffic && f.repair:
		return errors.New("--traffic shows what is there, and --repair changes it: call one after the other")
	}
	return nil
}

// verifyNamespace does it without a daemon.
func (f verifyFlags) verifyNamespace(c *cobra.Command, _ string, a *answers) error {
	return onNamespace(c, f.netns, *f.ask.config, f.file, func(ctx context.Context, e *daemon.Enforcer, host []netns.ID, pod rules.Pod) error {
		o := e.Verify(ctx, pod)
		if o.Err != nil {
			return failure(o)
		}
		one := answer{Namespace: pod.Namespace, Name: pod.Name, NetNS: f.netns}
		switch v := compared(o); {
		case o.Decision.Reason == rules.ReasonInitContainer:
			one.Verdict = &v
		case f.traffic:
			send := func(ns *netns.Namespace) error { return one.send(ctx, ns, o.Plan) }
			if err := inNamespace(f.netns, host, o.NetNS, send); err != nil {
				return &exit{exitFailed, err}
			}
		default: // a pod that is left alone is to have nothing of ours
			if v.Result == status.Exempt {
				v.Result = status.Whole
			}
			one.Verdict = &v
		}
		return a.add(one)
	})
}

// verifyPods asks the daemon.
func (f verifyFlags) verifyPods(c *cobra.Command, name string, a *answers) error {
	cfg, err := f.ask.read()
	if err != nil {
		return err
	}
	socket, s, err := f.ask.status(c.Context())
	if err != nil {
		return err
	}
	chosen := s.Sandboxes
	if !f.all {
		one, err := choose(s.Sandboxes, name)
		if err != nil {
			return &exit{exitFailed, err}
		}
		chosen = []status.Sandbox{one}
	}
	look := judged(status.Verify)
	switch {
	case f.traffic:
		look = sender(cfg)
	case f.repair:
		look = judged(status.Repair)
	}
	for _, sb := range chosen {
		ctx, cancel := context.WithTimeout(c.Context(), commandTimeout)
		one := answer{Namespace: sb.Namespace, Name: sb.Name, ID: sb.ID, NetNS: sb.NetNS}
		err := look(ctx, socket, sb, &one)
		cancel()
		if f.all && (errors.Is(err, status.ErrUnknown) || one.ended()) {
			continue
		}
		if err != nil {
			one.Error = err.Error()
		}
		if err := a.add(one); err != nil {
			return err
		}
	}
	return nil
}

// judged asks the daemon for its verdict about a sandbox.
func judged(ask func(ctx context.Context, socket, id string) (status.Verdict, error)) func(context.Context, string, status.Sandbox, *answer) error {
	return func(ctx context.Context, socket string, sb status.Sandbox, one *answer) error {
		v, err := ask(ctx, socket, sb.ID)
		one.Verdict = &v
		return err
	}
}
