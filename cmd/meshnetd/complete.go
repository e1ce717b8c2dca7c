// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/status"
)

// completeTimeout bounds how long a shell waits at a tab.
const completeTimeout = time.Second

// pods completes the names of pods, as the daemon knows them, for the first argument. Where there is no daemon, or
// no right to ask it, there is nothing to offer, and nothing is said: the shell is in the middle of a line.
func (a asking) pods(c *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	socket, err := a.path()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	ctx, cancel := context.WithTimeout(contextOf(c), completeTimeout)
	defer cancel()
	s, err := status.Read(ctx, socket)
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	var names []cobra.Completion
	for _, sb := range s.Sandboxes {
		names = append(names, cobra.CompletionWithDesc(sb.Namespace+"/"+sb.Name, sb.State))
	}
	slices.Sort(names)
	return slices.Compact(names), cobra.ShellCompDirectiveNoFileComp
}

// contextOf returns the command's context; completion may run without one.
func contextOf(c *cobra.Command) context.Context {
	if ctx := c.Context(); ctx != nil {
		return ctx
	}
	return context.Background()
}

// completeWords completes a flag's value from words.
func completeWords(c *cobra.Command, flag string, words ...string) {
	// It fails only for a flag that does not exist.
	_ = c.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}
