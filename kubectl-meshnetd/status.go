// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

const statusPath = "/v1/status"

// tally is how many pods of the mesh there are, by what is known of them.
type tally struct {
	Protected   int `json:"protected"`
	Outdated    int `json:"outdated"`    // of the protected: with the rules of another version or configuration
	Failing     int `json:"failing"`     // not known to have their rules
	Unprotected int `json:"unprotected"` // known to run without
	Loosened    int `json:"loosened"`    // their containers took away from what their sandbox had, as a policy lets them
	Gaps        int `json:"gapsOpen"`    // of the protected: something can go around their proxy now: those of the next two, and the loosened
	Around      int `json:"ipv6Around"`  // of the protected: their IPv6 goes around their proxy
	CanBypass   int `json:"canBypass"`   // of the protected: a container was given what lets it go around the rules
	NotHeld     int `json:"notHeldBack"` // nothing keeps their containers back while meshnetd is away
}

// add counts a pod. A state that is not known here is one of a newer daemon, and no good one.
func (t *tally) add(sb status.Sandbox) {
	switch sb.State {
	case "protected":
		t.Protected++
	case "outdated":
		t.Protected++
		t.Outdated++
	case "unprotected":
		t.Unprotected++
	case "exempt", "skipped":
		t.Loosened += one(sb.Loosened != "")
		return
	default:
		t.Failing++
	}
	t.Loosened += one(sb.Loosened != "")
	t.Gaps += one(sb.Around || sb.CanBypass != "" || sb.Loosened != "")
	t.Around += one(sb.Around)
	t.CanBypass += one(sb.CanBypass != "")
	t.NotHeld += one(sb.NotHeld != "")
}

func one(is bool) int {
	if is {
		return 1
	}
	return 0
}

func (t *tally) plus(other tally) {
	t.Protected += other.Protected
	t.Outdated += other.Outdated
	t.Failing += other.Failing
	t.Unprotected += other.Unprotected
	t.Loosened += other.Loosened
	t.Gaps += other.Gaps
	t.Around += other.Around
	t.CanBypass += other.CanBypass
	t.NotHeld += other.NotHeld
}

func (t tally) cells() []string {
	var cells []string
	for _, n := range []int{t.Protected, t.Failing, t.Unprotected, t.Loosened, t.Gaps, t.Around, t.CanBypass, t.Outdated, t.NotHeld} {
		cells = append(cells, fmt.Sprint(n))
	}
	return cells
}

// node is what a node's daemon says.
type node struct {
	Node    string `json:"node"`
	Error   string `json:"error,omitempty"` // why it is not known
	Version string `json:"version,omitempty"`
	Runtime string `json:"runtime,omitempty"`
	Tier    string `json:"tier,omitempty"`
	Backend string `json:"backend,omitempty"`
	Session string `json:"session,omitempty"` // with the runtime
	Pods    tally  `json:"pods"`
}

func nodeOf(at place, s status.Status) node {
	n := node{Node: at.node, Version: s.Version, Backend: s.Backend, Session: "connected"}
	if rt := s.Runtime; rt != nil {
		n.Runtime, n.Tier = rt.Name+" "+rt.Version, rt.Tier
	}
	switch {
	case !s.Connected && s.Waiting != nil:
		n.Session = "waiting: " + s.Waiting.Cause
	case !s.Connected:
		n.Session = "not connected"
	case !s.Synchronized:
		n.Session = "taking over"
	}
	for _, sb := range s.Sandboxes {
		n.Pods.add(sb)
	}
	return n
}

func statusCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "status",
		Short: "A row for each node: its version, runtime, tier and pods of the mesh; and the sum",
		Long: "Asks every node, and prints each as it answers: how far the promise holds there, and how many pods of the mesh are protected,\n" +
			"are not known to be (FAILING), run without their rules (UNPROTECTED), run with less than their sandbox had (LOOSENED), or\n" +
			"have something that can go around their proxy (GAPS). -o wide says of which kind the gaps are, and counts those with the\n" +
			"rules of another version (OUTDATED) and those that nothing holds back while meshnetd is away (NOT-HELD).\n\n" +
			"Exit 0 all pods of the mesh are protected; 1 a node did not answer, or has no pod of meshnetd; 2 wrong command line;\n" +
			"4 a pod is not protected.",
		Example: "  kubectl meshnetd status\n  kubectl meshnetd status -l pool=blue -o json | jq -r '.nodes[] | select(.error) | .node'",
		Args:    cobra.NoArgs,
	}
	selector := selectorFlag(c, "nodes")
	o.outputFlag(c, "wide", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		return k.status(c, *selector)
	}
	return c
}

