// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

// happened is an event, and where.
type happened struct {
	Node string `json:"node"`
	status.Event
}

// eventsPause is how often --follow asks.
const eventsPause = 10 * time.Second

func eventsCommand(o *options) *cobra.Command {
	c := &cobra.Command{
		Use:   "events",
		Short: "The last events of all nodes, by time; -f goes on",
		Long: "Each daemon remembers its last events of pods of the mesh; on a busy node they may reach back only a few minutes. All are in its\n" +
			"log. -f asks again every ten seconds until it is interrupted, and prints what is new; -o json prints a line for each.\n\n" +
			"Exit 0; 1 a node did not answer, or has no pod of meshnetd; 2 wrong command line.",
		Example: "  kubectl meshnetd events -n shop\n  kubectl meshnetd events -A -f",
		Args:    cobra.NoArgs,
	}
	all := allFlag(c)
	follow := c.Flags().BoolP("follow", "f", false, "go on")
	o.outputFlag(c, "json")
	c.RunE = func(c *cobra.Command, _ []string) error {
		k, err := o.cluster()
		if err != nil {
			return err
		}
		shown := newTable(c.OutOrStdout(), o.output, []column{{"TIME", 20}, {"NODE", 0}, {"EVENT", 16}, {"POD", 32}, {"REASON", 14}, {"MESSAGE", 0}})
		known := map[string]time.Time{} // the last event of each node that was printed
		for {
			silent, err := k.events(c, shown, *all, known)
			if err != nil {
				return err
			}
			if err := verdict(c, silent, tally{}); err != nil && !*follow {
				return err
			}
			if !*follow {
				return nil
			}
			select {
			case <-c.Context().Done():
				return nil
			case <-time.After(eventsPause):
			}
		}
	}
	return c
}

// events prints what is newer than what is known of each node.
func (c *cluster) events(command *cobra.Command, shown *table, all bool, known map[string]time.Time) ([]silence, error) {
	var news []happened
	silent, err := ask(command, c, "", shown, func(s status.Status, at place) (of []happened) {
		for _, e := range s.Recent {
			of = append(of, happened{at.node, e})
		}
		return of
	}, func(of []happened) {
		for _, e := range of {
			if e.Time.After(known[e.Node]) && (all || e.Namespace == c.here) {
				news = append(news, e)
			}
		}
		if len(of) > 0 {
			known[of[0].Node] = of[len(of)-1].Time
		}
	})
	if err != nil {
		return nil, err
	}
	slices.SortStableFunc(news, func(a, b happened) int { return a.Time.Compare(b.Time) })
	for _, e := range news {
		shown.row(e.Time.UTC().Format(time.DateTime), e.Node, e.Event.Event, e.Namespace+"/"+e.Name, e.Reason, e.Message)
		if c.output == "json" {
			text, err := json.Marshal(e)
			if err != nil {
				return nil, err
			}
			fmt.Fprintf(command.OutOrStdout(), "%s\n", text)
		}
	}
	return silent, nil
}
