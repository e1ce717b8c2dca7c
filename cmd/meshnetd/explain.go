// SPDX-License-Identifier: Apache-2.0

package main

import (
	"encoding/json"
	"errors"
	"io"

	"github.com/spf13/cobra"

	"github.com/meshnetd/meshnetd/explain"
	"github.com/meshnetd/meshnetd/rules"
	"github.com/meshnetd/meshnetd/status"
)

func explainCommand() *cobra.Command {
	c := &cobra.Command{
		Use:   "explain NAMESPACE/POD | SANDBOX-ID | -f POD",
		Short: "Say why a pod is treated as it is: each decision, setting and rule, and what is not captured",
		Long: "Asks the running daemon about a pod of the mesh on this node; with -f decides about a manifest by the configuration,\n" +
			"without a daemon and without privileges. Shown are how it was decided, where each setting comes from (an annotation,\n" +
			"a container's argument or environment, a line of the configuration, or the built-in default), what of the pod's traffic\n" +
			"does not go through its proxy, with a command that shows it, and each rule with its reason.\n\n" +
			"Exit 0 for a pod that is redirected or left alone; 1 no such pod, no daemon, or no right to ask it; 2 wrong command\n" +
			"line or configuration; 3 the pod, or a container of it, is refused.",
		Example: "  meshnetd explain shop/cart-7d4b9\n  meshnetd explain -f pod.yaml --config meshnetd.toml\n" +
			"  meshnetd explain shop/cart-7d4b9 --json | jq -r '.notCaptured[].what'\n" +
			"  meshnetd explain -f pod.yaml -o svg --packet 'tcp 203.0.113.10:443' >pod.svg",
		Args: cobra.MaximumNArgs(1),
	}
	file := c.Flags().StringP("file", "f", "", "Pod manifest `POD`, YAML or JSON; - is standard input; without a daemon")
	asJSON := c.Flags().Bool("json", false, "print the explanation as JSON")
	output := c.Flags().StringP("output", "o", "text", "`FORMAT`: text, json, svg (a picture of the rules) or dot (the same, for Graphviz)")
	packet := c.Flags().String("packet", "", "light up the way of this `PACKET` in the picture: the arguments of meshnetd trace, such as \"tcp 203.0.113.10:443\"")
	ask := askingFlags(c)
	c.MarkFlagsMutuallyExclusive("json", "output")
	completeWords(c, "output", "text", "json", "svg", "dot")
	c.ValidArgsFunction = ask.pods
	c.RunE = func(c *cobra.Command, args []string) error {
		if *asJSON {
			*output = "json"
		}
		print, err := explaining(*output, *packet)
		if err != nil {
			return err
		}
		x, err := ask.explanation(c, *file, args)
		if err != nil {
			return err
		}
		if err := print(c.OutOrStdout(), x); err != nil {
			return err
		}
		if x.refused {
			return &exit{exitRefused, errSaid}
		}
		return nil
	}
	return c
}

var errWhichPod = errors.New("name a pod as NAMESPACE/POD, as in `meshnetd explain shop/cart`, or a manifest by -f, and not both")

// explained is an explanation, whether the pod or a container of it is refused, and the pod's interfaces for who asks
// for them.
type explained struct {
	status.Explanation
	refused    bool
	interfaces func() ([]rules.Interface, error)
}

func (a asking) explanation(c *cobra.Command, file string, args []string) (x explained, err error) {
	switch {
	case (file == "") != (len(args) == 1):
		return x, errWhichPod
	case file != "":
		cfg, pod, err := a.manifest(c, file)
		if err != nil {
			return x, err
		}
		v := explain.Decided(cfg, pod, explain.Node(cfg).Explain(pod))
		x.Explanation, x.refused = explain.Of(v, explain.Assumed(pod.IPs)).Complete(), v.Refused()
		x.interfaces = func() ([]rules.Interface, error) { return explain.Assumed(pod.IPs), nil }
		return x, nil
	}
	socket, sb, err := a.sandbox(c.Context(), args[0])
	if err != nil {
		return x, err
	}
	if x.Explanation, err = status.Explain(c.Context(), socket, sb.ID); err != nil {
		return x, &exit{exitFailed, err}
	}
	x.refused = x.Action == string(rules.Reject)
	x.interfaces = func() ([]rules.Interface, error) {
		told, err := status.ReadPlan(c.Context(), socket, sb.ID)
		if err != nil {
			return nil, err
		}
		return explain.InterfacesOf(told)
	}
	return x, nil
}

func printDocument[T any](w io.Writer, document T) error {
	out := json.NewEncoder(w)
	out.SetIndent("", "  ")
	out.SetEscapeHTML(false) // reasons have quotes in them, and no browser reads this
	return out.Encode(document)
}
