// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/status"
)

func traceCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "trace {POD | KIND/NAME} [--in] PROTOCOL ADDRESS:PORT",
		Short: "Say which rules a packet meets in a pod, and where it ends, without sending it",
		Long: "Walks the first packet of a connection through the rules that the pod's daemon tells. The words and flags are those of\n" +
			"`meshnetd trace`. Of the pod's interfaces only those are known here that have the addresses in its status.\n\n" +
			"Exit 0 wherever the packet ends; 1 no such pod, its node does not answer, or a packet that cannot be; 2 wrong command line.",
		Example: "  kubectl meshnetd trace cart-7d4b9 tcp 203.0.113.10:443\n  kubectl meshnetd trace deploy/cart --in tcp :8080",
		Args:    cobra.ExactArgs(3),
	}
	var q explain.Question
	q.Flags(c.Flags())
	o.outputFlag(c, "json", "yaml")
	c.MarkFlagsMutuallyExclusive("in", "out")
	c.ValidArgsFunction = o.completePods
	c.RunE = func(c *cobra.Command, args []string) error {
		name, err := q.Words(args, "")
		if err != nil {
			return err
		}
		shown := newTable(c.OutOrStdout(), o.output, nil)
		all := []explain.Way{}
		err = o.eachPod(c, name, func(ctx context.Context, k *cluster, p pod) error {
			x, err := k.explain(ctx, p)
			if err != nil {
				return err
			}
			way, err := wayIn(q, x, p)
			if err != nil {
				return err
			}
			all = append(all, way)
			if o.output != "" {
				return nil
			}
			return way.Print(c.OutOrStdout())
		})
		if err != nil {
			return err
		}
		return shown.document(all)
	}
	return c
}

func wayIn(q explain.Question, x status.Explanation, p pod) (explain.Way, error) {
	scene, err := sceneOf(x, p)
	if err != nil {
		return explain.Way{}, err
	}
	way, err := q.Answer(scene)
	var impossible *explain.Impossible
	if err != nil && !errors.As(err, &impossible) {
		err = &exit{exitBadLine, err}
	}
	return way, err
}

func sceneOf(x status.Explanation, p pod) (explain.Scene, error) {
	plan, err := planOf(x)
	if err != nil {
		return explain.Scene{}, err
	}
	scene := explain.Scene{Pod: x.Namespace + "/" + x.Name, Plan: plan, Interfaces: explain.Assumed(p.addresses())}
	if plan.Rules() == 0 {
		scene.Outside = x.Reason + ": " + x.Detail
	}
	return scene, nil
}
