// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"maps"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// completeTimeout bounds how long a shell waits at a tab.
const completeTimeout = time.Second

// completePods completes the names of the namespace's pods, and the words before those of workloads.
func (o *options) completePods(c *cobra.Command, args []string, word string) ([]cobra.Completion, cobra.ShellCompDirective) {
	if len(args) > 0 {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	names, directive := o.complete(func(k *cluster) []string { return k.podsPath(false) })(c, args, word)
	return append(names, kinds()...), directive
}

// complete completes the names of what the API server lists at a path. Where they cannot be had nothing is offered, and nothing
// is said.
func (o *options) complete(path func(*cluster) []string) cobra.CompletionFunc {
	return func(_ *cobra.Command, _ []string, word string) (names []cobra.Completion, _ cobra.ShellCompDirective) {
		k, err := o.cluster()
		if err != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		ctx, cancel := context.WithTimeout(context.Background(), completeTimeout)
		defer cancel()
		_ = list(ctx, k, url.Values{}, func(object struct {
			Metadata metadata `json:"metadata"`
		}) error {
			if strings.HasPrefix(object.Metadata.Name, word) {
				names = append(names, object.Metadata.Name)
			}
			return nil
		}, path(k)...)
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}

// at is a path that does not depend on the namespace.
func at(path ...string) func(*cluster) []string { return func(*cluster) []string { return path } }

// completeContexts completes the contexts of the kubeconfig.
func (o *options) completeContexts(*cobra.Command, []string, string) ([]cobra.Completion, cobra.ShellCompDirective) {
	config, err := o.kube.ToRawKubeConfigLoader().RawConfig()
	if err != nil {
		return nil, cobra.ShellCompDirectiveNoFileComp
	}
	return slices.Sorted(maps.Keys(config.Contexts)), cobra.ShellCompDirectiveNoFileComp
}
