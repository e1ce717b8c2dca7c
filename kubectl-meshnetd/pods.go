// SPDX-License-Identifier: Apache-2.0

package main

import (
	"cmp"
	"context"
	"fmt"
	"net/url"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

// member is a pod of the mesh.
type member struct {
	Node      string    `json:"node"`
	Namespace string    `json:"namespace"`
	Name      string    `json:"name"`
	State     string    `json:"state"`
	Mesh      string    `json:"mesh"`
	Reason    string    `json:"reason"`
	Since     time.Time `json:"since,omitzero"`
	Plan      string    `json:"plan"`
	Backend   string    `json:"backend"`
	Source    string    `json:"source"`
	Why       string    `json:"why,omitempty"`
	Around    bool      `json:"ipv6Around,omitempty"`
}

func memberOf(node string, sb status.Sandbox) member {
	return member{Node: node, Namespace: sb.Namespace, Name: sb.Name, State: sb.State, Mesh: sb.Mesh, Reason: sb.Reason, Since: sb.Since,
		Plan: sb.Plan, Backend: sb.Backend, Source: sb.Source, Why: sb.News(), Around: sb.Around}
}

func podsCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "pods",
		Short: "A row for each pod of the mesh: its node, outcome, and why",
		Long: "Asks every node, and prints its pods of the mesh as it answers. Pods outside the mesh are not listed: `explain` says why one\n" +
			"is outside. -o wide has the plan, what wrote it, and by whom the pod is known.\n\n" +
			"Exit 0 all these pods are protected; 1 a node did not answer, or has no pod of meshnetd; 2 wrong command line; 4 a pod is\n" +
			"not protected.",
		Example: "  kubectl meshnetd pods -n shop\n  kubectl meshnetd pods -A --outcome failing,unprotected\n  kubectl meshnetd pods -A -l app=cart -o yaml",
		Args:    cobra.NoArgs,
	}
	selector := selectorFlag(c, "pods")
	all := allFlag(c)
	outcomes := c.Flags().StringSlice("outcome", nil, "only pods in one of these `STATES`, such as failing,unprotected")
	o.outputFlag(c, "wide", "json", "yaml")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		chosen, err := k.selected(c.Context(), *all, *selector)
		if err != nil {
			return &exit{exitFailed, err}
		}
		return k.pods(c, func(sb status.Sandbox) bool {
			return chosen(sb) && (len(*outcomes) == 0 || slices.Contains(*outcomes, sb.State))
		})
	}
	return c
}

func allFlag(c *cobra.Command) *bool {
	return c.Flags().BoolP("all-namespaces", "A", false, "of all namespaces")
}

// selected tells the pods of a namespace, or of all, with these labels. The daemons do not know labels: the API server is asked.
func (c *cluster) selected(ctx context.Context, all bool, selector string) (func(status.Sandbox) bool, error) {
	within := func(sb status.Sandbox) bool { return all || sb.Namespace == c.here }
	if selector == "" {
		return within, nil
	}
	labelled := map[[2]string]bool{}
	err := list(ctx, c, url.Values{"labelSelector": {selector}}, func(p pod) error {
		labelled[[2]string{p.Metadata.Namespace, p.Metadata.Name}] = true
		return nil
	}, c.podsPath(all)...)
	return func(sb status.Sandbox) bool { return within(sb) && labelled[[2]string{sb.Namespace, sb.Name}] }, err
}

// podsPath is where the API server lists the pods of the namespace, or of all.
func (c *cluster) podsPath(all bool) []string {
	if all {
		return []string{"/api/v1", "pods"}
	}
	return []string{"/api/v1/namespaces", c.here, "pods"}
}

func (c *cluster) pods(command *cobra.Command, chosen func(status.Sandbox) bool) error {
	heads := []column{{"NAMESPACE", 14}, {"NAME", 32}, {"NODE", 0}, {"OUTCOME", 11}, {"AGE", 4}, {"MESH", 7}, {"REASON", 14}}
	if c.output == "wide" {
		heads = append(heads, column{"PLAN", 16}, column{"BACKEND", 12}, column{"SOURCE", 13})
	}
	heads = append(heads, column{"WHY", 0})
	shown := newTable(command.OutOrStdout(), c.output, heads)
	found := []member{}
	var sum tally
	silent, err := ask(command, c, "", shown, func(s status.Status, at place) (pods []member) {
		for _, sb := range s.Sandboxes {
			if chosen(sb) {
				pods = append(pods, memberOf(at.node, sb))
			}
		}
		return pods
	}, func(pods []member) {
		for _, m := range pods {
			sum.add(status.Sandbox{State: m.State})
			cells := []string{m.Namespace, m.Name, m.Node, m.State, status.Ago(time.Now(), m.Since), m.Mesh, m.Reason}
			if c.output == "wide" {
				cells = append(cells, m.Plan, m.Backend, m.Source)
			}
			shown.row(append(cells, m.Why)...)
		}
		if c.output == "json" || c.output == "yaml" {
			found = append(found, pods...)
		}
	})
	if err != nil {
		return err
	}
	slices.SortFunc(found, func(a, b member) int {
		return cmp.Or(cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name), cmp.Compare(a.Node, b.Node))
	})
	unknown := []string{}
	for _, s := range silent {
		unknown = append(unknown, fmt.Sprintf("%s: %s", s.node, s.why))
	}
	if err := shown.document(struct {
		Pods    []member `json:"pods"`
		Unknown []string `json:"unknownNodes"`
	}{found, unknown}); err != nil {
		return err
	}
	return verdict(command, silent, sum)
}
