// SPDX-License-Identifier: Apache-2.0

//go:build linux

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/daemon/lifecycle"
	"github.com/meshnetd/meshnetd/status"
)

// watchPause is how often --watch asks.
const watchPause = 2 * time.Second

func statusCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "status [NAMESPACE | NAMESPACE/POD]",
		Short: "Ask the running daemon about the runtime, what it guarantees, and every pod of the mesh",
		Long: "Prints the runtime, what meshnetd guarantees with it and why, counts, the last events, and a line for each pod of the\n" +
			"mesh on this node; pods outside the mesh are not listed. The argument, --namespace, --name and --outcome choose among the\n" +
			"pods, by patterns with * and ?; the rest is of the whole node. --watch asks again every two seconds until it is\n" +
			"interrupted: on a terminal it redraws the table, elsewhere it writes one after the other.\n\n" +
			"Exit 0, also when no pod is chosen or the watch is interrupted; 1 no daemon, or no right to ask it; 2 wrong command\n" +
			"line or configuration.",
		Example: "  meshnetd status\n  meshnetd status 'shop/cart-*'\n  meshnetd status --outcome unprotected,failing\n" +
			"  meshnetd status --watch --namespace shop\n  meshnetd status --json | jq -r '.sandboxes[] | select(.drift.times > 0) | .name'",
		Args: cobra.MaximumNArgs(1),
	}
	var chosen selection
	outcomes := outcomes()
	c.Flags().StringVar(&chosen.namespace, "namespace", "", "only pods of namespaces like `PATTERN`")
	c.Flags().StringVar(&chosen.name, "name", "", "only pods with names like `PATTERN`")
	c.Flags().StringSliceVar(&chosen.outcomes, "outcome", nil, "only pods in one of these `STATES`: "+strings.Join(outcomes, ", "))
	completeWords(c, "outcome", outcomes...)
	asJSON := c.Flags().Bool("json", false, "print what the daemon says, as JSON; with --watch one line each time")
	again := c.Flags().Bool("watch", false, "ask again every two seconds until interrupted")
	ask := askingFlags(c)
	c.ValidArgsFunction = ask.pods
	c.RunE = func(c *cobra.Command, args []string) error {
		if err := chosen.read(args); err != nil {
			return err
		}
		show := func(s status.Status) (string, error) {
			s.Sandboxes = slices.DeleteFunc(s.Sandboxes, func(sb status.Sandbox) bool { return !chosen.has(sb) })
			return showStatus(s, *asJSON, *again)
		}
		if *again {
			return watchStatus(c, ask, watchPause, show)
		}
		_, s, err := ask.status(c.Context())
		if err != nil {
			return err
		}
		text, err := show(s)
		if err != nil {
			return err
		}
		_, err = fmt.Fprint(c.OutOrStdout(), text)
		return err
	}
	return c
}

// showStatus prints for people, or for programs: as one line where more are to come.
func showStatus(s status.Status, asJSON, oneLine bool) (string, error) {
	var out strings.Builder
	switch {
	case !asJSON:
		s.Text(&out, time.Now())
	case oneLine:
		err := json.NewEncoder(&out).Encode(s)
		return out.String(), err
	default:
		err := printDocument(&out, s)
		return out.String(), err
	}
	return out.String(), nil
}

// selection is which pods are to be shown.
type selection struct {
	namespace, name string // patterns; "" is all
	outcomes        []string
}

// read takes the argument as well, and returns what is wrong with the command line.
func (s *selection) read(args []string) error {
	if len(args) == 1 {
		if s.namespace != "" || s.name != "" {
			return errors.New("name pods by an argument, as in `meshnetd status 'shop/cart-*'`, or by --namespace and --name, not both")
		}
		s.namespace, s.name, _ = strings.Cut(args[0], "/")
	}
	for _, pattern := range []string{s.namespace, s.name} {
		if _, err := path.Match(pattern, ""); err != nil || strings.Contains(pattern, "/") {
			return fmt.Errorf("%q is no pattern for a name, such as shop or cart-*: * and ? stand for anything, [a-z] for one of a set", pattern)
		}
	}
	outcomes := outcomes()
	for _, outcome := range s.outcomes {
		if !slices.Contains(outcomes, outcome) {
			return fmt.Errorf("--outcome %q is none of %s", outcome, strings.Join(outcomes, ", "))
		}
	}
	return nil
}

func (s *selection) has(sb status.Sandbox) bool {
	like := func(pattern, name string) bool {
		ok, _ := path.Match(pattern, name) // read has checked it
		return pattern == "" || ok
	}
	return like(s.namespace, sb.Namespace) && like(s.name, sb.Name) && (len(s.outcomes) == 0 || slices.Contains(s.outcomes, sb.State))
}

// outcomes are the states that a pod can be in.
func outcomes() []string { return texts(lifecycle.States[:]) }

func texts[T ~string](words []T) []string {
	all := make([]string, len(words))
	for i, word := range words {
		all[i] = string(word)
	}
	return all
}