func selectorFlag(c *cobra.Command, what string) *string {
	return c.Flags().StringP("selector", "l", "", "only "+what+" with labels like `SELECTOR`")
}

func (c *cluster) status(command *cobra.Command, selector string) error {
	var all []node
	var sum tally
	heads := []column{{"NODE", 0}, {"VERSION", 14}, {"RUNTIME", 18}, {"TIER", 11}, {"BACKEND", 12}, {"PROTECTED", 0}, {"FAILING", 0}, {"UNPROTECTED", 0}, {"LOOSENED", 0}, {"GAPS", 0}}
	if c.output == "wide" {
		heads = append(heads, column{"IPV6-AROUND", 0}, column{"CAN-BYPASS", 0}, column{"OUTDATED", 0}, column{"NOT-HELD", 0}, column{"SESSION", 0})
	}
	shown := newTable(command.OutOrStdout(), c.output, heads)
	silent, err := ask(command, c, selector, shown, func(s status.Status, at place) node { return nodeOf(at, s) }, func(n node) {
		all = append(all, n)
		sum.plus(n.Pods)
		shown.row(append(append([]string{n.Node, n.Version, n.Runtime, n.Tier, n.Backend}, n.Pods.cells()...), n.Session)...)
	})
	if err != nil {
		return err
	}
	shown.row(append([]string{"total", fmt.Sprintf("%d nodes", len(all)), "", "", ""}, sum.cells()...)...)
	for _, s := range silent {
		all = append(all, node{Node: s.node, Error: s.why})
	}
	slices.SortFunc(all, func(a, b node) int { return cmp.Compare(a.Node, b.Node) })
	if err := shown.document(struct {
		Nodes []node `json:"nodes"`
		Total tally  `json:"total"`
	}{all, sum}); err != nil {
		return err
	}
	return verdict(command, silent, sum)
}

// silence is a node that did not answer, and why.
type silence struct{ node, why string }

// ask has each node's status made something of, where the answer comes in, and taken, one by one. It returns the nodes
// that did not answer, in order.
func ask[T any](command *cobra.Command, c *cluster, selector string, shown *table, of func(status.Status, place) T, take func(T)) ([]silence, error) {
	places, err := c.places(command.Context(), selector)
	if err == nil && len(places) == 0 {
		err = errors.New("there is no such node")
	}
	if err != nil {
		return nil, &exit{exitFailed, err}
	}
	shown.begin(places)
	var silent []silence
	bar := newProgress(command.ErrOrStderr(), len(places))
	each(command.Context(), c, places, func(ctx context.Context, at place) (t T, err error) {
		var s status.Status
		if err = c.tell(ctx, at, &s, statusPath); err != nil {
			return t, err
		}
		return of(s, at), nil
	}, func(at place, t T, err error) {
		bar.step(func() {
			if err != nil {
				silent = append(silent, silence{at.node, err.Error()})
				return
			}
			take(t)
		})
	})
	if err := command.Context().Err(); err != nil {
		return nil, &exit{exitFailed, errors.New("interrupted: what was printed is not all")}
	}
	slices.SortFunc(silent, func(a, b silence) int { return cmp.Compare(a.node, b.node) })
	return silent, nil
}

// verdict lists the nodes of which nothing is known, and says how the command ends.
func verdict(command *cobra.Command, silent []silence, sum tally) error {
	for _, s := range silent {
		fmt.Fprintf(command.ErrOrStderr(), "meshnetd: node %s: %s\n", s.node, status.Plain(s.why))
	}
	bad := sum.Failing + sum.Unprotected
	switch {
	case bad > 0 && len(silent) > 0:
		return &exit{exitUnprotected, fmt.Errorf("%d pods are not protected, and nothing is known of %d nodes", bad, len(silent))}
	case bad > 0:
		return &exit{exitUnprotected, fmt.Errorf("%d pods are not protected: `kubectl meshnetd pods -A` says why", bad)}
	case len(silent) > 0:
		return &exit{exitFailed, fmt.Errorf("nothing is known of %d nodes", len(silent))}
	}
	return nil
}
