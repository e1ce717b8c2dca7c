// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func traceCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "trace {NAMESPACE/POD | SANDBOX-ID | -f POD} [--in] PROTOCOL ADDRESS:PORT",
		Short: "Say which rules a packet meets in a pod, and where it ends, without sending it",
		Long: "Walks the first packet of a connection through the rules that the running daemon keeps in a pod, or with -f through\n" +
			"those that a manifest would get. PROTOCOL is tcp or udp. --out, the default, is a packet that a process of the pod\n" +
			"sends to ADDRESS:PORT; --in one that a peer sends to the pod at ADDRESS:PORT, or :PORT for the pod's own address. What a\n" +
			"virtual machine or a container within the pod sends comes in, too: by --iface, to an address that the pod forwards to.\n" +
			"What is not named is assumed, and said. The tracer does what the kernel does with these rules; what really is in the\n" +
			"kernel is compared by `meshnetd verify`, and what the kernel really does is shown by `meshnetd verify --traffic`.\n\n" +
			"Exit 0 wherever the packet ends; 1 no such pod, no daemon, no right to ask it, or a packet that cannot be; 2 wrong\n" +
			"command line or configuration; 3 the pod of -f is refused.",
		Example: "  meshnetd trace shop/cart-7d4b9 tcp 203.0.113.10:443\n  meshnetd trace shop/cart-7d4b9 tcp 203.0.113.10:443 --uid 1337\n" +
			"  meshnetd trace shop/cart-7d4b9 --in tcp :8080\n  meshnetd trace -f pod.yaml --in --iface docker0=172.17.0.1 --src 172.17.0.2 tcp 203.0.113.10:443\n  meshnetd trace -f pod.yaml udp '[2001:db8::53]:53'",
		Args: cobra.ArbitraryArgs, // counted by words, below
	}
	var q explain.Question
	file := c.Flags().StringP("file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input; without a daemon")
	q.Flags(c.Flags())
	asJSON := c.Flags().Bool("json", false, "print the way as JSON")
	ask := askingFlags(c)
	c.MarkFlagsMutuallyExclusive("in", "out")
	c.ValidArgsFunction = func(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
		before := 1 // words before the protocol
		if *file != "" {
			before = 0
		}
		switch {
		case len(args) < before:
			return ask.pods(c, args, word)
		case len(args) == before:
			return []cobra.Completion{rules.TCP, rules.UDP}, cobra.ShellCompDirectiveNoFileComp
		}
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	c.RunE = func(c *cobra.Command, args []string) error {
		pod, err := q.Words(args, *file)
		if err != nil {
			return err
		}
		scene, err := ask.scene(c, *file, pod)
		if err != nil {
			return err
		}
		way, err := q.Answer(scene)
		if err != nil {
			return untraceable(err)
		}
		if *asJSON {
			return printDocument(c.OutOrStdout(), way)
		}
		return way.Print(c.OutOrStdout())
	}
	return c
}

// untraceable ends the command as the error is one of the words, or of the packet that they make.
func untraceable(err error) error {
	var impossible *explain.Impossible
	if errors.As(err, &impossible) {
		return &exit{exitFailed, err}
	}
	return err
}

func (a asking) scene(c *cobra.Command, file, pod string) (explain.Scene, error) {
	if file != "" {
		return a.sceneOf(c, file)
	}
	socket, sb, err := a.sandbox(c.Context(), pod)
	if err != nil {
		return explain.Scene{}, err
	}
	s := explain.Scene{Pod: sb.Namespace + "/" + sb.Name}
	told, err := status.ReadPlan(c.Context(), socket, sb.ID)
	if err == nil {
		s.Plan, err = explain.PlanOf(told)
	}
	if err == nil {
		s.Interfaces, err = explain.InterfacesOf(told)
	}
	if err != nil {
		return explain.Scene{}, &exit{exitFailed, err}
	}
	if s.Plan.Rules() == 0 {
		s.Outside = strings.TrimSuffix(sb.State+": "+sb.Detail, ": ")
	}
	return s, nil
}

func (a asking) sceneOf(c *cobra.Command, file string) (explain.Scene, error) {
	cfg, pod, err := a.manifest(c, file)
	if err != nil {
		return explain.Scene{}, err
	}
	v := explain.Plan(cfg, pod)
	s := explain.Scene{Pod: pod.Namespace + "/" + pod.Name, Plan: v.Plan, Interfaces: explain.Assumed(pod.IPs)}
	switch v.Decision.Action {
	case rules.Reject:
		return explain.Scene{}, &exit{exitRefused, fmt.Errorf("pod %s is refused, so that it sends nothing: %s", pod, v.Decision.Detail)}
	case rules.Skip:
		s.Outside = fmt.Sprintf("%s: %s", v.Decision.Reason, v.Decision.Detail)
	case rules.Enrol:
	}
	return s, nil
}
