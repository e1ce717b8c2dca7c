// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
)

func testCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "test -f EXPECT.toml {POD | KIND/NAME}",
		Short: "Say whether packets end in a pod where a file expects them to, without sending them",
		Long: "Traces packets through the rules that the pod's daemon tells, and compares where they end with the files' table [expect],\n" +
			"as in \"tcp in 8080\" = \"proxy\"; `meshnetd test --help` has its words. Of a workload each pod is tested. Of the pod's interfaces\n" +
			"only those are known here that have the addresses in its status.\n\n" +
			"Exit 0 when all end where they should; 4 when some end elsewhere, which is said; 1 no such pod, its node does not answer, or a\n" +
			"packet of which nobody can tell; 2 wrong command line or expectations.",
		Example: "  kubectl meshnetd test -f expect.toml deploy/cart\n  kubectl meshnetd test -f expect.toml cart-7d4b9 -o json | jq '.[] | select(.verdict != \"ok\")'",
		Args:    cobra.ExactArgs(1),
	}
	files := c.Flags().StringArrayP("file", "f", nil, "`FILE` of expectations, TOML")
	_ = c.MarkFlagRequired("file") // fails only for a flag that does not exist
	o.outputFlag(c, "json", "yaml")
	c.ValidArgsFunction = o.completePods
	c.RunE = func(c *cobra.Command, args []string) error {
		expected, err := readExpectations(*files)
		if err != nil {
			return err
		}
		var all []explain.Tested
		failed := o.eachPod(c, args[0], func(ctx context.Context, k *cluster, p pod) error {
			x, err := k.explain(ctx, p)
			if err != nil {
				return err
			}
			scene, err := sceneOf(x, p)
			if err != nil {
				return err
			}
			for _, e := range expected {
				all = append(all, e.Test(scene)...)
			}
			return nil
		})
		if failed != nil && len(all) == 0 {
			return failed
		}
		if o.output == "" {
			err = explain.PrintTested(c.OutOrStdout(), all)
		} else {
			err = newTable(c.OutOrStdout(), o.output, nil).document(all)
		}
		n := explain.CountTested(all)
		switch {
		case err != nil:
			return err
		case n[explain.Elsewhere] > 0:
			return &exit{exitUnprotected, cmp.Or(failed, errSaid)}
		case failed != nil:
			return failed
		case n[explain.Unknown] > 0:
			return &exit{exitFailed, errSaid}
		}
		return nil
	}
	return c
}

func readExpectations(files []string) (all []explain.Expectation, err error) {
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			return nil, &exit{exitFailed, fmt.Errorf("expectations: %w", err)}
		}
		more, err := explain.ParseExpectations(file, string(text))
		if err != nil {
			return nil, &exit{exitBadLine, err}
		}
		all = append(all, more...)
	}
	if len(all) == 0 {
		return nil, errors.New("nothing is expected: name a file by -f")
	}
	return all, nil
}
